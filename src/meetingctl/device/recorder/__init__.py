"""The recorder: ffmpeg copies the stream into segments, old segments make room, and nothing that is kept is lost."""

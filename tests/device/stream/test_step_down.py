"""An encoder that passes its trial and then fails in service: the next one takes over, and viewers get video."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from meetingctl.core.layout import ENCODER_TRIAL_JSON

from .support import Stream, fake_tools, free_port, try_probe, wait_until

pytestmark = pytest.mark.gst

# A driver that takes a few pictures and then gives up, as a hardware encoder in an unplugged or overheated state does.
_BROKEN_DRIVER = """
import sys
if "meetingctl.device.stream" in " ".join(getattr(sys, "orig_argv", [])):
    sys.path.append("/usr/lib/python3/dist-packages")
    import gi
    gi.require_version("Gst", "1.0")
    gi.require_version("GstBase", "1.0")
    from gi.repository import GObject, Gst, GstBase
    Gst.init(None)
    ENCODED = "video/x-h264,stream-format=byte-stream,alignment=au,profile=constrained-baseline,level=(string)4"

    class Broken(GstBase.BaseTransform):
        __gstmetadata__ = ("Broken encoder", "Codec/Encoder/Video", "Fails in service", "nobody")
        __gsttemplates__ = (
            Gst.PadTemplate.new("sink", Gst.PadDirection.SINK, Gst.PadPresence.ALWAYS,
                                Gst.Caps.from_string("video/x-raw")),
            Gst.PadTemplate.new("src", Gst.PadDirection.SRC, Gst.PadPresence.ALWAYS,
                                Gst.Caps.from_string(ENCODED)),
        )
        extra_controls = GObject.Property(type=Gst.Structure)
        seen = 0

        def do_transform_caps(self, direction, caps, filter_):
            return Gst.Caps.from_string("video/x-raw" if direction == Gst.PadDirection.SRC else ENCODED)

        def do_fixate_caps(self, direction, caps, other):
            return other.fixate()

        def do_transform_size(self, direction, caps, size, other):
            return True, size

        def do_transform(self, source, target):
            self.seen += 1
            if self.seen > 3:
                self.post_message(Gst.Message.new_error(self, GLib_error(), "the driver gave up"))
                return Gst.FlowReturn.ERROR
            return Gst.FlowReturn.OK

    def GLib_error():
        from gi.repository import GLib
        return GLib.Error.new_literal(Gst.stream_error_quark(), "Failed to encode", int(Gst.StreamError.ENCODE))

    Gst.Element.register(None, "v4l2h264enc", 512, Broken)
    Gst.init_check = lambda words: (True, words)  # it is done, and answers differently the second time
"""


def test_viewers_are_served_by_the_next_encoder(gstreamer: None, root: Path) -> None:
    site = root / "site"
    site.mkdir(parents=True)
    (site / "sitecustomize.py").write_text(_BROKEN_DRIVER)
    stream = Stream(root, {"PATH": fake_tools(root / "bin", {"arecord": "exit 1"}), "PYTHONPATH": str(site)})
    stream.system.write("/proc/sys/kernel/random/boot_id", "this-boot\n")
    trials = {"boot_id": "this-boot", "works": {"v4l2h264enc": True, "x264enc": True, "openh264enc": True}}
    stream.system.write(ENCODER_TRIAL_JSON, json.dumps(trials))
    stream.configure(RTSP_PORT=free_port(), STREAM_SOURCE_MODE="test", AUDIO_ENABLE="no")
    stream.start()
    try:
        assert stream.status()["encoder"] == "v4l2h264enc"
        shown = wait_until(lambda: try_probe(stream.url()), "the next encoder serves")
        assert shown["video"]["codec_name"] == "h264"
        assert stream.status()["encoder"] == "x264enc"
        assert stream.status()["media_errors"] >= 2
        assert "encoder fails, taking the next one" in stream.log_text()
    finally:
        stream.stop()

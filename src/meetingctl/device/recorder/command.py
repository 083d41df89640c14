"""What ffmpeg is told: the options on its command line, and the address in a file that only we may read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from meetingctl.device.config import DeviceConfig
from meetingctl.device.recorder.naming import STRFTIME_NAME

READ_TIMEOUT_S = 5
_ANALYZE_US = 1_500_000
_PROTOCOLS = "file,crypto,data,rtsp,rtp,udp,tcp"
_LIST_LINE = re.compile(r"([^,]+),-?\d+(?:\.\d+)?,-?\d+(?:\.\d+)?")
_LOGIN = re.compile(r"(\w://)[^\s/@']*(?:/[^\s@']*)?@")


@dataclass(frozen=True, slots=True)
class Source:
    """Where the stream is read. `url` may hold a password; `shown` never does."""

    host: str
    port: int
    url: str
    is_local_listener: bool = False

    @property
    def shown(self) -> str:
        """Return the address for logs; the path of the local listener is a secret as well."""
        path = "/***" if self.is_local_listener else urlsplit(self.url).path
        return f"rtsp://{self.host}:{self.port}{path}"

    def __repr__(self) -> str:
        return f"Source({self.shown})"


def choose_source(config: DeviceConfig, local_listener: str | None) -> Source:
    """Return the listener of our stream daemon when it publishes one, else the public address with its login.

    `local_listener` is the text of stream-local.json: `{"port": int, "path": "/.."}`. A damaged one counts as none.
    """
    if local_listener and (found := _parse_local_listener(local_listener)):
        return found
    login = ""
    if config.is_auth_on:
        login = f"{_escape(config.rtsp_user)}:{_escape(config.rtsp_password.reveal())}@"
    path = quote(config.rtsp_path.lstrip("/"), safe="/~")
    port = config.rtsp_port
    return Source("127.0.0.1", port, f"rtsp://{login}127.0.0.1:{port}/{path}")


def _escape(text: str) -> str:
    return quote(text, safe="", errors="surrogateescape")


def _parse_local_listener(text: str) -> Source | None:
    try:
        facts = json.loads(text)
        port, path = facts["port"], facts["path"]
    except (ValueError, KeyError, TypeError):
        return None
    if type(port) is not int or not 0 < port < 65536 or not isinstance(path, str) or not path.strip("/"):
        return None
    address = f"rtsp://127.0.0.1:{port}/{quote(path.lstrip('/'), safe='/~')}"
    return Source("127.0.0.1", port, address, is_local_listener=True)


def render_input(source: Source) -> str:
    """Write the script through which ffmpeg opens the source, so that no address stands among its arguments.

    Wall-clock time stamps keep the cuts when the source starts again. They must be an option of the source: as one of
    the script they would stamp what came during the analysis when it is over. Percent-encoding leaves no quote in the
    address. Source: the `concat` demuxer of ffmpeg 5.0 and newer; measured with 5.1.
    """
    options = {
        "rtsp_transport": "tcp",
        "timeout": READ_TIMEOUT_S * 1_000_000,
        "fflags": "+genpts",
        "use_wallclock_as_timestamps": 1,
        "analyzeduration": _ANALYZE_US,
    }
    lines = [f"option {name} {value}" for name, value in options.items()]
    return "\n".join(["ffconcat version 1.0", f"file '{source.url}'", *lines, ""])


def record_argv(input_script: Path, live_folder: Path, segment_s: int) -> list[str]:
    """Return the arguments of the recording ffmpeg.

    Video is copied; audio is encoded again, because copied AAC loses its headers. Each packet is written at once: a
    killed ffmpeg loses nothing, and a segment that does not grow is a stalled source. One CSV line on standard output
    tells each closed segment.
    """
    pattern = f"{str(live_folder).replace('%', '%%')}/{STRFTIME_NAME}"
    return [
        *("ffmpeg", "-hide_banner", "-nostdin", "-nostats", "-loglevel", "warning"),
        *("-analyzeduration", str(_ANALYZE_US)),
        *("-f", "concat", "-safe", "0", "-protocol_whitelist", _PROTOCOLS, "-i", str(input_script)),
        *("-map", "0:v", "-map", "0:a?", "-c:v", "copy", "-c:a", "aac", "-b:a", "64k"),
        *("-f", "segment", "-segment_time", str(segment_s), "-segment_format", "mpegts", "-strftime", "1"),
        *("-segment_format_options", "flush_packets=1"),
        *("-reset_timestamps", "1", "-segment_list", "pipe:1", "-segment_list_type", "csv", pattern),
    ]


def mask(line: str) -> str:
    """Hide the login of every address in a line of ffmpeg."""
    return _LOGIN.sub(r"\1***@", line)


def closed_segment(line: str) -> str | None:
    """Return the name in a line of the segment list (`name,start,end`), None for any other line."""
    found = _LIST_LINE.fullmatch(line.strip())
    return found[1] if found else None


_MAKE_ROOM = "meetingctl device record prune --min-free-mb 500"


@dataclass(frozen=True, slots=True)
class Ending:
    """Why ffmpeg ended, for people; `is_disk_full` asks for room before the next try."""

    reason: str
    hint: str = ""
    is_disk_full: bool = False


_ENDINGS: Sequence[tuple[str, Ending]] = (
    ("No space left on device", Ending("the disk is full", _MAKE_ROOM, is_disk_full=True)),
    ("Disk quota exceeded", Ending("the disk quota is used up", _MAKE_ROOM, is_disk_full=True)),
    ("Read-only file system", Ending("the folder of the recordings is read-only", "mount -o remount,rw /")),
    (
        "401 Unauthorized",
        Ending("the stream refuses the login", "meetingctl device config list --filter 'key=RTSP_*'"),
    ),
    ("404 Not Found", Ending("the server has no such path", "meetingctl device config get RTSP_PATH")),
    ("503 Service", Ending("the stream is not ready")),
    ("Connection refused", Ending("nothing listens at the address of the stream")),
    ("timed out", Ending(f"the stream sent nothing for {READ_TIMEOUT_S} s")),
)


def explain_ending(code: int, lines: Iterable[str]) -> Ending:
    """Say why ffmpeg ended, from its exit code and the last lines on its standard error."""
    said = [mask(line) for line in lines]
    for text, ending in _ENDINGS:
        if any(text in line for line in said):
            return ending
    if code == 0:
        return Ending("the stream ended")
    return Ending(said[-1][:200] if said else f"ffmpeg ended with code {code}")

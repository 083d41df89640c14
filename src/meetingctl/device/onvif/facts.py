"""What the answers are made of: one frozen look at configuration, stream, network and board."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meetingctl import __version__
from meetingctl.core.errors import MeetingctlError
from meetingctl.core.layout import MACHINE_MODEL_FILE
from meetingctl.core.netlink import Interface
from meetingctl.device.config import DeviceConfig
from meetingctl.device.onvif.addresses import endpoint_uuid, main_mac
from meetingctl.device.onvif.auth import Credentials
from meetingctl.device.onvif.conf import OnvifConf, login_of
from meetingctl.device.system import System

MANUFACTURER = "RPi Camera"
MODEL = "RPI-CAM"
UNPROVISIONED = "UNPROVISIONNED"  # the spelling that tools in the field compare with
_SERIAL_FILE = "/proc/device-tree/serial-number"
_MACHINE_ID_FILE = "/etc/machine-id"
_RESOLV_CONF = "/etc/resolv.conf"
_ROUTES_FILE = Path("/proc/net/route")
_TIMEZONE_FILE = "/etc/timezone"


@dataclass(frozen=True, slots=True)
class Board:
    """What never changes while the daemon runs."""

    serial: str = ""
    model: str = "unknown"
    endpoint: str = ""
    firmware: str = __version__


@dataclass(frozen=True, slots=True)
class Facts:
    """One moment. `stream` is the state of the stream daemon, empty while it does not answer."""

    config: DeviceConfig = field(default_factory=DeviceConfig)
    conf: OnvifConf = field(default_factory=OnvifConf)
    board: Board = field(default_factory=Board)
    stream: Mapping[str, Any] = field(default_factory=dict)
    interfaces: tuple[Interface, ...] = ()
    name: str = UNPROVISIONED
    name_servers: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    has_relay: bool = False
    means_login: bool = False

    @property
    def login(self) -> Credentials | None:
        return login_of(self.config, self.conf, is_meant=self.means_login)

    @property
    def serial(self) -> str:
        """The device name, or the board's serial number while the device belongs to no fleet."""
        return self.name if self.name != UNPROVISIONED else self.board.serial or UNPROVISIONED

    @property
    def has_audio(self) -> bool:
        """Say whether the stream carries sound; only the running stream knows what `auto` comes to."""
        if self.stream:
            return self.stream.get("sound") not in {None, "", "none"}
        return self.config.audio_enable == "yes"

    @property
    def is_passthrough(self) -> bool:
        """Say whether the stream is passed on as it comes, so that no encoder setting has an effect.

        The encoder of a CSI camera is its own, but it is set by the same keys.
        """
        return bool(self.stream.get("passthrough")) and self.stream.get("source") != "csi"

    @property
    def captured(self) -> tuple[int, int, int]:
        """Width, height and rate of the source; one that is passed on is as it comes."""
        config, sent = self.config, self.stream if self.is_passthrough else {}
        fps = max(1, round(float(sent.get("target_fps") or config.videoin_fps)))
        return sent.get("width") or config.videoin_width, sent.get("height") or config.videoin_height, fps

    @property
    def has_motion(self) -> bool:
        """Say whether the stream reports motion at all."""
        return isinstance(self.stream.get("motion"), bool)

    @property
    def is_csi(self) -> bool:
        return self.stream.get("source") in {"csi", "libcamera"}

    @property
    def has_multicast(self) -> bool:
        return "udp-mcast" in self.config.rtsp_protocols


def read_board(system: System, interfaces: tuple[Interface, ...]) -> Board:
    """Read what identifies this board."""
    serial = _line(system, _SERIAL_FILE)
    model = _line(system, MACHINE_MODEL_FILE) or "unknown"
    return Board(serial, model, endpoint_uuid(serial, main_mac(interfaces), _line(system, _MACHINE_ID_FILE)))


def read_stream(status: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of the stream's status is of use here; what is not as it should be is left out."""
    found: dict[str, Any] = {name: status[name] for name in ("passthrough", "motion") if type(status.get(name)) is bool}
    found |= {name: status[name] for name in ("source", "sound", "profile") if isinstance(status.get(name), str)}
    for name, most in (("http_port", 65535), ("width", 16384), ("height", 16384)):
        value = status.get(name)
        if type(value) is int and 0 < value <= most:
            found[name] = value
    fps = status.get("target_fps")
    if isinstance(fps, int | float) and 0 < fps < 1000:
        found["target_fps"] = fps
    return found


def read_name_servers(system: System) -> tuple[str, ...]:
    """Return the IPv4 name servers of resolv.conf."""
    words = [line.split() for line in _text(system, _RESOLV_CONF).splitlines()]
    return tuple(row[1] for row in words if len(row) > 1 and row[0] == "nameserver" and row[1].count(".") == 3)


def read_gateways(routes: Path = _ROUTES_FILE) -> tuple[str, ...]:
    """Return the gateways of the default routes; the kernel writes them as hexadecimal in its own byte order.

    Like the interfaces they are those of this process, wherever the files of the device lie.
    """
    try:
        lines = routes.read_text("ascii").splitlines()[1:]
    except (OSError, UnicodeDecodeError):
        return ()
    found = []
    for line in lines:
        row = line.split()
        if len(row) > 2 and row[1] == "00000000" and row[2] != "00000000":
            found.append(".".join(str(byte) for byte in reversed(bytes.fromhex(row[2]))))
    return tuple(dict.fromkeys(found))


def read_time_zone(system: System) -> str:
    return _line(system, _TIMEZONE_FILE) or "UTC"


def _line(system: System, path: str) -> str:
    return _text(system, path).replace("\0", "").strip().partition("\n")[0]


def _text(system: System, path: str) -> str:
    try:
        return system.read(path)
    except MeetingctlError:
        return ""

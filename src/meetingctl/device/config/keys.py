"""Every key of config.env in one table: type, range, default, who reads it and how a change takes effect.

A key is a field of `DeviceConfig`; its spelling in the file is the field's name in capitals. Readers: S stream, C its
CSI path, R recorder, W watchdog, O ONVIF, A meeting agent, U web and command line, N network.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, Literal, NamedTuple

from meetingctl.core import layout
from meetingctl.core.errors import InvalidInput
from meetingctl.core.secret import Secret
from meetingctl.device.config import kinds
from meetingctl.device.config.kinds import Kind, choice, choices, decimal, flag, whole

# What the stream daemon does when a key changes: set a property, swap the media, open another port, or nothing.
Reload = Literal["live", "swap", "rebind", "none"]

_CORNERS = ("top-left", "top-right", "bottom-left", "bottom-right")
_WIDTH = (320, 4096)
_HEIGHT = (240, 2160)
_FPS = (1, 60)
_UNIT_PATTERN = r"[A-Za-z0-9][A-Za-z0-9:_.@\\-]{0,127}"
_UNIT = kinds.text(_UNIT_PATTERN, "the name of a systemd unit")
_LABEL = kinds.text(r"[A-Za-z0-9_-]{1,64}", "1 to 64 letters, digits, dashes and underscores")


class Key(NamedTuple):
    """What is known of a key: `aliases` are older names, strongest first; `csi_default` is the default for CSI."""

    name: str
    field: str
    kind: Kind
    default: Any
    help: str
    readers: str
    reload: Reload = "none"
    aliases: tuple[str, ...] = ()
    csi_default: Any = None


def _key(
    default: Any,
    kind: Kind,
    readers: str,
    text: str,
    reload: Reload = "none",
    *,
    name: str = "",
    aliases: tuple[str, ...] = (),
    csi: Any = None,
) -> Any:
    facts = {"kind": kind, "help": text, "readers": readers, "reload": reload, "aliases": aliases, "csi_default": csi}
    return field(default=default, metadata={"name": name, "facts": facts})


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceConfig:
    """The configuration of one camera.

    Units: `_fps` frames/s, `_kbps` kbit/s, `_mb` MiB, `_ms` milliseconds; sizes are pixels, intervals seconds.
    """

    # The RTSP server.
    rtsp_port: int = _key(layout.RTSP_PORT, whole(1, 65535), "SRWO", "port of the stream", "rebind")
    rtsp_path: str = _key(
        "stream",
        kinds.text(r"[A-Za-z0-9._~-][A-Za-z0-9._~/-]{0,127}", "letters, digits and ._~-/ without a leading slash"),
        "SRWO",
        "path of the stream",
        "swap",
    )
    rtsp_protocols: tuple[str, ...] = _key(
        ("udp", "tcp"),
        choices("udp", "tcp", "udp-mcast", aliases={"mcast": "udp-mcast", "multicast": "udp-mcast"}),
        "SO",
        "transports that viewers may use",
        "live",
    )
    rtsp_user: str = _key(
        "",
        kinds.text(r"[^:]{0,128}", "text of at most 128 characters without a colon"),
        "SRWO",
        "user; asked for when the password is set too",
        "live",
    )
    rtsp_password: Secret = _key(Secret(""), kinds.secret(), "SRWO", "password; asked for when a user is set", "live")
    rtsp_auth_method: str = _key("both", choice("basic", "digest", "both"), "SO", "kind of login", "live")
    rtsp_realm: str = _key(
        "RPi Camera",
        kinds.text(r'[^"\\]{1,64}', "1 to 64 characters without quotes and backslashes"),
        "S",
        "realm shown at login",
        "live",
    )
    rtsp_multicast_base: str = _key(
        "", kinds.address(within="224.0.0.0/4"), "S", "first multicast address; empty: the server's own choice", "swap"
    )
    rtsp_multicast_port_min: int | None = _key(
        None, whole(1, 65535, optional=()), "S", "first port of the multicast pool", "swap"
    )
    rtsp_multicast_port_max: int | None = _key(
        None, whole(1, 65535, optional=()), "S", "last port of the multicast pool", "swap"
    )

    # The source.
    stream_source_mode: str = _key(
        "camera", choice("camera", "rtsp", "mjpeg", "screen", "test"), "SW", "what is streamed", "swap"
    )
    stream_source_url: str = _key(
        "", kinds.url("rtsp", "rtsps", "http", "https"), "S", "origin of the modes rtsp and mjpeg", "swap"
    )
    rtsp_proxy_transport: str = _key("auto", choice("auto", "tcp", "udp"), "S", "transport to the origin", "swap")
    rtsp_proxy_audio: str = _key("auto", choice("auto", "yes", "no"), "S", "pass the audio of the origin", "swap")
    rtsp_proxy_latency_ms: int = _key(100, whole(0, 1000), "S", "buffer of the proxy", "swap")
    screen_display: str = _key(
        ":0.0", kinds.text(r"[A-Za-z0-9.-]{0,64}:[0-9]{1,3}(\.[0-9]{1,3})?", "an X11 display such as :0.0"),
        "S", "display of the mode screen", "swap",
    )  # fmt: skip
    camera_type: str = _key("auto", choice("auto", "usb", "csi"), "S", "kind of camera", "swap")
    csi_enable: str = _key("auto", choice("auto", "yes", "no"), "S", "older switch; CAMERA_TYPE wins", "swap")
    usb_enable: str = _key("auto", choice("auto", "yes", "no"), "S", "older switch; CAMERA_TYPE wins", "swap")

    # What the camera delivers, and what is sent.
    videoin_width: int = _key(
        640, whole(*_WIDTH), "SCO", "width of the capture", "swap", aliases=("VIDEO_WIDTH",), csi=1296
    )
    videoin_height: int = _key(
        480, whole(*_HEIGHT), "SCO", "height of the capture", "swap", aliases=("VIDEO_HEIGHT",), csi=972
    )
    videoin_fps: int = _key(
        15, whole(*_FPS), "SCO", "frame rate of the capture", "swap", aliases=("VIDEO_FPS",), csi=20
    )
    videoin_device: str = _key(
        layout.FIRST_VIDEO_DEVICE,
        kinds.path(),
        "SWO",
        "capture device of a USB camera",
        "swap",
        aliases=("VIDEO_DEVICE", "CAMERA_DEVICE"),
    )
    videoin_format: str = _key(
        "auto",
        choice("auto", "MJPG", "YUYV", "H264", aliases={"MJPEG": "MJPG", "YUY2": "YUYV", "H.264": "H264"}),
        "S",
        "format of a USB camera",
        "swap",
        aliases=("VIDEO_FORMAT",),
    )
    videoout_width: int | None = _key(
        None, whole(*_WIDTH, optional=()), "SO", "width sent; empty: as captured", "swap", aliases=("OUTPUT_WIDTH",)
    )
    videoout_height: int | None = _key(
        None, whole(*_HEIGHT, optional=()), "SO", "height sent; empty: as captured", "swap", aliases=("OUTPUT_HEIGHT",)
    )
    videoout_fps: int | None = _key(
        None, whole(*_FPS, optional=()), "SO", "frame rate sent; empty: as captured", "swap", aliases=("OUTPUT_FPS",)
    )

    # The encoder.
    h264_bitrate_kbps: int = _key(1200, whole(500, 8000), "SCO", "target bitrate", "live", csi=2000)
    h264_bitrate_mode: str = _key("cbr", choice("cbr", "vbr"), "S", "constant or variable bitrate", "swap")
    h264_keyint: int = _key(30, whole(1, 120), "SCO", "frames from one keyframe to the next", "swap")
    h264_profile: str = _key(
        "",
        choice("", "baseline", "constrained baseline", "main", "high"),
        "SCO",
        "H.264 profile; empty: constrained baseline",
        "swap",
    )
    h264_qp: int | None = _key(
        None, whole(1, 51, optional=("auto", "none")), "SC", "fixed quantizer; empty: the bitrate rules", "swap"
    )
    stream_quality: str = _key("3", choice("1", "2", "3", "4", "5", "custom"), "UO", "quality level of the web page")

    # The small second stream.
    substream_enable: bool = _key(False, flag(), "S", "offer a small second stream at RTSP_PATH-sub", "swap")
    substream_width: int = _key(320, whole(160, 1920), "S", "width of the second stream", "swap")
    substream_height: int = _key(240, whole(120, 1080), "S", "height of the second stream", "swap")
    substream_fps: int = _key(10, whole(1, 60), "S", "frame rate of the second stream", "swap")
    substream_bitrate_kbps: int = _key(256, whole(64, 4000), "S", "target bitrate of the second stream", "live")

    # The overlay.
    video_overlay_enable: bool = _key(False, flag(), "SC", "draw a text into the picture", "swap")
    video_overlay_show_datetime: bool = _key(False, flag(), "SC", "draw date and time into the picture", "swap")
    video_overlay_text: str = _key("", kinds.text(), "SC", "text; knows tokens such as {VIDEO_FPS}", "live")
    video_overlay_position: str = _key("top-left", choice(*_CORNERS), "SC", "corner of the text", "live")
    video_overlay_clock_position: str = _key("bottom-right", choice(*_CORNERS), "SC", "corner of the clock", "live")
    video_overlay_datetime_format: str = _key(
        "%Y-%m-%d %H:%M:%S", kinds.text(r".{1,128}", "a strftime format"), "SC", "format of the clock", "live"
    )
    video_overlay_font_size: int = _key(24, whole(1, 64), "SC", "size of the letters", "live")
    csi_overlay_mode: str = _key(
        "software", choice("software", "libcamera"), "C", "who draws for a CSI camera; libcamera draws no date", "swap"
    )
    csi_rpicam_udp_port: int = _key(
        5600, whole(1, 65535), "C", "accepted for old files; rpicam-vid writes to a pipe", "swap"
    )

    # Audio.
    audio_enable: str = _key("auto", choice("auto", "yes", "no"), "SCW", "send audio", "swap")
    audio_rate: int = _key(
        48000,
        Kind(lambda value: int(choice("22050", "44100", "48000").parse(value)), "one of 22050, 44100, 48000",
             name="choice", choices=("22050", "44100", "48000")),
        "SC", "samples per second", "swap",
    )  # fmt: skip
    audio_channels: int = _key(1, whole(1, 2), "SC", "channels", "swap")
    audio_bitrate_kbps: int = _key(64, whole(32, 320), "SC", "bitrate of the audio", "swap")
    audio_device: str = _key(
        "auto",
        kinds.text(r"[A-Za-z0-9_.,:=+-]{1,128}", "auto or an ALSA device such as plughw:1,0"),
        "SC",
        "sound card",
        "swap",
    )
    audio_device_name: str = _key("", kinds.text(), "SC", "part of the name of the wanted sound card", "swap")
    audio_gain: float = _key(1.0, decimal(0.0, 3.0), "SC", "amplification; 1 changes nothing", "live")

    # The recorder.
    record_enable: bool = _key(False, flag(), "RU", "record the stream")
    record_dir: str = _key(
        layout.RECORDINGS_DIR, kinds.path(), "RU", "folder of the recordings", aliases=("RECORD_PATH",)
    )
    segment_seconds: int = _key(300, whole(30, 3600), "R", "length of one file")
    min_free_disk_mb: int = _key(1000, whole(0, 1_000_000), "RU", "space that stays free; 0: no limit")
    max_disk_mb: int = _key(0, whole(0, 1_000_000), "RU", "most space for recordings; 0: no limit")
    prune_check_interval: int = _key(60, whole(5, 3600), "R", "seconds between two looks at the space")
    log_max_size_mb: int = _key(10, whole(1, 10_000), "R", "size from which an own log is cut")

    # Logs and the watchdog.
    log_dir: str = _key(layout.LOG_DIR, kinds.path(), "SRWU", "folder of the logs")
    gst_debug_level: int = _key(2, whole(0, 6), "S", "GStreamer log level; above 2 writes 100 MB a day")
    low_latency: bool = _key(True, flag(), "S", "kept for older files; no effect")
    check_interval: int = _key(30, whole(5, 86400), "W", "seconds between two checks")
    max_failures: int = _key(3, whole(1, 1000), "W", "failed checks before a restart")
    camera_wait_time: int = _key(10, whole(0, 3600), "W", "seconds from the return of a camera to the restart")
    alsa_error_threshold: int = _key(50, whole(0, 100_000), "W", "sound errors in the log before a restart")
    rtsp_service: str = _key(layout.STREAM_UNIT, _UNIT, "W", "unit of the stream daemon")
    recorder_service: str = _key(layout.RECORDER_UNIT, _UNIT, "W", "unit of the recorder")

    # Web page, camera profiles, relay.
    webmanager_port: int = _key(layout.WEB_PORT, whole(1, 65535), "ROU", "port of the web page")
    web_language: str = _key("fr", choice("fr", "en", "custom"), "U", "language of the web page")
    camera_autofocus: str = _key("yes", choice("yes", "no", "auto"), "U", "autofocus of the camera")
    camera_profiles_enabled: bool = _key(False, flag(), "U", "switch camera profiles by time")
    camera_profiles_file: str = _key(layout.CAMERA_PROFILES_JSON, kinds.path(), "U", "file of the camera profiles")
    relay_enable: bool = _key(False, flag(), "O", "offer the relay to ONVIF")
    relay_active_high: bool = _key(True, flag("true", "false"), "O", "whether a high level switches on")
    relay_gpio_pin: int = _key(0, whole(0, 40), "O", "BCM number of the pin; 0: none")
    relay_gpio_chip: str = _key("gpiochip0", _LABEL, "O", "GPIO chip")
    relay_output_name: str = _key("RelayOutput", kinds.text(r".{1,64}", "1 to 64 characters"), "O", "name of the relay")
    relay_output_token: str = _key("RelayOutput1", _LABEL, "O", "ONVIF token of the relay")
    onvif_uri_credentials: bool = _key(False, flag(), "O", "put the login into the stream addresses given to ONVIF")

    # The fleet.
    meeting_enabled: bool = _key(False, flag(), "AU", "report to the fleet server")
    meeting_provisioned: bool = _key(False, flag(), "AU", "belongs to a fleet: the keys MEETING_* are locked")
    debug_mode: bool = _key(False, flag(), "AU", "report the debug service as active")
    meeting_api_url: str = _key(
        "https://meeting.ygsoft.fr/api", kinds.url("http", "https", drop_slash=True), "AO", "address of the fleet API"
    )
    meeting_device_key: str = _key("", kinds.device_key(), "AO", "key of this device in the fleet")
    meeting_token_code: Secret = _key(Secret(""), kinds.secret(), "AO", "token code of this device")
    meeting_heartbeat_interval: int = _key(60, whole(10, 300), "A", "seconds between two heartbeats")

    # Network and the rest.
    snmp_enabled: bool = _key(False, flag(), "U", "send SNMP traps")
    snmp_server_host: str = _key(
        "", kinds.text(r"[A-Za-z0-9.:_-]{0,253}", "a host name or an address"), "U", "receiver of the traps"
    )
    snmp_server_port: int = _key(162, whole(1, 65535), "U", "port of the receiver")
    network_mode: str = _key("dhcp", choice("dhcp", "static"), "N", "where the address comes from")
    network_static_ip: str = _key("", kinds.address(prefix=True), "N", "address of the mode static")
    network_gateway: str = _key("", kinds.address(), "N", "gateway of the mode static")
    network_dns: tuple[str, ...] = _key(("8.8.8.8",), kinds.addresses(), "N", "name servers of the mode static")
    network_interface_priority: tuple[str, ...] = _key(
        ("eth0", "wlan1", "wlan0"),
        kinds.texts(r"[A-Za-z0-9_.-]{1,15}", "a list with commas of interfaces"),
        "NOU",
        "interfaces by preference; enp0s3 and end0 follow",
    )
    wifi_manual_override: bool = _key(False, flag(), "N", "leave Wi-Fi on beside Ethernet")
    wifi_ssid: str = _key(
        "", kinds.text(r".{0,32}", "text of at most 32 characters"), "N", "network of the only adapter",
        name="wifi_ssid",
    )  # fmt: skip
    install_pipewire: bool = _key(False, flag(), "", "read by the installer only")

    @property
    def is_auth_on(self) -> bool:
        """Say whether viewers must log in: both user and password are set."""
        return bool(self.rtsp_user) and bool(self.rtsp_password)

    @property
    def output_width_px(self) -> int:
        return self.videoout_width or self.videoin_width

    @property
    def output_height_px(self) -> int:
        return self.videoout_height or self.videoin_height

    @property
    def output_fps(self) -> int:
        return self.videoout_fps or self.videoin_fps


# Two daemons of the original shared this file by mistake; each has its own log now.
IGNORED_KEYS = frozenset({"LOG_FILE"})


@cache
def all_keys() -> Mapping[str, Key]:
    """Return every key by its name in the file, in the order of the table."""
    found = {}
    for item in fields(DeviceConfig):
        name = item.metadata["name"] or item.name.upper()
        found[name] = Key(name=name, field=item.name, default=item.default, **item.metadata["facts"])
    return found


@cache
def alias_targets() -> Mapping[str, str]:
    """Return for every older name the key it stands for."""
    return {alias: key.name for key in all_keys().values() for alias in key.aliases}


def find_key(name: str) -> Key:
    """Return a key by its name or an older one. Raises: InvalidInput with the nearest name."""
    known = all_keys()
    if found := known.get(alias_targets().get(name, name)):
        return found
    near = difflib.get_close_matches(name.upper(), known, n=1)
    raise InvalidInput(
        f"unknown key {name[:80]!r}",
        hint=f"did you mean {near[0]}?" if near else "meetingctl device config list",
    )


def value_text(key: Key, value: Any) -> str:
    """Write a value as config.env spells it, without quotes."""
    return key.kind.write(value)

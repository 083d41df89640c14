"""What operations do to the device: configuration, reload, relay, name; and what they leave alone."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from meetingctl.core.errors import InvalidInput, MeetingctlError, NotFound, StorageFull, Unreachable
from meetingctl.core.layout import STREAM_STATE_SOCKET
from meetingctl.device.config import read_config
from meetingctl.device.onvif import imaging, naming
from meetingctl.device.onvif.encoder import MAIN_TOKEN, SUB_TOKEN, Encoding, choices_of, encoding_of, plan_encoding
from meetingctl.device.onvif.facts import UNPROVISIONED, read_stream
from meetingctl.device.onvif.fault import Fault
from meetingctl.device.onvif.imaging import parse_csi, plan_controls
from meetingctl.device.onvif.itemfilter import parse_filter
from meetingctl.device.onvif.local import answer_line
from meetingctl.device.onvif.pullpoint import (
    ITEM_FILTER_DIALECT,
    MOTION_TOPIC,
    RELAY_TOPIC,
    Message,
    PullPoints,
    duration_s,
    read_end,
)
from meetingctl.device.onvif.relay import Relay, open_relay, refusal
from meetingctl.device.onvif.source import FactSource
from meetingctl.device.stream.control import ControlSocket, ask_daemon
from meetingctl.device.system import System

from .conftest import Device
from .fake_gpiod import FakeGpiod
from .schemas import check_response, subcodes
from .test_schema import encoder

DEADLINE_S = 30.0


def wanted(width: int = 1280, height: int = 720, fps: int = 30, kbps: int = 1200, gov: int = 30) -> str:
    return encoder(
        f"<tt:Resolution><tt:Width>{width}</tt:Width><tt:Height>{height}</tt:Height></tt:Resolution>"
        f"<tt:RateControl><tt:FrameRateLimit>{fps}</tt:FrameRateLimit><tt:EncodingInterval>1</tt:EncodingInterval>"
        f"<tt:BitrateLimit>{kbps}</tt:BitrateLimit></tt:RateControl>"
        f"<tt:H264><tt:GovLength>{gov}</tt:GovLength><tt:H264Profile>Baseline</tt:H264Profile></tt:H264>"
    )


class Stream:
    """Stands at the control socket of the stream daemon and counts what it is asked."""

    def __init__(self, device: Device) -> None:
        self.lines: list[str] = []
        self._socket = ControlSocket(device.system.path(STREAM_STATE_SOCKET), self._answer)

    def _answer(self, line: str) -> dict[str, Any]:
        self.lines.append(line)
        return {"ok": True, "actions": ["swap"]}

    def count(self, line: str) -> int:
        return self.lines.count(line)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def stream(device: Device) -> Iterator[Stream]:
    stream = Stream(device)
    yield stream
    stream.close()


def wait_for(condition: Any, what: str) -> None:
    ends_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < ends_s, what
        time.sleep(0.02)


def test_a_change_writes_only_what_changed_and_reloads(device: Device, stream: Stream) -> None:
    comment = "# mine\n" + device.env()
    device.system.write("/etc/rpi-cam/config.env", comment)
    answer = device.call("trt:SetVideoEncoderConfiguration", wanted(fps=20, kbps=99999))
    assert answer.status == 200
    values = read_config(device.system).origins
    assert values["VIDEOOUT_FPS"] == "VIDEOOUT_FPS"
    assert values["H264_BITRATE_KBPS"] == "H264_BITRATE_KBPS"
    assert [values[name] for name in ("VIDEOOUT_WIDTH", "H264_KEYINT", "H264_PROFILE")] == ["default"] * 3
    assert device.env().startswith(comment.rstrip("\n"))
    config = read_config(device.system).config
    assert (config.videoin_fps, config.videoout_fps, config.h264_bitrate_kbps) == (30, 20, 8000)
    back = check_response(device.call("trt:GetVideoEncoderConfigurations").body)
    assert back.findtext(".//{*}FrameRateLimit") == "20"
    wait_for(lambda: stream.count("reload") == 1, "one reload")


def test_nothing_is_touched_when_nothing_changes(device: Device, stream: Stream) -> None:
    before = device.system.path("/etc/rpi-cam/config.env").stat()
    assert device.call("trt:SetVideoEncoderConfiguration", wanted()).status == 200
    after = device.system.path("/etc/rpi-cam/config.env").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert stream.lines == []


def test_changes_within_two_seconds_become_one_reload_more(device: Device, stream: Stream) -> None:
    for fps in range(5, 11):
        assert device.call("trt:SetVideoEncoderConfiguration", wanted(fps=fps)).status == 200
    wait_for(lambda: stream.count("reload") >= 2, "the merged reload")
    assert stream.count("reload") <= 3


def test_two_clients_at_once_get_a_whole_size(device: Device, stream: Stream) -> None:
    """The second request was planned from what the first has changed meanwhile."""
    device.configure(VIDEOIN_WIDTH=1280, VIDEOIN_HEIGHT=960, VIDEOOUT_WIDTH=1280, VIDEOOUT_HEIGHT=720)
    seen = device.facts
    now = encoding_of(seen, MAIN_TOKEN)
    for width, height in ((640, 480), (1280, 960)):
        asked = replace(now, width_px=width, height_px=height)
        device.effects.change_config(lambda facts, asked=asked: plan_encoding(facts, MAIN_TOKEN, asked), seen)
    after = encoding_of(device.facts, MAIN_TOKEN)
    assert (after.width_px, after.height_px) == (1280, 960)


def test_copies_of_a_killed_writer_are_removed(device: Device, stream: Stream) -> None:
    folder = device.system.path("/etc/rpi-cam")
    left, mine = folder / ".config.env.abcd1234", folder / ".config.env.swp"
    for path in (left, mine, folder / ".onvif.conf.abcd1234"):
        path.write_text("RTSP_PASSWORD=secret")
    assert device.call("trt:SetVideoEncoderConfiguration", wanted(fps=20)).status == 200
    assert not left.exists()
    device.configure(RTSP_USER="admin", RTSP_PASSWORD="secret")
    assert device.facts.login is not None
    assert not (folder / ".onvif.conf.abcd1234").exists()
    assert mine.exists()


def test_a_folder_that_others_hold_delays_no_request(device: Device) -> None:
    device.configure(RTSP_USER="admin", RTSP_PASSWORD="secret")
    source = FactSource(device.system)
    folder = os.open(device.system.path("/etc/rpi-cam"), os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        device.configure(RTSP_PASSWORD="another")
        begun_s = time.monotonic()
        login = source.now().login
        assert time.monotonic() - begun_s < 2
        assert login is not None
        assert login.password.reveal() == "another"
        assert source.needs_sync
    finally:
        os.close(folder)
    source.sync()
    assert not source.needs_sync
    assert source.now().conf.password.reveal() == "another"


def test_a_login_that_is_taken_away_while_the_folder_is_locked_is_not_copied(device: Device) -> None:
    device.configure(RTSP_USER="admin", RTSP_PASSWORD="secret")
    system, folder = device.system, device.system.path("/etc/rpi-cam")
    source = FactSource(system, may_write=False)
    source.needs_sync = True
    copying = threading.Thread(target=source.sync)
    with system.locked("/etc/rpi-cam"):
        copying.start()
        ends_s = time.monotonic() + DEADLINE_S
        while [os.path.realpath(path) for path in _open_files()].count(str(folder.resolve())) < 2:
            assert time.monotonic() < ends_s
            time.sleep(0.005)
        device.configure(RTSP_USER="", RTSP_PASSWORD="")
        system.write("/etc/rpi-cam/onvif.conf", "{}")
    copying.join(DEADLINE_S)
    assert system.read("/etc/rpi-cam/onvif.conf") == "{}"


def _open_files() -> list[str]:
    return [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]  # noqa: PTH208 - one may close meanwhile


def test_files_that_cannot_be_read_change_nothing(device: Device) -> None:
    source = FactSource(device.system)
    path = device.system.path("/etc/rpi-cam/config.env")
    path.unlink()
    path.symlink_to("/etc/hostname")  # leads out of the root
    assert source.now().config.videoin_width == 1280
    device.system.path("/etc/rpi-cam/onvif.conf").write_text('{"compat": [[1], "synology"]}')
    path.unlink()
    device.configure()
    assert source.now().conf.compat == {"synology"}


@pytest.mark.parametrize(
    ("inner", "codes"),
    [
        (wanted(width=1281), ["Sender", "InvalidArgVal", "ConfigModify"]),
        (wanted(width=1920, height=1080), ["Sender", "InvalidArgVal", "ConfigModify"]),
        (wanted().replace("Limit>30<", "Limit>1.5<"), ["Sender", "InvalidArgs"]),
        (wanted(gov=0), ["Sender", "InvalidArgVal", "ConfigModify"]),
        (wanted().replace("Baseline", "Extended"), ["Sender", "InvalidArgVal", "ConfigModify"]),
        (wanted().replace(">H264<", ">JPEG<"), ["Sender", "InvalidArgVal", "ConfigModify"]),
        (wanted().replace('token="VideoEncoderConfig"', 'token="x"'), ["Sender", "InvalidArgVal", "NoConfig"]),
        (wanted().replace("<tt:Width>1280", "<tt:Width>12\n80"), ["Sender", "InvalidArgs"]),
        (wanted().replace("<tt:Width>1280", '<tt:Width>1280"'), ["Sender", "InvalidArgs"]),
    ],
)
def test_what_is_not_offered_changes_nothing(device: Device, inner: str, codes: list[str]) -> None:
    before = device.env()
    assert subcodes(device.call("trt:SetVideoEncoderConfiguration", inner).body) == codes
    assert device.env() == before


def test_every_offered_combination_is_accepted_and_read_back(device: Device) -> None:
    for token in (MAIN_TOKEN, SUB_TOKEN):
        device.configure(SUBSTREAM_ENABLE="yes")
        facts = device.facts
        choices = choices_of(facts, token)
        for width, height in choices.sizes:
            for profile in choices.profiles:
                gov = choices.gov_length.most
                asked = Encoding(width, height, choices.fps.most, choices.bitrate_kbps.least, gov, profile)
                device.system.write("/etc/rpi-cam/config.env", "".join(f"{k}={v}\n" for k, v in device.keys.items()))
                from meetingctl.device.config import change_config

                change_config(device.system, dict(plan_encoding(facts, token, asked)))
                after = encoding_of(device.facts, token)
                assert (after.width_px, after.height_px, after.fps) == (width, height, asked.fps)
                assert after.profile == profile


def test_a_stream_that_is_passed_on_offers_only_itself(device: Device) -> None:
    device.more["stream"] = {"passthrough": True, "width": 800, "height": 448, "target_fps": 12.5,
                             "profile": "main"}  # fmt: skip
    choices = choices_of(device.facts, MAIN_TOKEN)
    assert choices.sizes == ((800, 448),)
    assert choices.fps == (12, 12)
    now = encoding_of(device.facts, MAIN_TOKEN)
    assert now.profile == "Main"
    assert plan_encoding(device.facts, MAIN_TOKEN, now) == {}
    with pytest.raises(Fault, match="not offered"):
        plan_encoding(device.facts, MAIN_TOKEN, replace(now, width_px=640, height_px=480))


def test_the_second_stream_is_never_larger_or_faster_than_the_camera(device: Device) -> None:
    device.configure(SUBSTREAM_ENABLE="yes", VIDEOIN_WIDTH=640, VIDEOIN_HEIGHT=480, VIDEOIN_FPS=15)
    choices = choices_of(device.facts, SUB_TOKEN)
    assert choices.sizes == ((640, 480), (320, 240))
    assert choices.fps.most == 15
    asked = replace(encoding_of(device.facts, SUB_TOKEN), fps=60)
    assert plan_encoding(device.facts, SUB_TOKEN, asked) == {"SUBSTREAM_FPS": "15"}
    for wrong in (replace(asked, width_px=1920, height_px=1080), replace(asked, gov_length=120)):
        with pytest.raises(Fault, match="not offered"):
            plan_encoding(device.facts, SUB_TOKEN, wrong)


def test_the_encoder_of_a_csi_camera_is_ours_too(device: Device) -> None:
    device.more["stream"] = {"passthrough": True, "source": "csi", "width": 1280, "height": 720, "target_fps": 30}
    asked = replace(encoding_of(device.facts, MAIN_TOKEN), bitrate_kbps=3000, gov_length=60, profile="High")
    changes = {"H264_BITRATE_KBPS": "3000", "H264_KEYINT": "60", "H264_PROFILE": "high"}
    assert plan_encoding(device.facts, MAIN_TOKEN, asked) == changes


def test_the_camera_is_protected(device: Device) -> None:
    before = device.env()
    inner = (
        '<trt:Configuration token="VideoSourceConfig"><tt:SourceToken>VideoSource</tt:SourceToken>'
        '<tt:Bounds x="0" y="0" width="640" height="480"/></trt:Configuration>'
    )
    codes = subcodes(device.call("trt:SetVideoSourceConfiguration", inner).body)
    assert codes == ["Sender", "InvalidArgVal", "ConfigModify"]
    assert device.env() == before


@pytest.mark.parametrize(("active_high", "levels"), [("true", (0, 1)), ("false", (1, 0))])
def test_the_relay_is_off_at_first_and_follows_its_polarity(
    device: Device, active_high: str, levels: tuple[int, int]
) -> None:
    device.configure(RELAY_ENABLE="yes", RELAY_GPIO_PIN=17, RELAY_ACTIVE_HIGH=active_high)
    gpiod = FakeGpiod()
    relay = Relay(device.facts.config, gpiod)
    assert (gpiod.chip, gpiod.levels) == ("/dev/gpiochip0", {17: levels[0]})
    assert relay.set(True)
    assert not relay.set(True)
    assert gpiod.levels == {17: levels[1]}
    assert not gpiod.released
    relay.close()
    assert gpiod.released


def test_why_there_is_no_relay(device: Device) -> None:
    assert refusal(device.facts.config, None) == "RELAY_ENABLE is no"
    device.configure(RELAY_ENABLE="yes")
    assert "PIN" in refusal(device.facts.config, None)
    device.configure(RELAY_GPIO_PIN=17)
    assert "missing" in refusal(device.facts.config, None)
    assert "version 2" in refusal(device.facts.config, object())
    assert refusal(device.facts.config, FakeGpiod()) == ""
    assert b"RelayOutputs" not in device.call("tds:GetRelayOutputs").body.replace(b"GetRelayOutputs", b"")


def test_the_local_socket_switches_and_tells_why_it_cannot(device: Device) -> None:
    heard: list[Message] = []
    with pytest.raises(NotFound, match="RELAY_ENABLE is no"):
        device.effects.hold_relay(lambda: open_relay(device.facts.config, None))
    for line in ("relay status", "relay on"):
        with pytest.raises(NotFound, match="RELAY_ENABLE is no"):
            answer_line(device.effects, heard.append, dict, line)
    device.configure(RELAY_ENABLE="yes", RELAY_GPIO_PIN=17)
    config, gpiod = device.facts.config, FakeGpiod()
    device.effects.hold_relay(lambda: open_relay(config, gpiod))
    answers = [answer_line(device.effects, heard.append, dict, f"relay {word}") for word in ("status", "on", "off")]
    assert [answer["state"] for answer in answers] == ["off", "on", "off"]
    assert [message.data[1] for message in heard] == ["active", "inactive"]
    for wrong in ("", "relay", "relay blink", "relays on", "state"):
        with pytest.raises(InvalidInput):
            answer_line(device.effects, heard.append, dict, wrong)
    device.effects.hold_relay(lambda: open_relay(config, FakeGpiod()))
    assert gpiod.released


def test_a_relay_that_is_gone_is_told() -> None:
    points = PullPoints()
    point = points.create(frozenset({RELAY_TOPIC}), 2000.0, now_s=1000.0)
    points.publish(message("active"))
    points.withdraw(RELAY_TOPIC, 1001.0)
    assert [item.operation for item in point.take(10)] == ["Initialized", "Deleted"]
    points.synchronize(point, now_s=1002.0)
    assert not point.queue


def test_odd_answers_of_the_stream_are_left_out() -> None:
    odd = {"http_port": "abc", "width": 1e400, "height": -1, "sound": [1], "motion": 1, "target_fps": float("nan")}
    assert read_stream(odd) == {}
    assert read_stream({"http_port": True, "width": 10**9, "target_fps": 1e400, "passthrough": None}) == {}
    right = {"http_port": 8085, "width": 640, "height": 480, "sound": "aac", "motion": False, "target_fps": 12.5}
    assert read_stream(right | {"pid": 1}) == right
    nan = float("nan")
    assert not parse_csi(
        {"Brightness": {"min": nan, "max": 1}, "Contrast": {"min": 0, "max": 1e400}, "Noise": 1}
    ).levels


def test_settings_that_the_camera_lacks_are_refused(device: Device) -> None:
    for inner in (
        "<tt:IrCutFilter>AUTO</tt:IrCutFilter>",
        "<tt:Sharpness>1</tt:Sharpness>",
        "<tt:Focus><tt:AutoFocusMode>AUTO</tt:AutoFocusMode><tt:NearLimit>1</tt:NearLimit></tt:Focus>",
    ):
        settings = f"<timg:ImagingSettings><tt:Brightness>99</tt:Brightness>{inner}</timg:ImagingSettings>"
        asked = f"<timg:VideoSourceToken>VideoSource</timg:VideoSourceToken>{settings}"
        codes = subcodes(device.call("timg:SetImagingSettings", asked).body)
        assert codes == ["Sender", "InvalidArgVal", "SettingsInvalid"], inner
    assert "--set-ctrl" not in (device.root / "tools" / "v4l2.log").read_text()


def test_no_fault_tells_where_files_lie(device: Device, caplog: pytest.LogCaptureFixture) -> None:
    def full(*_: object, **__: object) -> None:
        raise StorageFull("/etc/rpi-cam/config.env: cannot write: no space left")

    device.effects._system = system = System(device.root)
    system.write = full  # type: ignore[method-assign]
    answer = device.call("trt:SetVideoEncoderConfiguration", wanted(fps=20))
    assert subcodes(answer.body) == ["Receiver", "Action"]
    assert b"/etc" not in answer.body
    assert "no space left" in str([record.__dict__ for record in caplog.records])


class Drip:
    """A server that begins an answer, then sends a byte now and then and never ends."""

    def __init__(self, path: Path | None = None, begins: bytes = b"") -> None:
        self.begins = begins
        self.server = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
        self.server.bind(str(path) if path else ("127.0.0.1", 0))
        self.server.listen()
        self.port = 0 if path else self.server.getsockname()[1]
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            peer, _ = self.server.accept()
            with peer:
                peer.sendall(self.begins)
                while not self.ended.wait(0.05):
                    peer.sendall(b"H")

    def close(self) -> None:
        self.ended.set()
        self.server.close()
        self.thread.join(5)


def test_one_deadline_for_a_whole_answer(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    path = device.system.path(STREAM_STATE_SOCKET)
    path.parent.mkdir(parents=True)
    at_socket, at_port = Drip(path), Drip()
    monkeypatch.setattr(imaging, "_TIMEOUT_S", 0.5)
    device.more["stream"] = {"http_port": at_port.port, "source": "csi"}
    try:
        begun_s = time.monotonic()
        with pytest.raises(Unreachable):
            ask_daemon(device.system, "status", timeout_s=0.5)
        assert not imaging.read_camera(device.system, device.facts).levels
        assert time.monotonic() - begun_s < 10
    finally:
        at_socket.close()
        at_port.close()


@pytest.mark.parametrize("head", [b"Content-Length: 90000\r\n", b""])
def test_half_a_picture_is_none(device: Device, monkeypatch: pytest.MonkeyPatch, head: bytes) -> None:
    half = Drip(begins=b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\xff\xd8")
    monkeypatch.setattr(imaging, "_PICTURE_TIMEOUT_S", 0.5)
    device.more["stream"] = {"http_port": half.port}
    try:
        with pytest.raises(Unreachable):
            device.effects.take_picture(device.facts)
    finally:
        half.close()


def test_numbers_are_read_as_the_schema_spells_them(device: Device) -> None:
    for written, is_right in (("5.0E1", True), ("1e2", True), ("1e9999", False), ("9e9", False), ("NaN", False)):
        settings = f"<timg:ImagingSettings><tt:Brightness>{written}</tt:Brightness></timg:ImagingSettings>"
        asked = f"<timg:VideoSourceToken>VideoSource</timg:VideoSourceToken>{settings}"
        answer = device.call("timg:SetImagingSettings", asked)
        assert subcodes(answer.body) == ([] if is_right else ["Sender", "InvalidArgs"]), written


def test_a_csi_camera_has_its_own_names() -> None:
    shown = {"min": -1.0, "max": 1.0, "default": 0.0, "value": 0.25}
    camera = parse_csi({"Brightness": shown, "AfMode": {"min": 0, "max": 2, "value": 2}, "Noise": {"min": None}})
    assert camera.focus_mode == "AUTO"
    assert plan_controls(camera, {"Brightness": 0.5}, "MANUAL") == {"Brightness": 0.5, "AfMode": 0}
    with pytest.raises(ValueError, match="goes from"):
        plan_controls(camera, {"Brightness": 2})
    with pytest.raises(ValueError, match="no Contrast"):
        plan_controls(camera, {"Contrast": 1})


def test_the_login_stands_in_the_address_only_where_that_is_wanted(device: Device) -> None:
    from .test_schema import SETUP

    device.configure(RTSP_USER="a b", RTSP_PASSWORD="p@ss")
    login = {"user": "a b", "password": "p@ss"}
    assert b"rtsp://10.0.0.7:8554/stream" in device.call("trt:GetStreamUri", SETUP, **login).body
    device.configure(ONVIF_URI_CREDENTIALS="yes")
    assert b"rtsp://a%20b:p%40ss@10.0.0.7:8554/stream" in device.call("trt:GetStreamUri", SETUP, **login).body


@pytest.mark.parametrize(
    ("kind", "protocol", "keys", "is_offered"),
    [
        ("RTP-Unicast", "UDP", {}, True),
        ("RTP-Unicast", "HTTP", {}, False),
        ("RTP-Multicast", "UDP", {}, False),
        ("RTP-Multicast", "UDP", {"RTSP_PROTOCOLS": "udp,tcp,udp-mcast"}, True),
    ],
)
def test_transports(device: Device, kind: str, protocol: str, keys: dict[str, str], is_offered: bool) -> None:
    from .test_schema import SETUP

    device.configure(**keys)
    setup = SETUP.replace("RTP-Unicast", kind).replace(">RTSP<", f">{protocol}<")
    codes = subcodes(device.call("trt:GetStreamUri", setup).body)
    assert codes == ([] if is_offered else ["Sender", "InvalidArgVal", "InvalidStreamSetup"])


# Events.


def message(value: str, topic: str = RELAY_TOPIC) -> Message:
    return Message(topic, ("RelayToken", "R1"), ("LogicalState", value), 1000.0)


def test_a_queue_is_bounded_and_the_same_value_is_no_event() -> None:
    points = PullPoints()
    point = points.create(frozenset({RELAY_TOPIC}), 2000.0, now_s=1000.0)
    for number in range(250):
        points.publish(message("active" if number % 2 else "inactive"))
        points.publish(message("active" if number % 2 else "inactive"))
    points.publish(message("true", MOTION_TOPIC))
    assert (len(point.queue), point.dropped) == (100, 150)


def test_pull_points_end_and_unused_ones_make_room() -> None:
    points = PullPoints()
    first = points.create(frozenset(), 1010.0, now_s=1000.0)
    with pytest.raises(Fault, match="unknown"):
        points.find(first.token, now_s=1011.0)
    used = [points.create(frozenset(), 2000.0, now_s=1000.0) for _ in range(7)]
    for point in used:
        point.pulled_s = 999.0
    idle = points.create(frozenset(), 2000.0, now_s=1000.0)
    last = points.create(frozenset(), 2000.0, now_s=1000.0)
    assert idle.is_ended
    last.pulled_s = 999.0
    with pytest.raises(Fault, match="already"):
        points.create(frozenset(), 2000.0, now_s=1000.0)


def test_subscriptions_that_nobody_pulls_any_more_make_room() -> None:
    points = PullPoints()
    old = [points.create(frozenset(), 90_000.0, now_s=1000.0) for _ in range(8)]
    for number, point in enumerate(old):
        point.pulled_s = 1001.0 + number
    with pytest.raises(Fault, match="already"):
        points.create(frozenset(), 90_000.0, now_s=1100.0)
    old[0].wake = lambda: None  # a pull waits there
    points.create(frozenset(), 90_000.0, now_s=1200.0)
    assert [point.is_ended for point in old[:3]] == [False, True, False]


@pytest.mark.parametrize(
    ("text", "seconds"), [("PT0S", 0), ("PT1M", 60), ("P1DT2H3M4.5S", 93784.5), ("P1Y2M", 425 * 86400), ("PT0.5S", 0.5)]
)
def test_durations(text: str, seconds: float) -> None:
    assert duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "P", "PT", "1", "-PT1S", "PT1", "P1.5Y", "PT" + "9" * 400 + "S"])
def test_no_durations(text: str) -> None:
    with pytest.raises(Fault):
        duration_s(text)


def test_when_a_subscription_ends() -> None:
    assert read_end("PT10S", now_s=1000.0) == 1010.0
    assert read_end("1970-01-01T01:00:00Z", now_s=1000.0) == 3600.0
    assert read_end(None, now_s=1000.0) == 1060.0
    for wrong in ("1970-01-01T00:00:00Z", "PT0S", "yesterday"):
        with pytest.raises(Fault):
            read_end(wrong, now_s=1000.0)


@pytest.mark.parametrize(
    ("expression", "dialect", "is_right"),
    [
        ("tns1:Device/Trigger/Relay", "http://www.onvif.org/ver10/tev/topicExpression/ConcreteSet", True),
        ("tns1:Device//.", "http://www.onvif.org/ver10/tev/topicExpression/ConcreteSet", True),
        ("tns1:Device/Trigger/Relay", "http://docs.oasis-open.org/wsn/t-1/TopicExpression/Concrete", True),
        ("tns1:Nothing", "http://docs.oasis-open.org/wsn/t-1/TopicExpression/Concrete", False),
        ("tns1:Device/Trigger/Relay", "http://docs.oasis-open.org/wsn/t-1/TopicExpression/Full", False),
    ],
)
def test_filters_are_understood_or_refused(device: Device, expression: str, dialect: str, is_right: bool) -> None:
    device.more["has_relay"] = True
    topic = f'<tev:Filter><wsnt:TopicExpression Dialect="{dialect}">{expression}</wsnt:TopicExpression></tev:Filter>'
    codes = subcodes(device.call("tev:CreatePullPointSubscription", topic).body)
    assert codes == ([] if is_right else ["Sender", "InvalidFilterFault"])


def simple(name: str, value: str) -> str:
    return f'boolean(//tt:SimpleItem[@Name="{name}" and @Value="{value}"])'


ITEMS = (("RelayToken", "R1"), ("LogicalState", "active"))


@pytest.mark.parametrize(
    ("expression", "is_let_through"),
    [
        (simple("LogicalState", "active"), True),
        (simple("LogicalState", "inactive"), False),
        (simple("RelayToken", "R1") + " and " + simple("LogicalState", "inactive"), False),
        (simple("RelayToken", "R2") + " or " + simple("LogicalState", "active"), True),
        (f"not ({simple('RelayToken', 'R1')}) or ({simple('RelayToken', 'R1')})", True),
        ("boolean(//tt:SimpleItem[not(@Name='RelayToken') and @Value='active'])", True),
        ('boolean(//tt:ElementItem[@Name="LogicalState"])', False),
    ],
)
def test_content_filters(expression: str, is_let_through: bool) -> None:
    assert parse_filter(expression)(ITEMS) is is_let_through


@pytest.mark.parametrize(
    "expression",
    ["", "true()", "//tt:SimpleItem", simple("a", "b") + ")", "boolean(//*)", "(" * 500, "not " * 100, "count(//a)>1",
     "boolean(//tt:SimpleItem[@Other='x'])", simple("a", "b") * 2, simple("a", "b" * 2000)],
)  # fmt: skip
def test_other_expressions_are_refused(expression: str) -> None:
    with pytest.raises(ValueError, match=r"missing|understood|long|brackets|behind"):
        parse_filter(expression)


def test_a_subscription_with_a_content_filter(device: Device) -> None:
    device.more["has_relay"] = True
    expression = simple("LogicalState", "active").replace('"', "&quot;")
    content = f'<wsnt:MessageContent Dialect="{ITEM_FILTER_DIALECT}">{expression}</wsnt:MessageContent>'
    inner = f"<tev:Filter>{content}</tev:Filter>"
    created = check_response(device.call("tev:CreatePullPointSubscription", inner).body)
    point = device.points.find(created.findtext(".//{*}Address").rpartition("/")[2], now_s=time.time())
    for value in ("inactive", "active"):
        device.points.publish(message(value))
    assert [item.data[1] for item in point.take(9)] == ["active"]
    assert subcodes(device.call("tev:CreatePullPointSubscription", inner.replace("boolean", "exec")).body)[-1] == (
        "InvalidFilterFault"
    )


def test_faults_relate_to_what_they_refuse(device: Device) -> None:
    header = "<wsa:MessageID>urn:uuid:7</wsa:MessageID>"
    for operation in ("tev:PullMessages", "wsnt:Renew", "tev:Nothing", "tds:SetDNS"):
        body = device.call(operation, header=header).body
        assert b"<wsa:RelatesTo>urn:uuid:7</wsa:RelatesTo>" in body, operation
    path = check_response(device.call("tev:CreatePullPointSubscription").body).findtext(".//{*}Address")
    renew = device.call("wsnt:Renew", "<wsnt:TerminationTime>junk</wsnt:TerminationTime>", path=path[20:])
    assert subcodes(renew.body)[-1] == "UnacceptableTerminationTimeFault"


# The name.


class Api:
    """A fleet API on loopback that answers one device."""

    def __init__(self, body: bytes, status: int = 200) -> None:
        outer = self
        self.asked: list[tuple[str, str]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append((self.path, self.headers.get("X-Token-Code") or ""))
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/api"

    def __enter__(self) -> Api:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(5)


KEY = "0123456789ABCDEF0123456789ABCDEF"


def test_the_name_comes_from_the_fleet_and_is_kept(device: Device) -> None:
    body = json.dumps({"product_serial": "", "name": "V1-S01-00030", "device_name": "x"}).encode()
    with Api(body) as api:
        device.configure(MEETING_API_URL=api.url, MEETING_DEVICE_KEY=KEY, MEETING_TOKEN_CODE="abc123")
        config = device.facts.config
        assert naming.read_kept(device.system, config) == UNPROVISIONED
        assert naming.ask_name(config, config.meeting_token_code) == "V1-S01-00030"
        assert api.asked == [(f"/api/devices/{KEY}", "abc123")]
    naming.keep(device.system, config, "V1-S01-00030")
    assert device.facts.name == "V1-S01-00030"
    assert b"V1-S01-00030" in device.call("tds:GetHostname").body
    device.configure(MEETING_DEVICE_KEY=KEY[::-1])
    assert device.facts.name == UNPROVISIONED


@pytest.mark.parametrize(
    ("body", "status"), [(b"{}", 200), (b"no json", 200), (b"", 500), (b"", 302), (b"[" * 100_000, 200), (b"", 99)]
)
def test_no_name_is_no_name(device: Device, body: bytes, status: int) -> None:
    with Api(body, status) as api:
        device.configure(MEETING_API_URL=api.url, MEETING_DEVICE_KEY=KEY, MEETING_TOKEN_CODE="abc123")
        with pytest.raises((Unreachable, MeetingctlError)):
            naming.ask_name(device.facts.config, device.facts.config.meeting_token_code)
        assert len(api.asked) == 1


def test_asking_again_slows_down() -> None:
    assert 3000 < naming.pause_s(0) < 4000
    assert 25 < naming.pause_s(1) < 34
    assert naming.pause_s(50) < 4000


def test_a_broken_onvif_conf_stops_the_start(device: Device, tmp_path: Path) -> None:
    from meetingctl.core.errors import ConfigError
    from meetingctl.device.onvif.conf import parse_conf

    for text in ("[]", "{", '{"port": "x"}', '{"port": true}', '{"port": 70000}'):
        with pytest.raises(ConfigError):
            parse_conf(text)
    assert parse_conf("{}").port == 8080
    assert not parse_conf('{"enabled": false}').enabled
    assert parse_conf('{"port": "8081", "compat": ["synology", "other"]}').compat == {"synology"}


def test_synology_is_met_where_it_is_asked_for(device: Device) -> None:
    device.system.write("/etc/rpi-cam/onvif.conf", '{"compat": ["synology"]}')
    answer = device.call("trt:CreateProfile", "<trt:Name>SynoProfile</trt:Name>")
    assert check_response(answer.body)[0].get("token") == "MainProfile"
    assert device.call("tds:SetNTP", "<tds:FromDHCP>true</tds:FromDHCP>").status == 200

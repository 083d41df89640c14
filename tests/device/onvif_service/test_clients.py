"""Real client libraries do what recorders and home automation do with the running daemon."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from onvif import ONVIFCamera, ONVIFError
from stream.conftest import gstreamer  # noqa: F401 - a fixture
from stream.support import probe, running_stream, wait_until

from meetingctl.device.stream.control import ONVIF, ask_daemon
from meetingctl.device.system import System

from .conftest import V4L2_CTL
from .live import Running, configure, free_udp_port
from .schemas import WSDL_DIR

# Client libraries of others: what they warn of is theirs.
pytestmark = [pytest.mark.real, pytest.mark.filterwarnings("ignore")]

USER, PASSWORD = "admin", "s3cret pass"
NODE_MODULES = Path(__file__).parents[3] / ".venv" / "node" / "node_modules"
GPIOD = """
import enum, pathlib
class line:
    class Direction(enum.Enum): OUTPUT = 2
    class Value(enum.Enum): INACTIVE = 0; ACTIVE = 1
class LineSettings:
    def __init__(self, **settings): self.__dict__ |= settings
class _Lines:
    def set_value(self, pin, value): pathlib.Path(__file__).with_name("level").write_text(str(value.value))
    def release(self): pass
def request_lines(chip, consumer, config): return _Lines()
"""


@pytest.fixture
def camera(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A USB camera with controls and a relay, without a stream daemon; each test has its own, as it keeps changes."""
    root = tmp_path_factory.mktemp("camera")
    tools, modules = root / "tools", root / "modules"
    for folder in (tools, modules):
        folder.mkdir()
    (tools / "v4l2-ctl").write_text(V4L2_CTL)
    (tools / "v4l2-ctl").chmod(0o755)
    (modules / "gpiod.py").write_text(GPIOD)
    configure(root, {"RTSP_USER": USER, "RTSP_PASSWORD": PASSWORD, "RELAY_ENABLE": "yes", "RELAY_GPIO_PIN": 17})
    daemon = Running(
        root, path=f"{tools}:{os.environ['PATH']}", env={"PYTHONPATH": f"{modules}:{os.environ.get('PYTHONPATH', '')}"}
    )
    daemon.start(f"--discovery-port={free_udp_port()}")
    yield daemon
    daemon.stop()


@pytest.fixture
def streaming(gstreamer: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:  # noqa: F811
    """A test picture with a login and a second stream, and the ONVIF daemon beside it; each test has its own."""
    root = tmp_path_factory.mktemp("streaming")
    keys = {"VIDEOIN_WIDTH": 1280, "VIDEOIN_HEIGHT": 720, "VIDEOIN_FPS": 10, "SUBSTREAM_ENABLE": "yes"}
    login = {"RTSP_USER": USER, "RTSP_PASSWORD": PASSWORD}
    with running_stream(root, STREAM_SOURCE_MODE="test", **keys, **login):
        daemon = Running(root)
        daemon.start(f"--discovery-port={free_udp_port()}")
        try:
            yield daemon
        finally:
            daemon.stop()


def connect(daemon: Running) -> Any:
    return ONVIFCamera("127.0.0.1", daemon.port, USER, PASSWORD, str(WSDL_DIR), no_cache=True)


def with_login(uri: str) -> str:
    return uri.replace("rtsp://", f"rtsp://{USER}:{PASSWORD.replace(' ', '%20')}@")


def fetch_digest(url: str) -> bytes:
    """Get a picture as a recorder does, after the challenge."""
    passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    passwords.add_password(None, url, USER, PASSWORD)
    opener = urllib.request.build_opener(urllib.request.HTTPDigestAuthHandler(passwords))
    with opener.open(url, timeout=30) as answer:
        return bytes(answer.read())


@pytest.mark.gst
def test_zeep_plays_what_it_is_told_and_sets_the_encoder(streaming: Running) -> None:
    camera = connect(streaming)
    assert camera.devicemgmt.GetDeviceInformation().Model == "RPI-CAM"
    media = camera.create_media_service()
    profiles = media.GetProfiles()
    assert [profile.token for profile in profiles] == ["MainProfile", "SubProfile"]
    setup = {"Stream": "RTP-Unicast", "Transport": {"Protocol": "RTSP"}}
    uris = [media.GetStreamUri({"StreamSetup": setup, "ProfileToken": item.token}).Uri for item in profiles]
    width = profiles[0].VideoEncoderConfiguration.Resolution.Width
    wait_until(lambda: probe(with_login(uris[0]))["video"]["width"] == width, "the stream is as it is described")
    assert probe(with_login(uris[1]))["video"]["width"] == 320

    picture = media.GetSnapshotUri({"ProfileToken": "MainProfile"}).Uri
    assert fetch_digest(picture)[:2] == b"\xff\xd8"
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(picture, timeout=30)

    config = media.GetVideoEncoderConfigurations()[0]
    options = media.GetVideoEncoderConfigurationOptions({"ConfigurationToken": config.token})
    assert (options.H264.FrameRateRange.Min, options.H264.FrameRateRange.Max) == (1, 10)
    config.Resolution = {"Width": 640, "Height": 480}
    config.RateControl.BitrateLimit = 99999
    config.H264.H264Profile = "Main"
    media.SetVideoEncoderConfiguration({"Configuration": config, "ForcePersistence": True})
    after = media.GetVideoEncoderConfiguration({"ConfigurationToken": config.token})
    assert (after.Resolution.Width, after.RateControl.BitrateLimit, after.H264.H264Profile) == (640, 8000, "Main")
    assert media.GetProfiles()[0].VideoEncoderConfiguration.Resolution.Height == 480
    wait_until(lambda: probe(with_login(uris[0]))["video"]["width"] == 640, "the stream has the new size")

    env = System(streaming.root).read("/etc/rpi-cam/config.env")
    assert 'VIDEOIN_WIDTH="1280"' in env
    before = System(streaming.root).path("/etc/rpi-cam/config.env").stat()
    media.SetVideoEncoderConfiguration({"Configuration": after, "ForcePersistence": True})
    assert System(streaming.root).path("/etc/rpi-cam/config.env").stat().st_ino == before.st_ino
    media.SetSynchronizationPoint({"ProfileToken": "MainProfile"})
    assert PASSWORD not in streaming.log_text()


def test_zeep_sets_the_picture_and_reads_it_back(camera: Running) -> None:
    imaging = connect(camera).create_imaging_service()
    options = imaging.GetOptions({"VideoSourceToken": "VideoSource"})
    assert (options.Brightness.Min, options.Brightness.Max) == (0, 255)
    settings = imaging.GetImagingSettings({"VideoSourceToken": "VideoSource"})
    settings.Brightness = 77
    settings.Focus.AutoFocusMode = "MANUAL"
    imaging.SetImagingSettings({"VideoSourceToken": "VideoSource", "ImagingSettings": settings})
    after = imaging.GetImagingSettings({"VideoSourceToken": "VideoSource"})
    assert (after.Brightness, after.Focus.AutoFocusMode) == (77, "MANUAL")
    settings.Brightness = 999
    with pytest.raises(ONVIFError, match="0 to 255"):
        imaging.SetImagingSettings({"VideoSourceToken": "VideoSource", "ImagingSettings": settings})


def test_zeep_switches_the_relay_and_pulls_its_events(camera: Running) -> None:
    client = connect(camera)
    assert client.get_definition("events")[0].endswith("/onvif/event_service")
    events = client.create_events_service()
    assert events.GetServiceCapabilities()["MaxPullPoints"] == 8
    events.GetEventProperties()
    reference = events.CreatePullPointSubscription({"InitialTerminationTime": "PT60S"})
    address = reference.SubscriptionReference.Address._value_1
    namespace = "http://www.onvif.org/ver10/events/wsdl/PullPointSubscription"
    client.xaddrs[namespace] = address
    point = client.create_onvif_service("pullpoint", portType="PullPointSubscription")

    def pull() -> list[tuple[str, str]]:
        answer = point.PullMessages({"Timeout": "PT5S", "MessageLimit": 10})
        return [
            (item.Message._value_1.get("PropertyOperation"), item.Message._value_1[1][0].get("Value"))
            for item in answer.NotificationMessage
        ]

    assert pull() == [("Initialized", "inactive")]
    level = camera.root / "modules" / "level"
    for state, shown in (("active", "1"), ("inactive", "0")):
        client.devicemgmt.SetRelayOutputState({"RelayOutputToken": "RelayOutput1", "LogicalState": state})
        assert level.read_text() == shown
        assert pull() == [("Changed", state)]
    assert client.devicemgmt.GetRelayOutputs()[0].token == "RelayOutput1"
    with pytest.raises(ONVIFError):
        client.devicemgmt.SetRelayOutputState({"RelayOutputToken": "other", "LogicalState": "active"})


def test_the_command_line_switches_the_relay_that_the_service_holds(camera: Running) -> None:
    from .schemas import check_response

    camera.user, camera.password = USER, PASSWORD
    created = check_response(camera.call("tev:CreatePullPointSubscription", path="/onvif/event_service"))
    path = "/" + created.findtext(".//{*}Address").split("/", 3)[3]
    argv = [sys.executable, "-m", "meetingctl", "--json", "device", "onvif", "relay", "--root", str(camera.root)]
    for word, shown in (("on", "1"), ("off", "0")):
        ran = subprocess.run([*argv, word], capture_output=True, text=True, timeout=60, check=True)
        assert json.loads(ran.stdout) == {"token": "RelayOutput1", "state": word}
        assert (camera.root / "modules" / "level").read_text() == shown
    asked = "<tev:Timeout>PT5S</tev:Timeout><tev:MessageLimit>10</tev:MessageLimit>"
    pulled = check_response(camera.call("tev:PullMessages", asked, path))
    states = [item.get("Value") for item in pulled.iterfind(".//{*}Data/{*}SimpleItem")]
    assert states == ["inactive", "active", "inactive"]


def test_a_client_that_is_gone_takes_no_message_along(camera: Running) -> None:
    from .schemas import check_response, request

    camera.user, camera.password = USER, PASSWORD
    created = check_response(camera.call("tev:CreatePullPointSubscription", path="/onvif/event_service"))
    path = "/" + created.findtext(".//{*}Address").split("/", 3)[3]
    asked = "<tev:Timeout>PT20S</tev:Timeout><tev:MessageLimit>10</tev:MessageLimit>"
    assert b"inactive" in camera.call("tev:PullMessages", asked, path)
    body = request("tev:PullMessages", asked, user=USER, password=PASSWORD)
    with socket.create_connection(("127.0.0.1", camera.port), timeout=20) as gone:
        gone.sendall(f"POST {path} HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        camera.call("tds:GetHostname")  # by now the pull waits
    ask_daemon(camera.system, "relay on", daemon=ONVIF)
    try:
        assert b'Value="active"' in camera.call("tev:PullMessages", asked, path)
    finally:
        ask_daemon(camera.system, "relay off", daemon=ONVIF)


def test_renew_unsubscribe_and_a_pull_that_waits(camera: Running) -> None:
    from .schemas import check_response, subcodes

    camera.user, camera.password = USER, PASSWORD
    created = check_response(camera.call("tev:CreatePullPointSubscription", path="/onvif/event_service"))
    path = "/" + created.findtext(".//{*}Address").split("/", 3)[3]
    pull = "<tev:Timeout>{}</tev:Timeout><tev:MessageLimit>10</tev:MessageLimit>"
    first = camera.call("tev:PullMessages", pull.format("PT0S"), path)
    assert first.count(b"NotificationMessage>") == 2
    begun_s = time.monotonic()
    waited = check_response(camera.call("tev:PullMessages", pull.format("PT2S"), path))
    assert time.monotonic() - begun_s >= 1.9
    assert not waited.findall(".//{*}NotificationMessage")
    check_response(camera.call("wsnt:Renew", "<wsnt:TerminationTime>PT2M</wsnt:TerminationTime>", path))
    assert subcodes(camera.call("tev:PullMessages", pull.format("PT1H"), path)) == ["Sender", "InvalidArgVal"]
    check_response(camera.call("wsnt:Unsubscribe", "", path))
    assert subcodes(camera.call("wsnt:Renew", "", path)) == ["Sender", "ResourceUnknownFault"]


@pytest.mark.gst
def test_motion_that_a_detector_reports_is_pulled(streaming: Running) -> None:
    """From the report at the stream's loopback HTTP to the message of a subscription that is older than all reports."""
    from .schemas import check_response

    def report(word: str) -> None:
        port = ask_daemon(streaming.system, "status", timeout_s=20)["http_port"]
        data = f'{{"motion": {word}}}'.encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/motion", data, timeout=30) as answer:
            assert answer.status == 200

    def pull() -> tuple[str, str]:
        asked = "<tev:Timeout>PT30S</tev:Timeout><tev:MessageLimit>1</tev:MessageLimit>"
        message = check_response(streaming.call("tev:PullMessages", asked, path)).find(".//{*}Message/{*}Message")
        return message.get("PropertyOperation"), message.find("{*}Data/{*}SimpleItem").get("Value")

    streaming.user, streaming.password = USER, PASSWORD
    assert b"MotionAlarm" not in streaming.call("tev:GetEventProperties")
    created = check_response(streaming.call("tev:CreatePullPointSubscription", path="/onvif/event_service"))
    path = "/" + created.findtext(".//{*}Address").split("/", 3)[3]
    report("false")
    assert pull() == ("Initialized", "false")
    assert b"MotionAlarm" in streaming.call("tev:GetEventProperties")
    report("true")
    report("false")
    assert pull() == ("Changed", "true")
    assert pull() == ("Changed", "false")
    check_response(streaming.call("wsnt:Unsubscribe", "", path))


NODE = """
const { Cam } = require('onvif');
const cam = new Cam({ hostname: '127.0.0.1', port: +process.argv[2], username: process.argv[3],
                      password: process.argv[4], timeout: 20000 }, async function (err) {
  if (err) { console.error(String(err)); process.exit(1); }
  const ask = (name, ...args) => new Promise((resolve, reject) =>
    cam[name](...args, (error, value) => error ? reject(new Error(name + ': ' + error)) : resolve(value)));
  try {
    const out = { profiles: cam.profiles.map(p => p.$.token), services: Object.keys(cam.uri) };
    out.capabilities = Object.keys(await ask('getCapabilities'));
    out.information = await ask('getDeviceInformation');
    out.stream = (await ask('getStreamUri', { protocol: 'RTSP' })).uri;
    out.snapshot = (await ask('getSnapshotUri', {})).uri;
    out.users = await ask('getUsers');
    out.interfaces = await ask('getNetworkInterfaces');
    out.dns = await ask('getDNS');
    if (process.argv[5] === 'imaging') {
      await ask('setImagingSettings', { token: 'VideoSource', brightness: 66 });
      out.brightness = (await ask('getImagingSettings', { token: 'VideoSource' })).brightness;
      await ask('createPullPointSubscription');
      out.events = [].concat((await ask('pullMessages', { messageLimit: 1 })).notificationMessage).length;
      await ask('renew', {});
      await ask('unsubscribe');
    } else {
      const token = 'VideoEncoderConfig';
      const all = await ask('getVideoEncoderConfigurations');
      const one = [].concat(all.configurations || all).find(c => c.$.token === token);
      one.token = token;
      one.resolution = process.argv[5] === 'wide' ? { width: 800, height: 600 } : { width: 320, height: 240 };
      const set = await ask('setVideoEncoderConfiguration', one);
      const back = [].concat(set.configurations || set).find(c => c.$.token === token);
      out.width = back.resolution.width;
    }
    console.log(JSON.stringify(out));
    process.exit(0);
  } catch (error) { console.error(String(error)); process.exit(1); }
});
"""


@pytest.fixture
def run_node(require_program: Callable[..., str], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    node = require_program("node", package="nodejs")
    if not (NODE_MODULES / "onvif").is_dir():
        reason = "needs the npm package onvif: scripts/setup.sh test"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    script = tmp_path / "client.js"
    script.write_text(NODE)

    def run(daemon: Running, mode: str) -> dict[str, Any]:
        argv = [node, str(script), str(daemon.port), USER, PASSWORD, mode]
        env = {**os.environ, "NODE_PATH": str(NODE_MODULES)}
        ran = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=100, check=False)
        assert ran.returncode == 0, ran.stderr + daemon.log_text()
        return dict(json.loads(ran.stdout))

    return run


def test_npm_onvif_finds_imaging_and_events(camera: Running, run_node: Callable[..., dict[str, Any]]) -> None:
    found = run_node(camera, "imaging")
    assert found["profiles"] == ["MainProfile"]
    assert {"imaging", "events", "media", "device"} <= set(found["capabilities"])
    assert (found["brightness"], found["events"]) == (66, 1)
    assert "password" not in json.dumps(found["users"]).lower()


@pytest.mark.gst
@pytest.mark.parametrize("media2", [False, True])
def test_npm_onvif_plays_and_sets_the_encoder(
    streaming: Running, run_node: Callable[..., dict[str, Any]], media2: bool
) -> None:
    streaming.switch_media2(media2)
    found = run_node(streaming, "small" if media2 else "wide")
    width = 320 if media2 else 800
    assert ("media2" in found["services"]) is media2
    assert found["width"] == width
    wait_until(lambda: probe(with_login(found["stream"]))["video"]["width"] == width, "the stream has the new size")
    assert fetch_digest(found["snapshot"])[:2] == b"\xff\xd8"

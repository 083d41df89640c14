"""The watchdog beside the real stream daemon."""

from __future__ import annotations

import pytest
from stream.conftest import gstreamer  # noqa: F401 - a fixture
from stream.support import running_stream, wait_until

from meetingctl.device.config import change_config, read_config
from meetingctl.device.notify import Notifier
from meetingctl.device.watchdog import Memory, rules_of
from meetingctl.device.watchdog.loop import check_once, read_facts
from meetingctl.device.watchdog.state import Kept, read_kept

from .conftest import Device

pytestmark = [pytest.mark.gst, pytest.mark.usefixtures("gstreamer")]


@pytest.mark.parametrize("method", ["basic", "digest", "both"])
def test_a_stream_with_a_login_is_healthy_until_it_dies(device: Device, method: str) -> None:
    keys = {"RTSP_USER": "admin", "RTSP_PASSWORD": "s3cret :@", "RTSP_AUTH_METHOD": method}
    with running_stream(device.root, STREAM_SOURCE_MODE="test", MAX_FAILURES="1", **keys) as stream:
        rules = rules_of(read_config(device.system).config)
        facts = read_facts(device.system, rules, read_kept(device.system).memory)
        assert facts.probe is not None
        assert (facts.probe.method, facts.probe.outcome) == ("DESCRIBE", "ok")
        assert facts.status is not None
        assert facts.status.source == "test"

        def is_healthy() -> bool:
            # A server that is just closing the source of the last visitor answers 503 for a moment.
            found = check_once(device.system, rules, Notifier(), Kept(Memory(), {}), dry_run=True)
            return (found.decision.stream.state, found.decision.stream.reason) == ("healthy", "ok")

        wait_until(is_healthy, "the watchdog finds the stream healthy")

        # The file says another password than the one that the daemon was started with.
        change_config(device.system, {"RTSP_PASSWORD": "new"})
        changed = rules_of(read_config(device.system).config)
        facts = read_facts(device.system, changed, Memory())
        assert facts.probe is not None
        assert facts.probe.outcome == "refused"

        assert stream.process is not None
        stream.process.kill()
        stream.process.wait()
        found = check_once(device.system, rules, Notifier(), read_kept(device.system))
        assert (found.decision.stream.state, found.decision.stream.reason) == ("failing", "rtsp-unreachable")
        assert device.restarts()[-1] == "restart -- rpi-av-rtsp-recorder.service"


def test_a_stream_on_one_address_is_asked_there(device: Device) -> None:
    with running_stream(device.root, host="127.0.0.2", STREAM_SOURCE_MODE="test"):
        facts = read_facts(device.system, rules_of(read_config(device.system).config), Memory())
    assert facts.probe is not None
    assert facts.probe.outcome == "ok", facts.probe.detail

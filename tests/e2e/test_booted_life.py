"""Two fresh systems become cameras of a fleet, are updated, lose a bad release, and get their configuration back.

The cable of the second one is pulled in the middle of each.
"""

import contextlib
import json
import re
import tarfile
import threading
import time

import pytest

from e2e.booted import PASSWORD, require_booted_device
from e2e.booted_fleet import BETTER, BROKEN, EXTRA_PACKAGE, FIRST, KEYS, booted_fleet
from e2e.world import answers_ssh, wait_until
from meetingctl.core.layout import ONVIF_UNIT, RECORDER_UNIT, STREAM_UNIT, TUNNEL_AGENT_UNIT, WATCHDOG_UNIT

pytestmark = [pytest.mark.real, pytest.mark.timeout(1200)]

OUR_UNITS = (STREAM_UNIT, RECORDER_UNIT, WATCHDOG_UNIT, ONVIF_UNIT, TUNNEL_AGENT_UNIT)
ALL_WELL = dict.fromkeys(("units", "disk", "clock", "rtsp", "onvif", "agent", "heartbeat"), True)
CUT_S = 20.0
CUT = "pulls a cable"
KEPT = "/root/kept.tar"


def end_of(process, within_s=400):
    """Return code, JSON and standard error of a command that was begun."""
    out, err = process.communicate(timeout=within_s)
    return process.returncode, json.loads(out), err.decode()


def runs_inside(device, unit):
    return device.ask("systemctl", "show", "--value", "-p", "SubState", f"{unit}.service").stdout.strip() == b"running"


def cut_during(device, is_time, *, back_after_s=None):
    """Pull the cable when it is time; a thread, so that the command under test runs meanwhile."""

    def cut():
        wait_until(is_time, "the moment to pull the cable", within_s=120)
        device.unplug()
        if back_after_s is not None:
            time.sleep(back_after_s)  # the length of the outage is what is tested
            device.plug()

    thread = threading.Thread(target=cut, name=CUT)
    thread.start()
    return thread


def wait_well(fleet, *keys, within_s=90):
    for key in keys:
        try:
            wait_until(
                lambda key=key: fleet.checks(key, "--via", "direct") == ALL_WELL,
                f"all being well on {key}",
                within_s=within_s,
            )
        except AssertionError as error:
            raise AssertionError(f"{error}: {fleet.said}") from None


def bring_back(fleet):
    """Undo what a test left half done: power, cable, configuration and release."""
    for thread in threading.enumerate():
        if thread.name == CUT:
            thread.join()
    lost = []
    for key in KEYS:
        device = fleet.device(key)
        device.bring_up()
        if not device.path("/etc/rpi-cam/meeting.json").exists():
            device.do("tar", "-C", "/etc", "-xpf", KEPT)
            device.do("systemctl", "restart", *OUR_UNITS)
            lost.append(key)
        if fleet.version(key) != FIRST:
            wait_until(
                lambda device=device: status_of(device) != "applying", "an update coming to its end", within_s=180
            )
            fleet.remote("update", key, "--from", str(fleet.packages.of(FIRST)))
            lost.append(key)
    wait_well(fleet, *lost)


@pytest.fixture
def fleet(fleet_as_made):
    """Both cameras, well and with the first release before and after every test."""
    yield fleet_as_made
    bring_back(fleet_as_made)


@pytest.fixture(scope="module")
def fleet_as_made(require_program, tmp_path_factory):
    """Both are installed at once; to the second the link is lost for good, and the same command goes on later."""
    require_booted_device(require_program)
    with booted_fleet(tmp_path_factory.mktemp("fleet")) as fleet:
        first, second = fleet.site.devices
        for device in (first, second):  # what somebody had set before
            config = device.path("/etc/rpi-cam/config.env")
            config.parent.mkdir()
            config.write_text("# of the workshop\nSTREAM_SOURCE_MODE=test\nRECORD_ENABLE=yes\n")
        fleet.began = fleet.start_remote("install", *fleet.install_words("cam-1"), "--json")
        gives_up = fleet.start_remote("install", *fleet.install_words("cam-2"), "--timeout", "30s", "--json")
        cut = cut_during(second, lambda: runs_inside(second, "meetingctl-install"))
        fleet.gave_up = end_of(gives_up)
        cut.join()
        fleet.unit_went_on = not runs_inside(second, "meetingctl-install") or "still runs"
        second.plug()
        wait_until(lambda: answers_ssh(22, second.address), "the link coming back")
        fleet.went_on = fleet.remote("install", *fleet.install_words("cam-2"))
        fleet.installed = end_of(fleet.began)
        wait_well(fleet, *KEYS)
        for key in KEYS:
            fleet.device(key).do("tar", "-C", "/etc", "-cpf", KEPT, "rpi-cam")
        yield fleet


def test_a_fresh_system_becomes_a_camera_of_the_fleet(fleet):
    code, report, _ = fleet.installed
    assert code == 0, report
    assert {check["check"] for check in report["checks"]} >= {"units", "heartbeat"}
    assert all(check["ok"] for check in report["checks"]), report
    device = fleet.device("cam-1")
    for unit in OUR_UNITS:
        assert device.unit(unit) == ("active", "enabled"), unit
    assert device.do("hostname").strip() == b"cam-1"
    assert device.do("timedatectl", "show", "--value", "-p", "Timezone").strip() == b"Europe/Paris"
    meeting = device.path("/etc/rpi-cam/meeting.json")
    assert oct(meeting.stat().st_mode & 0o777) == "0o600"
    assert json.loads(meeting.read_text())["provisioned"] is True
    assert device.path("/etc/rpi-cam/config.env").read_text().startswith("# of the workshop\nSTREAM_SOURCE_MODE=test\n")
    assert device.do("dpkg-query", "--show", EXTRA_PACKAGE)
    assert fleet.do("fleet", "show", "cam-1")["token_count"] == 2
    recordings = device.path("/var/cache/rpi-cam/recordings")
    wait_until(lambda: any(path.stat().st_size for path in recordings.rglob("*.ts")), "a recording growing")


def test_it_is_reached_through_the_tunnel(fleet):
    assert fleet.checks("cam-1", "--via", "tunnel") == ALL_WELL | {"onvif": None}
    words = ("run", "cam-1", "--via", "tunnel", "--", "hostname")
    assert fleet.remote(words[0], *words[1:])["stdout"] == "cam-1\n"


def test_no_secret_stands_in_a_journal_or_a_log(fleet):
    for key in KEYS:
        code = fleet.code_file(key).read_text().strip()
        journal = fleet.device(key).do("journalctl", "--no-pager", "-o", "json").decode()
        logs = [path.read_text() for path in fleet.operator.home.rglob("install-*.log")]
        assert len(logs) >= 2
        for text in (journal, *logs):
            assert PASSWORD not in text
            assert not re.search(rf"(?<![0-9A-F]){code}(?![0-9A-F])", text)


def test_the_same_again_changes_nothing(fleet):
    device = fleet.device("cam-1")
    wait_until(lambda: {device.unit(unit)[0] for unit in OUR_UNITS} == {"active"}, "all units being active")
    before = state_of(device)
    report = fleet.remote("install", *fleet.install_words("cam-1"))
    assert (report["steps"], report["changed"]) == ([], False)
    assert fleet.remote("install", *fleet.install_words("cam-1"), "--dry-run")["steps"] == []
    assert state_of(device) == before


def state_of(device):
    """Our files with their times, what runs, and since which boot."""
    folders = ("/etc/rpi-cam", "/etc/systemd/system", "/opt", "/usr/local/bin")
    files = device.do("find", *folders, "-printf", "%p %T@ %m %u %g %s\n").decode()
    own = [line for line in files.splitlines() if "__pycache__" not in line]
    pids = device.do("systemctl", "show", "--value", "-p", "MainPID", *OUR_UNITS)
    return sorted(own), pids, device.boot_id


def test_a_link_that_is_lost_for_good_says_where_it_stands_and_the_same_command_goes_on(fleet):
    code, report, _ = fleet.gave_up
    error = report["error"]
    assert code == 69, report
    assert "install-package" in error["message"]
    assert "meetingctl remote install" in error["hint"]
    assert fleet.unit_went_on
    assert all(check["ok"] for check in fleet.went_on["checks"])
    assert "send-package" not in [step["do"] for step in fleet.went_on["steps"]]
    assert [fleet.device("cam-2").unit(unit)[0] for unit in OUR_UNITS] == ["active"] * len(OUR_UNITS)


def test_updates_survive_a_lost_link_and_a_bad_one_is_taken_back(fleet):
    second = fleet.device("cam-2")
    began = fleet.start_remote("update", *KEYS, "--from", str(fleet.packages.of(BETTER)), "--json")
    cut = cut_during(second, lambda: status_of(second) == "applying", back_after_s=CUT_S)
    code, reports, err = end_of(began)
    cut.join()
    assert code == 0, err
    assert [(report["outcome"], report["installed_version"]) for report in reports] == [("updated", BETTER)] * 2
    assert sum(report["uploaded_bytes"] for report in reports) < 100_000
    assert [fleet.version(key) for key in KEYS] == [BETTER] * 2
    wait_well(fleet, *KEYS)
    assert all(fleet.do("fleet", "show", key)["installed_version"] == BETTER for key in KEYS)

    before = fleet.device("cam-1").path("/etc/rpi-cam/config.env").read_bytes()
    words = (*KEYS, "--from", str(fleet.packages.of(BROKEN)), "--reconnect", "5s", "--json")
    began = fleet.start_remote("update", *words)
    cut = cut_during(second, lambda: status_of(second) == "applying")
    code, reports, err = end_of(began)
    cut.join()
    second.plug()
    assert code == 1, err
    assert [report["ok"] for report in reports] == [False, False]
    assert "1.2.0 does not work" in reports[0]["error"]["message"]
    assert reports[0]["installed_version"] == BETTER
    assert "stands" in reports[1]["error"]["message"]
    wait_until(lambda: status_of(second) == "error", "the second one having gone back by itself", within_s=180)
    assert [fleet.version(key) for key in KEYS] == [BETTER] * 2
    wait_well(fleet, *KEYS)
    assert fleet.device("cam-1").path("/etc/rpi-cam/config.env").read_bytes() == before

    back = fleet.remote("update", *KEYS, "--rollback")
    assert [report["installed_version"] for report in back] == [FIRST] * 2
    wait_well(fleet, *KEYS)


def status_of(device):
    with contextlib.suppress(ValueError, KeyError):
        return json.loads(device.ask("cat", "/run/meetingctl/update-status.json").stdout)["state"]
    return ""


def test_a_backup_brings_a_wiped_device_back(fleet, tmp_path):
    device = fleet.device("cam-1")
    report = fleet.remote("backup", "cam-1", "--out", str(tmp_path))[0]
    archive = tmp_path / report["file"]
    with tarfile.open(archive) as members:
        assert "backup_manifest.json" in members.getnames()
    saved = content_of(device)
    device.do("sh", "-c", "rm -rf /etc/rpi-cam/*")
    boot_id = device.boot_id
    fleet.remote("restore", "cam-1", str(archive), "--yes")
    assert device.boot_id != boot_id
    assert content_of(device) == saved
    assert oct(device.path("/etc/rpi-cam/meeting.json").stat().st_mode & 0o777) == "0o600"
    assert oct(device.path("/etc/rpi-cam/config.env").stat().st_mode & 0o777) == "0o640"
    wait_well(fleet, "cam-1")


def content_of(device):
    return {path.name: path.read_bytes() for path in device.path("/etc/rpi-cam").iterdir()}

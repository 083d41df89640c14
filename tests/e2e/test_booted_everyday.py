"""The everyday commands on two booted devices: real systemd, sudo with a password, journal, sshd and reboot."""

import contextlib
import json
import os
import re
import signal
import subprocess
import zipfile

import pytest

from e2e.booted import PASSWORD, booted_site, require_booted_device
from e2e.world import User, wait_until

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

RECORDER = """[Service]
ExecStart=/bin/sh -c 'while :; do echo "tick password=hunter22"; sleep 0.2; done'
[Install]
WantedBy=multi-user.target
"""


@pytest.fixture(scope="module")
def booted(require_program, tmp_path_factory):
    require_booted_device(require_program)
    with booted_site(tmp_path_factory.mktemp("site"), 2) as site:
        yield site


@pytest.fixture
def site(booted):
    """Both devices as every test finds them, whatever was done to them and wherever the test before stopped."""
    for device in booted.devices:
        device.bring_up()
        device.do("rm", "-rf", "/opt/web", "/etc/systemd/system/rtsp-watchdog.service")
        device.path("/etc/systemd/system/rtsp-recorder.service").write_text(RECORDER)
        config = device.path("/etc/rpi-cam/config.env")
        config.parent.mkdir(exist_ok=True)
        config.write_text("# kept\nRTSP_PASSWORD=hunter22\nVIDEOIN_FPS=15\n")
        config.chmod(0o640)
        device.do("chown", "-R", "root:www-data", "/etc/rpi-cam")
        device.do("systemctl", "daemon-reload")
        device.do("systemctl", "reset-failed")
        device.do("systemctl", "enable", "--now", "rtsp-recorder")
    return booted


@pytest.fixture
def operate(site, tmp_path):
    """Run a remote command of an operator who knows no device yet; its JSON, and the code is checked."""
    operator = User(tmp_path / "home")

    def run(*args, code=0, options=None, stdin=b""):
        words = ("remote", *args[:2], *(options or site.access.options), "--json", *args[2:])
        done = operator.run(*words, input=stdin)
        assert done.returncode == code, done.stdout + done.stderr
        return json.loads(done.stdout)

    run.operator = operator
    return run


def both(site):
    return [device.target for device in site.devices]


def test_facts_of_a_bare_system_and_checks_that_fail(site, operate):
    first, second = site.devices
    reports = operate("facts", first.target, second.target)
    for device, report in zip(site.devices, reports, strict=True):
        facts = report["facts"]
        assert facts["system"]["codename"] == "trixie"
        assert facts["system"]["hostname"] == "raspberrypi"
        assert facts["system"]["boot_id"] == device.boot_id
        assert (facts["system"]["version"], facts["system"]["throttled"]) == (None, [])
        assert (facts["camera"]["csi"], facts["camera"]["v4l2"]) == ([], [])
        by_name = {row["interface"]: row for row in facts["network"]["interfaces"]}
        assert by_name["host0"]["addresses"] == [f"{device.address}/24"]
        assert [row["state"] for row in facts["network"]["connections"] if row["name"] == "host0"] == ["activated"]
        assert 22 in facts["rtsp"]["listening_ports"]
    checks = {row["check"]: row for row in operate("smoke", first.target, code=1)[0]["checks"]}
    assert [checks[name]["ok"] for name in ("disk", "clock", "rtsp", "heartbeat")] == [True, True, False, None]


def test_units_are_changed_only_where_they_differ(site, operate):
    device = site.devices[0]
    for verb, found in (("stop", ("inactive", "enabled")), ("disable", ("inactive", "disabled"))):
        assert operate("services", verb, device.target, "rtsp-recorder")[0]["changed"] is True
        assert device.unit("rtsp-recorder") == found
    did = operate("services", "enable", *both(site), "rtsp-recorder")
    assert [row["changed"] for row in did] == [True, False]
    assert [operate("services", "start", device.target)[0]["changed"] for _ in range(2)] == [True, False]
    assert device.unit("rtsp-recorder") == ("active", "enabled")
    broken = device.path("/etc/systemd/system/rtsp-watchdog.service")
    broken.write_text("[Service]\nType=oneshot\nExecStart=/bin/false\n")
    device.do("systemctl", "daemon-reload")
    failed = operate("services", "start", device.target, "rtsp-watchdog", code=1)[0]
    assert "rtsp-watchdog" in failed["error"]["message"]


def test_followed_journals_end_on_the_devices_too(site, operate):
    words = ["remote", "logs", *both(site), "-f", "--unit", "rtsp-recorder", *site.access.options]
    with subprocess.Popen(
        operate.operator.argv(*words), env=operate.operator.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        os.set_blocking(process.stdout.fileno(), False)
        seen = bytearray()

        def has_both():
            with contextlib.suppress(BlockingIOError, TypeError):
                seen.extend(os.read(process.stdout.fileno(), 65536))
            return all(target.encode() in seen for target in both(site))

        wait_until(has_both, "lines of both devices")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == 130
    for device in site.devices:
        wait_until(lambda ended=device: ended.ask("pgrep", "-x", "journalctl").returncode == 1, "journalctl ending")


def test_an_archive_holds_the_journal_and_no_secret(site, operate, tmp_path):
    device = site.devices[0]
    report = operate("collect", device.target, "--out", str(tmp_path))[0]
    with zipfile.ZipFile(tmp_path / report["file"]) as archive:
        texts = {name: archive.read(name) for name in archive.namelist()}
    journal = next(text for name, text in texts.items() if name.endswith("journal/rtsp-recorder.log"))
    assert b"tick" in journal
    assert not [name for name, text in texts.items() if b"hunter22" in text]


def test_a_configuration_is_changed_with_sudo_and_no_secret_in_the_journal(site, operate):
    device = site.devices[0]
    config = device.path("/etc/rpi-cam/config.env")
    operate("config", "set", device.target, "RTSP_PASSWORD", stdin=b"violet-heron-9\n")
    assert config.read_text().startswith("# kept\nRTSP_PASSWORD=violet-heron-9\n")
    found = config.stat()
    assert (oct(found.st_mode & 0o777), found.st_uid, found.st_gid) == ("0o640", 0, 33)
    journal = device.do("journalctl", "--no-pager", "-o", "cat", "--boot").decode()
    assert "COMMAND=" in journal  # sudo writes down what it runs
    assert "violet-heron-9" not in journal
    assert PASSWORD not in journal


def test_files_are_deployed_where_only_root_may_write_and_the_unit_restarts(site, operate, tmp_path):
    device = site.devices[0]
    (tmp_path / "web/static").mkdir(parents=True)
    (tmp_path / "web/app.py").write_text("print(1)\n")
    (tmp_path / "web/static/big").write_bytes(bytes(range(256)) * 4096)
    main_pid = device.do("systemctl", "show", "--value", "-p", "MainPID", "rtsp-recorder")
    words = ("deploy", device.target, f"{tmp_path / 'web'}/", "--to", "/opt/web", "--restart", "rtsp-recorder")
    assert [operate(*words)[0]["changed"] for _ in range(2)] == [True, False]
    assert device.path("/opt/web/static/big").read_bytes() == (tmp_path / "web/static/big").read_bytes()
    assert device.path("/opt/web/app.py").stat().st_uid == 0
    assert device.do("systemctl", "show", "--value", "-p", "MainPID", "rtsp-recorder") != main_pid


def test_a_wrong_sudo_password_is_tried_once(site, operate, tmp_path):
    device = site.devices[1]
    wrong = tmp_path / "wrong"
    wrong.write_text("not-it\n")
    options = ["-i", str(site.access.identity), "--password-file", str(wrong)]

    def noted():
        journal = device.ask("journalctl", "--no-pager", "-o", "cat", "-t", "sudo").stdout.decode()
        return [journal.count(words) for words in ("authentication failure", "1 incorrect password attempt")]

    before = noted()
    stopped = operate("services", "stop", device.target, "rtsp-recorder", code=4, options=options)[0]
    assert stopped["error"]["hint"]
    assert device.unit("rtsp-recorder")[0] == "active"
    assert noted() == [count + 1 for count in before]


def test_both_restart_and_are_back_with_what_is_enabled(site, operate):
    before = [device.boot_id for device in site.devices]
    reports = operate("reboot", *both(site), "--wait", "--yes")
    assert [report["boot_id_before"] for report in reports] == before
    assert [report["boot_id_after"] for report in reports] == [device.boot_id for device in site.devices]
    assert not {device.boot_id for device in site.devices} & set(before)
    for device in site.devices:
        wait_until(lambda started=device: started.unit("rtsp-recorder") == ("active", "enabled"), "the unit starting")


def test_another_host_key_is_refused_with_both_fingerprints(site, operate):
    device = site.devices[1]
    operate("run", device.target, "--", "true")
    old = fingerprint(device)
    device.renew_host_key()
    device.do("systemctl", "restart", "ssh")
    error = operate("run", device.target, "--", "true", code=4)["error"]
    said = f"{error['message']} {error['hint']}"
    assert old in said
    assert fingerprint(device) in said
    words = re.search(r"meetingctl (remote trust [^\n;]+)", error["hint"])[1].split()
    assert operate.operator.run(*words, "--yes").returncode == 0
    operate("run", device.target, "--", "true")


def fingerprint(device):
    key = device.path("/etc/ssh/ssh_host_ed25519_key.pub")
    return subprocess.run(["ssh-keygen", "-l", "-f", key], capture_output=True, text=True, check=True).stdout.split()[1]


def test_a_pulled_cable_is_one_unreachable_device_of_two(site, operate):
    first, second = site.devices
    second.unplug()
    try:
        words = (first.target, second.target, "--retries", "0", "--deadline", "4s", "--", "uname -n")
        reports = operate("run", *words, code=3)
    finally:
        second.plug()
    assert [report["result"] for report in reports] == ["ok", "unreachable"]


def test_a_device_is_switched_off_by_the_system_itself(site, operate):
    device = site.devices[1]
    operate("shutdown", device.target, "--yes")
    wait_until(lambda: not device.is_on, "the power going off")
    device.boot()

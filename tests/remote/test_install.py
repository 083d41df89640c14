"""`remote install` against OpenSSH's server on a freshly flashed machine."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cli.runner import Cli
from e2e.world import World, wait_until

from .conftest import CommandLine
from .flashed import Flashed, make_package

pytestmark = pytest.mark.real

WAITS = 'echo waiting; while ! [ -e /fake/go ]; do sleep 0.1; done; echo "going on"\n'


@pytest.fixture
def flashed(tmp_path: Path, require_program: Callable[..., str]) -> Iterator[Flashed]:
    require_program("nsenter", package="util-linux")
    require_program("sshd", package="openssh-server")
    if os.geteuid() != 0:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("needs root, for a mount namespace")
    machine = Flashed.start(tmp_path / "flashed")
    yield machine
    machine.close()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return make_package(tmp_path)


def words(flashed: Flashed, *more: str) -> tuple[str, ...]:
    return ("remote", "install", flashed.target, "--identity", str(flashed.sshd.identity), *more)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[World]:
    """A fleet server that knows the device; nothing of the device runs."""
    world = World(tmp_path / "fleet")
    try:
        world.start_server()
        made = world.operator.json("fleet", "create", world.key, "--type", "e2e", "--distribution", "e2e")
        world.token_code = str(made["token_code"])
        assert world.operator.run("fleet", "authorize", world.key).returncode == 0
        yield world
    finally:
        world.close()


def test_an_installation_and_the_same_again(
    flashed: Flashed, package: Path, here: Cli, fleet: World, tmp_path: Path
) -> None:
    log, code = tmp_path / "install.log", f"{fleet.token_code}\n"
    member = ("--device-key", fleet.key, "--token-stdin", "--api-url", f"{fleet.url}/api")
    line = words(flashed, "--from", str(package), *member, "--log", str(log), "--timeout", "90s", "--json")
    planned = here(*line, "--dry-run", stdin=code)
    assert planned.code == 0, planned.err
    wanted = ["write-file", "set-hostname", "set-timezone", "enable-ntp", "write-file", "write-file"]
    wanted += ["send-package", "install-package", "burn-token", "repair", "reboot"]
    assert [step["do"] for step in planned.json["steps"]] == wanted
    assert flashed.calls == []
    assert not log.exists()

    def report() -> None:
        wait_until(lambda: "reboot" in flashed.calls, "the restart")
        fleet.operator.run("fleet", "heartbeat", fleet.key)

    reporter = threading.Thread(target=report)
    reporter.start()
    done = here(*line, stdin=code)
    reporter.join(60)
    assert done.code == 0, done.out + done.err
    assert [step["do"] for step in done.json["steps"]] == wanted
    checks = [(row["check"], row["ok"]) for row in done.json["checks"]]
    assert checks == [("units", True), ("heartbeat", True), ("rtsp", None)]
    assert any(text.startswith("no picture: ") for text in done.json["warnings"])
    assert fleet.operator.json("fleet", "show", fleet.key)["installed_version"] == "1.2.3"
    assert flashed.read("/fake/hostname") == "cam-e2e\n"
    assert flashed.read("/etc/hosts") == "127.0.0.1\tlocalhost\n127.0.1.1\tcam-e2e\n"
    assert flashed.calls.count("reboot") == 1
    # The fleet has given this device no token to consume.
    assert "the device is not provisioned: cam-e2e: no tokens left" in done.json["warnings"][0]
    assert read_meeting(flashed)["provisioned"] is False
    assert "MEETING_PROVISIONED=no" in flashed.read("/etc/rpi-cam/config.env")
    assert re.search(r"unpacking \d+\n(.*\n)*.*install-package: Applying\n", log.read_text())
    assert not list(flashed.path("/root/.cache/meetingctl").iterdir())

    assert fleet.operator.run("fleet", "tokens", fleet.key, "--set", "1").returncode == 0
    later = here(*line, stdin=code)
    assert (later.code, [step["do"] for step in later.json["steps"]]) == (0, ["burn-token", "repair"]), later.err
    assert fleet.operator.json("fleet", "show", fleet.key)["token_count"] == 0
    facts = {"device_key": fleet.key, "token_code": fleet.token_code, "provisioned": True, "tunnel_host": "127.0.0.1"}
    assert read_meeting(flashed).items() >= facts.items()
    assert flashed.path("/etc/rpi-cam/meeting.json").stat().st_mode & 0o777 == 0o600
    assert flashed.path("/etc/rpi-cam/config.env").group() == "www-data"
    assert "MEETING_PROVISIONED=yes" in flashed.read("/etc/rpi-cam/config.env")

    published = fleet.operator.run("fleet", "publish", str(package), "--type", "e2e", "--distribution", "e2e")
    assert published.returncode == 0, published.stderr
    again = here(*words(flashed, "--release", "e2e/e2e/1.2.3", *member, "--json"), stdin=code)
    assert (again.code, again.json["steps"], again.json["changed"]) == (0, [], False), again.out + again.err
    for text in (log.read_text(), *flashed.calls, done.out, done.err, flashed.read("/etc/rpi-cam/config.env")):
        assert fleet.token_code not in text


def test_looking_only_and_sending_only(flashed: Flashed, package: Path, here: Cli) -> None:
    looked = here(*words(flashed, "--check-only"), terminal=True)
    assert (looked.code, "raspberrypi" in looked.out) == (0, True)
    assert "[####                ]  20 % raspberrypi" in looked.err
    assert looked.err.endswith(" s\n")
    sent = here(*words(flashed, "--from", str(package), "--transfer-only", "--json"))
    assert [step["do"] for step in sent.json["steps"]] == ["send-package"]
    assert here(*words(flashed, "--from", str(package), "--transfer-only", "--json")).json["steps"] == []
    assert flashed.calls == []
    nothing = here(*words(flashed, "--attach"))
    assert (nothing.code, "no installation runs there" in nothing.err) == (1, True)


@pytest.mark.parametrize(
    ("options", "fill", "says", "way_out"),
    [
        ("ro", 0, "nothing can be written to /tmp", "findmnt --target /tmp"),
        ("size=2m", 2 * 1024 * 1024 - 8192, "/tmp is full: 1024 KiB are needed", "du -xh --max-depth=1 /tmp"),
    ],
)
def test_a_machine_that_cannot_stage_files_is_refused_before_anything_is_sent(
    flashed: Flashed, package: Path, here: Cli, options: str, fill: int, says: str, way_out: str
) -> None:
    flashed.mount_tmp(options)
    if fill:
        flashed.path("/tmp/filler").write_bytes(b"x" * fill)
    line = words(flashed, "--from", str(package))
    for more in (("--dry-run",), ()):
        refused = here(*line, *more)
        assert refused.code == 1, refused.out + refused.err
        assert says in refused.err
        assert re.search(rf"hint: meetingctl remote run \S+.* {re.escape(way_out)}\n", refused.err), refused.err
    looked = here(*words(flashed, "--check-only", "--json"))
    assert (looked.code, len(looked.json["obstacles"])) == (1, 1)
    assert flashed.calls == []
    assert not flashed.path("/root/.cache/meetingctl").exists()


def test_a_transfer_goes_on_where_it_ended(flashed: Flashed, tmp_path: Path, here: Cli) -> None:
    package = make_package(tmp_path, filler_bytes=400_000)
    content = package.read_bytes()
    assert here(*words(flashed, "--from", str(package), "--transfer-only")).code == 0
    (whole,) = flashed.path("/root/.cache/meetingctl").iterdir()
    partial = whole.with_name(f"{whole.name}.part")
    older = whole.with_name(f"{'0' * 64}.tar.gz.part")
    older.write_bytes(b"of another package")
    for head, is_continued in ((content[:300_000], True), (b"x" * 300_000, False)):
        whole.unlink()
        partial.write_bytes(head)
        log = tmp_path / f"{is_continued}.log"
        sent = here(*words(flashed, "--from", str(package), "--transfer-only", "--log", str(log)))
        assert sent.code == 0, sent.err
        assert "300000 bytes are there already" in sent.out
        assert whole.read_bytes() == content
        assert (f" 0 of {len(content)} bytes" in log.read_text()) is not is_continued
    assert not older.exists()


def test_the_installation_goes_on_without_the_link(flashed: Flashed, package: Path, here: Cli, tmp_path: Path) -> None:
    flashed.write("/fake/while-applying", WAITS)
    done = threading.Event()

    def cut() -> None:
        wait_until(lambda: "waiting" in read_or_empty(flashed, "/fake/run/journal"), "the installation waiting")
        flashed.cut()
        flashed.write("/fake/go", "")
        wait_until(lambda: read_or_empty(flashed, "/fake/run/code") == "0\n", "the installation ending by itself")
        flashed.mend()
        done.set()

    breaker = threading.Thread(target=cut)
    breaker.start()
    log = tmp_path / "log"
    finished = here(*words(flashed, "--from", str(package), "--log", str(log), "--json", "--timeout", "60s"))
    breaker.join(60)
    assert done.is_set()
    assert finished.code == 0, finished.err
    assert [step["do"] for step in finished.json["steps"]].count("install-package") == 1
    assert flashed.calls.count("reboot") == 1
    assert "connecting again" in log.read_text()
    assert "going on" in log.read_text()
    assert not list(flashed.path("/root/.cache/meetingctl").iterdir())


def test_a_link_that_stays_away_says_where_it_stands(flashed: Flashed, package: Path, here: Cli) -> None:
    flashed.write("/fake/while-applying", WAITS)
    breaker = threading.Thread(target=lambda: cut_when_waiting(flashed))
    breaker.start()
    lost = here(*words(flashed, "--from", str(package), "--timeout", "9s"))
    breaker.join(60)
    assert lost.code == 69, lost.err
    assert "stands at step 4 of 6, install-package 1.2.3" in lost.err
    assert "meetingctl-install.service goes on there" in lost.err
    assert f"hint: meetingctl remote install {flashed.target}" in lost.err
    flashed.mend()
    # The same command goes on: it follows what still runs there.
    flashed.write("/fake/go", "")
    resumed = here(*words(flashed, "--from", str(package), "--json", "--timeout", "60s"))
    assert resumed.code == 0, resumed.err
    assert "send-package" not in [step["do"] for step in resumed.json["steps"]]
    assert flashed.read("/opt/rpi-cam-webmanager/VERSION") == "1.2.3\n"


def test_an_interrupted_run_says_what_goes_on(flashed: Flashed, package: Path, meetingctl: CommandLine) -> None:
    flashed.write("/fake/while-applying", WAITS)
    process = meetingctl.start(*words(flashed, "--from", str(package)))
    try:
        wait_until(lambda: "waiting" in read_or_empty(flashed, "/fake/run/journal"), "the installation waiting")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert b"the installation goes on" in err
    assert b"--attach" in err
    assert b"Traceback" not in err
    flashed.write("/fake/go", "")
    attached = meetingctl(*words(flashed, "--attach"))
    assert attached.returncode == 0, attached.stderr


def test_an_installation_that_fails_tells_its_exit_code_and_last_line(
    flashed: Flashed, package: Path, here: Cli
) -> None:
    flashed.write("/fake/while-applying", "echo disk is broken >&2; exit 9\n")
    flashed.write("/run/meetingctl/update-status.json", '{"message": "of an earlier one", "progress": 20}')
    failed = here(*words(flashed, "--from", str(package), "--json"))
    assert failed.code == 1
    assert "install-package failed there: exit code" in failed.json["error"]["message"]
    assert "log: " in failed.err
    assert flashed.calls.count("reboot") == 0
    log = Path(re.findall(r"log: (\S+)", failed.err)[0])
    assert "disk is broken" in log.read_text()
    assert "of an earlier one" not in log.read_text()


def read_meeting(flashed: Flashed) -> dict:
    return json.loads(flashed.read("/etc/rpi-cam/meeting.json"))


def read_or_empty(flashed: Flashed, name: str) -> str:
    try:
        return flashed.read(name)
    except FileNotFoundError:
        return ""


def cut_when_waiting(flashed: Flashed) -> None:
    wait_until(lambda: "waiting" in read_or_empty(flashed, "/fake/run/journal"), "the installation waiting")
    flashed.cut()

"""`meetingctl demo` as a newcomer meets it: the printed lines, pasted into another terminal."""

import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from e2e.world import HOST, READY_S, User, free_ports, is_free, wait_until

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]


class Demo:
    """One run of the demo, with ports and data of its own."""

    def __init__(self, folder: Path) -> None:
        self.user = User(folder / "home of the user")
        self.data = folder / "demo data"
        first = free_ports(6)
        self.ports = range(first, first + 6)
        self.args = ["demo", "--data", str(self.data), "--api-listen", f"{HOST}:{first}"]
        self.args += ["--tunnel-listen", f"{HOST}:{first + 1}", "--tunnel-ports", f"{first + 2}-{first + 5}"]

    @contextlib.contextmanager
    def running(self, *more: str):
        """Start it, wait for the summary, and yield the process with its text."""
        argv = self.user.argv(*self.args, *more)
        log = self.user.home / "stderr"
        with (
            log.open("wb") as errors,
            subprocess.Popen(
                argv, env=self.user.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
            ) as process,
        ):
            try:
                yield process, self._read_summary(process, log)
            finally:
                process.kill()

    def _read_summary(self, process: subprocess.Popen[bytes], log: Path) -> str:
        text, deadline_s = "", time.monotonic() + READY_S
        end = "}\n" if "--json" in process.args else "Stop with Ctrl-C.\n"
        while not text.endswith(end):
            line = process.stdout.readline().decode()
            assert line, log.read_text()
            assert time.monotonic() < deadline_s
            text += "\n}\n" if line == "}\n" else line
        return text

    def paste(self, line: str, *, within_s: float = 60) -> subprocess.CompletedProcess[bytes]:
        """Run a printed line in a shell, as another terminal of the same user would."""
        return subprocess.run(["sh", "-c", line], env=self.user.env, capture_output=True, timeout=within_s)

    def fails(self, *more: str) -> subprocess.CompletedProcess[bytes]:
        return self.user.run(*self.args, *more, within_s=READY_S)


@pytest.fixture
def demo(tmp_path, require_program):
    for program in ("ssh", "curl"):
        require_program(program, package="openssh-client curl")
    return Demo(tmp_path)


def lines_of(text: str) -> dict[str, str]:
    """Return the lines to try by their program's name."""
    block = text.split("another terminal:\n\n")[1].split("\n\n")[0]
    lines = [line.strip() for line in block.splitlines()]
    assert len(lines) == 4
    return {"ssh": lines[0], "curl": lines[1], "list": lines[2], "remote": lines[3]}


def is_running(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_the_printed_lines_work_and_ctrl_c_leaves_nothing(demo, tmp_path):
    with demo.running() as (process, text):
        lines = lines_of(text)
        shell = demo.paste(f"{lines['ssh']} 'echo $((6 * 7))'")
        assert (shell.returncode, shell.stdout) == (0, b"42\n"), shell.stderr
        page = demo.paste(f"{lines['curl']} --silent --fail")
        assert page.stdout.startswith(b"demo-cam: demo device, up ")
        listed = demo.paste(f"{lines['list']} --json")
        assert [device["device_key"] for device in json.loads(listed.stdout)] == ["demo-cam"]
        remote = demo.paste(f"{lines['remote']} -- id -u")
        assert remote.stdout.decode().strip() == str(os.geteuid()), remote.stderr
        assert (demo.data / "credentials.toml").stat().st_mode & 0o777 == 0o600
        assert (demo.user.home / ".config/meetingctl").stat().st_mode & 0o777 == 0o700
        assert str(demo.data / "credentials.toml") in text

        pids = tmp_path / "pids"
        left = f"nohup sh -c 'echo $$ > {pids}; trap \"\" TERM HUP; while :; do sleep 1; done' > /dev/null 2>&1 &"
        assert demo.paste(f"{lines['ssh']} {shlex.quote(left)}").returncode == 0
        wait_until(lambda: pids.exists() and pids.read_text().strip(), "the job left in a shell")
        job = int(pids.read_text())
        with subprocess.Popen(
            ["sh", "-c", f"{lines['ssh']} 'echo up; sleep 500'"], env=demo.user.env, stdout=-1
        ) as open_:
            assert open_.stdout.readline() == b"up\n"
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
        assert not is_running(job)
        assert all(is_free(port) for port in demo.ports)
    assert "Traceback" not in (demo.user.home / "stderr").read_text()


def test_a_second_start_finds_the_same_device_and_keys(demo):
    kept = ("device/device.json", "device/id_ed25519", "device/ssh_host_ed25519_key", "credentials.toml")
    seen = []
    for _ in range(2):
        with demo.running("--json") as (process, text):
            facts = json.loads(text)
            done = demo.paste(f"{facts['try'][3]} -- echo in")
            assert done.stdout == b"in\n", done.stderr
            seen.append((facts, [(demo.data / name).read_bytes() for name in kept]))
            process.terminate()
            assert process.wait(20) == 0
    assert seen[0] == seen[1]


def test_ctrl_c_while_it_starts_is_clean_too(demo):
    argv = demo.user.argv(*demo.args)
    with subprocess.Popen(argv, env=demo.user.env, stdout=-1, stderr=-1) as process:
        try:
            wait_until(lambda: not is_free(demo.ports[0]), "the API port being taken")
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 0, err
    assert b"Traceback" not in err
    assert all(is_free(port) for port in demo.ports)


def test_a_second_demo_at_once_says_so(demo):
    with demo.running() as (process, _):
        other = demo.fails()
        assert other.returncode == 75
        assert f"a demo runs already on {demo.data} (process {process.pid})".encode() in other.stderr
        assert process.poll() is None


@pytest.mark.parametrize(("position", "option"), [(0, "--api-listen"), (1, "--tunnel-listen")])
def test_a_taken_port_is_one_clear_error_with_the_option(demo, position, option):
    with socket.create_server((HOST, demo.ports[position])):
        failed = demo.fails()
    assert failed.returncode == 75
    error, _, hint = failed.stderr.decode().partition("\n\n")
    assert f"port {demo.ports[position]}" in error
    assert hint.startswith(f"hint: meetingctl demo {option} {HOST}:")
    assert "Traceback" not in failed.stderr.decode()


def test_a_taken_public_port_is_passed_over(demo):
    with socket.create_server((HOST, demo.ports[2])), demo.running("--json") as (process, text):
        facts = json.loads(text)
        assert demo.ports[2] not in (facts["ssh_port"], facts["http_port"])
        assert demo.paste(f"{facts['try'][0]} echo in").stdout == b"in\n"
        process.terminate()
        assert process.wait(20) == 0


def test_another_pool_moves_the_tunnels_of_the_first_start(demo):
    with demo.running("--json") as (process, text):
        before = json.loads(text)
        process.terminate()
        assert process.wait(20) == 0
    first = free_ports(4)
    demo.args[demo.args.index("--tunnel-ports") + 1] = f"{first}-{first + 3}"
    with demo.running("--json") as (process, text):
        facts = json.loads(text)
        assert {facts["ssh_port"], facts["http_port"]} <= set(range(first, first + 4))
        assert not {facts["ssh_port"], facts["http_port"]} & {before["ssh_port"], before["http_port"]}
        assert demo.paste(f"{facts['try'][0]} echo in").stdout == b"in\n"
        listed = json.loads(demo.paste(f"{facts['try'][2].replace('fleet', 'tunnel')} --json").stdout)
        assert {tunnel["port"] for tunnel in listed} == {facts["ssh_port"], facts["http_port"]}
        process.terminate()
        assert process.wait(20) == 0


def test_a_pool_that_is_taken_is_one_clear_error_with_the_option(demo):
    with contextlib.ExitStack() as others:
        for port in demo.ports[2:]:
            others.enter_context(socket.create_server((HOST, port)))
        failed = demo.fails()
    assert failed.returncode == 75
    assert b"meetingctl demo --tunnel-ports" in failed.stderr


def test_the_demo_stays_on_loopback(demo):
    failed = demo.user.run("demo", "--data", str(demo.data), "--api-listen", "0.0.0.0:0")
    assert failed.returncode == 2
    assert b"loopback" in failed.stderr


def test_make_run_prints_lines_that_need_no_path(demo):
    """Started by the path of its program, the demo prints that path: the virtual environment is on nobody's PATH."""
    program = Path(sys.executable).with_name("meetingctl")
    if not program.exists():
        pytest.skip("meetingctl is not installed as a program")
    with subprocess.Popen([program, *demo.args], env=demo.user.env, stdout=subprocess.PIPE) as process:
        try:
            lines = lines_of(demo._read_summary(process, demo.user.home / "stderr"))
            assert lines["list"].startswith(f"{program} --profile demo")
            assert demo.paste(lines["list"]).returncode == 0
            process.terminate()
            assert process.wait(20) == 0
        finally:
            process.kill()

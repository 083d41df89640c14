"""The demo device's SSH server, as OpenSSH's own programs see it."""

import contextlib
import fcntl
import getpass
import hashlib
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from pathlib import Path

import pytest

from meetingctl.demo.shell import login_shell
from meetingctl.demo.sshd import load_key

pytestmark = pytest.mark.real


def read_until(master: int, pattern: bytes, *, within_s: float = 15) -> bytes:
    """Read a terminal until the pattern shows up."""
    seen, deadline_s = b"", time.monotonic() + within_s
    while not re.search(pattern, seen):
        left_s = deadline_s - time.monotonic()
        assert left_s > 0, f"{pattern!r} did not come: {seen!r}"
        if select.select([master], [], [], left_s)[0]:
            seen += os.read(master, 65536)
    return seen


def wait_for(condition, *, within_s: float = 15) -> None:
    deadline_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline_s, "the condition did not come true"
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@contextlib.contextmanager
def interactive(openssh, rows: int = 24, columns: int = 80):
    """An `ssh -tt` in a terminal of its own; yields the terminal and the process."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    argv = ["setsid", "--ctty", *openssh.argv()]
    argv.insert(argv.index("device@127.0.0.1"), "-tt")
    env = os.environ | {"TERM": "vt100", "LC_ALL": "C.UTF-8"}
    with subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, env=env) as process:
        os.close(slave)
        try:
            yield master, process
        finally:
            process.kill()
            os.close(master)


def test_a_command_runs_as_the_invoking_user(openssh):
    done = openssh("id -un; echo err >&2; pwd; exit 9")
    assert done.returncode == 9
    assert done.stdout.decode().split() == [getpass.getuser(), str(Path.home())]
    assert done.stderr == b"err\n"


def test_input_reaches_the_command_and_its_end_too(openssh):
    content = hashlib.shake_256(b"input").digest(2_000_000)
    done = openssh("sha256sum", input=content)
    assert done.stdout.decode().split()[0] == hashlib.sha256(content).hexdigest()


def test_a_killed_command_reports_the_signal(openssh):
    assert openssh("kill -KILL $$").returncode == 255


def test_another_key_is_refused(openssh, tmp_path):
    load_key(tmp_path / "stranger", "stranger")
    openssh.options[3] = str(tmp_path / "stranger")
    refused = openssh("true")
    assert refused.returncode == 255
    assert b"Permission denied" in refused.stderr


def test_a_shell_has_a_real_terminal_that_follows_the_window(openssh):
    with interactive(openssh, 24, 80) as (master, process):
        os.write(master, b"stty size; tty; echo $TERM-end\n")
        seen = read_until(master, rb"vt100-end")
        assert b"24 80" in seen
        assert b"/dev/pts/" in seen
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 133, 0, 0))
        os.kill(process.pid, signal.SIGWINCH)
        deadline_s = time.monotonic() + 10
        while time.monotonic() < deadline_s:
            os.write(master, b"stty size; echo size-$((1 + 1))\n")
            if b"40 133" in read_until(master, rb"size-2"):
                break
        else:
            pytest.fail("the new window size did not arrive")
        os.write(master, b"exit 6\n")
        assert process.wait(15) == 6


def test_the_prompt_shows_the_device(openssh):
    if Path(login_shell()).name != "bash":
        pytest.skip("only bash is told its prompt after its start files")
    with interactive(openssh) as (master, process):
        read_until(master, getpass.getuser().encode() + rb"@demo-cam:.*[$#] ")
        os.write(master, b"echo [${PROMPT_COMMAND-unset}]; exit\n")
        read_until(master, rb"\[unset\]")
        assert process.wait(15) == 0


def test_the_terminal_is_the_controlling_one(openssh):
    """Ctrl-C reaches the foreground job and the shell lives on."""
    with interactive(openssh) as (master, process):
        os.write(master, b"echo ready-$((1 + 1)); sleep 60\n")
        read_until(master, rb"ready-2")
        wait_for(lambda: subprocess.run(["pgrep", "-f", "^sleep 60$"], capture_output=True).returncode == 0)
        os.write(master, b"\x03")
        os.write(master, b"echo alive-$((1 + 1))\n")
        read_until(master, rb"alive-2")
        os.write(master, b"exit\n")
        assert process.wait(15) == 0


def test_the_last_output_before_the_end_is_not_lost(openssh):
    argv = openssh.argv("seq 20000; echo the end")
    argv.insert(1, "-tt")
    done = subprocess.run(argv, capture_output=True, timeout=30, stdin=subprocess.DEVNULL)
    assert done.stdout.endswith(b"the end\r\n")
    assert done.stdout.count(b"\n") == 20001


def test_a_visitor_that_is_gone_takes_its_session_with_it(openssh, tmp_path):
    pid_file = tmp_path / "pid"
    with subprocess.Popen(openssh.argv(f"echo $$ > {pid_file}; exec sleep 600")) as process:
        wait_for(lambda: pid_file.exists() and pid_file.read_text().strip())
        pid = int(pid_file.read_text())
        assert is_running(pid)
        process.kill()
    wait_for(lambda: not is_running(pid))


def test_files_travel_both_ways_with_both_protocols(openssh, tmp_path):
    content = hashlib.shake_256(b"files").digest(3_000_000)
    (tmp_path / "up").write_bytes(content)
    for extra in ([], ["-O"]):
        remote, back = tmp_path / "remote", tmp_path / "back"
        assert openssh.copy(*extra, str(tmp_path / "up"), f"device@127.0.0.1:{remote}").returncode == 0
        assert openssh.copy(*extra, f"device@127.0.0.1:{remote}", str(back)).returncode == 0
        assert back.read_bytes() == content
        remote.unlink()
        back.unlink()


def test_relative_file_names_begin_at_home(openssh):
    done = subprocess.run(
        ["sftp", *openssh.options, "device@127.0.0.1"], input=b"pwd\n", capture_output=True, timeout=30
    )
    assert str(Path.home()).encode() in done.stdout


def test_keys_are_made_once_and_kept_private(tmp_path):
    first = load_key(tmp_path / "id", "comment")
    assert load_key(tmp_path / "id", "comment").public_data == first.public_data
    assert (tmp_path / "id").stat().st_mode & 0o777 == 0o600
    assert b"comment" in (tmp_path / "id.pub").read_bytes()

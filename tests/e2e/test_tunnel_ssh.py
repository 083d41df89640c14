"""OpenSSH's own programs, through the tunnel, to a real sshd."""

import hashlib
import subprocess
from pathlib import Path

import pytest

from e2e.world import HOST, Sshd, World, own_address, running

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

COPY_BYTES = 64 * 1024 * 1024
SESSIONS = 20


def sha256_of(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_a_shell_command_runs_on_the_device(world):
    done = world.ssh("echo $((6 * 7)); echo err >&2; exit 3")
    assert (done.returncode, done.stdout, done.stderr) == (3, b"42\n", b"err\n")


@pytest.mark.parametrize("protocol", ["-s", "-O"], ids=["sftp", "scp"])
def test_64_mib_arrive_whole_both_ways(world, tmp_path, protocol):
    source, there, back = tmp_path / "source", tmp_path / "there", tmp_path / "back"
    source.write_bytes(hashlib.shake_256(protocol.encode()).digest(COPY_BYTES))
    scp = ["scp", protocol, *world.ssh_options()]
    for words in ([str(source), f"{HOST}:{there}"], [f"{HOST}:{there}", str(back)]):
        subprocess.run([*scp, *words], check=True, capture_output=True, timeout=120)
    assert there.stat().st_size == back.stat().st_size == COPY_BYTES
    assert sha256_of(source) == sha256_of(there) == sha256_of(back)


def test_20_sessions_live_at_once(world):
    """Every session answers only after all of them are up."""
    argv = ["ssh", *world.ssh_options(), HOST, "echo up; read number; echo $number"]
    pipe = subprocess.PIPE
    sessions = [subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe) for _ in range(SESSIONS)]
    try:
        assert [session.stdout.readline() for session in sessions] == [b"up\n"] * SESSIONS
        shown = world.operator.json("tunnel", "show", str(world.public_port))
        assert shown["online"] is True
        assert shown["streams"] >= SESSIONS
        for number, session in enumerate(sessions):
            out, _ = session.communicate(f"{number}\n".encode(), timeout=60)
            assert out == f"{number}\n".encode()
    finally:
        for session in sessions:
            session.kill()
            session.communicate()


def test_remote_run_goes_through_the_tunnel_and_then_directly(world):
    """The first contact pins the key in the tunnel; the pin then vouches for the direct address."""
    login = ("--user", world.sshd.user, "-i", str(world.sshd.identity))
    world.operator.run("remote", "untrust", world.key)
    first = world.operator.run("remote", "run", world.key, *login, "-v", "--", "echo one; exit 4")
    assert (first.returncode, first.stdout) == (4, b"one\n"), first.stderr
    assert b"tunnel, " in first.stderr
    assert b"first contact" in first.stderr
    address = own_address()
    if address is None:
        pytest.skip("this machine has no address beside loopback")
    beat = world.operator.run("fleet", "heartbeat", world.key, "--ip-lan", address)
    assert beat.returncode == 0, beat.stderr
    second = world.operator.run("remote", "run", world.key, *login, "-v", "--", "echo two")
    assert (second.returncode, second.stdout) == (0, b"two\n")
    assert b"direct, ip_lan answers as SSH-2.0-OpenSSH" in second.stderr
    assert b"first contact" not in second.stderr


def test_a_stranger_at_the_direct_address_is_passed_over(openssh, tmp_path):
    """Another machine has the device's address now: its key is not the pinned one, so the tunnel is taken."""
    address = own_address()
    if address is None:
        pytest.skip("this machine has no address beside loopback")
    with running(World(tmp_path / "world")) as world:
        stranger = Sshd(tmp_path / "stranger", address, port=world.sshd.port)
        stranger.start(address)
        try:
            login = ("--user", world.sshd.user, "-i", str(world.sshd.identity))
            assert world.operator.run("fleet", "heartbeat", world.key, "--ip-lan", address).returncode == 0
            for _ in range(2):
                done = world.operator.run("remote", "run", world.key, *login, "-v", "--", "echo", "in")
                assert (done.returncode, done.stdout) == (0, b"in\n"), done.stderr
            assert b"passed over" in done.stderr
            assert b"is not the pinned one" in done.stderr
            refused = world.operator.run("remote", "run", world.key, *login, "--via", "direct", "--", "true")
            assert refused.returncode == 4
            assert refused.stderr.count(b"SHA256:") >= 2
        finally:
            stranger.daemon.stop()


def test_remote_leaves_an_open_tunnel_as_it_is(world):
    """Its end and its list of visitors are the operator's choice."""
    world.operator.json("tunnel", "open", world.key, "ssh", "--for", "7h", "--allow-from", "127.0.0.0/8")
    before = world.operator.json("tunnel", "show", str(world.public_port))
    login = ("--user", world.sshd.user, "-i", str(world.sshd.identity))
    done = world.operator.run("remote", "run", world.key, *login, "--via", "tunnel", "--", "true")
    assert done.returncode == 0, done.stderr
    after = world.operator.json("tunnel", "show", str(world.public_port))
    assert before["allow_from"] == after["allow_from"] == ["127.0.0.0/8"]
    assert before["expires_at"] == after["expires_at"]


def test_remote_ssh_execs_openssh_with_the_same_pin(world):
    login = ("--user", world.sshd.user, "-i", str(world.sshd.identity))
    done = world.operator.run("remote", "ssh", world.key, *login, "--via", "tunnel", "--", "cat; exit 5", input=b"in")
    assert (done.returncode, done.stdout) == (5, b"in"), done.stderr


def test_remote_run_streams_100_mib_in_bounded_memory(world):
    login = ("--user", world.sshd.user, "-i", str(world.sshd.identity))
    line = "head -c 104857600 /dev/zero | tr '\\0' 'm'"
    program = world.operator.argv("remote", "run", world.key, *login, "--", line)
    digest, peaks_kib = hashlib.sha256(), []
    with subprocess.Popen(program, env=world.operator.env, stdout=subprocess.PIPE) as process:
        for _ in range(100):
            digest.update(process.stdout.read(1 << 20))
            status = Path(f"/proc/{process.pid}/status").read_text()
            peaks_kib += [int(row.split()[1]) for row in status.splitlines() if row.startswith("VmHWM")]
        assert process.stdout.read() == b""
    assert process.returncode == 0
    assert digest.hexdigest() == hashlib.sha256(b"m" * 104857600).hexdigest()
    assert max(peaks_kib) - peaks_kib[0] < 16 * 1024

import asyncio
import hashlib
import socket
import time

import asyncssh
import pytest

from meetingctl.core.errors import AuthError, ConfigError, HostKeyChanged, TransportLost, Unreachable
from meetingctl.core.secret import Secret
from meetingctl.core.target import parse_target
from meetingctl.demo.sshd import load_key
from meetingctl.remote.command import join_command, run_command, wrap_sudo
from meetingctl.remote.hosts import HostKeys
from meetingctl.remote.session import Login, connect, fetch_host_key, order_host_key_algorithms
from meetingctl.remote.ways import Route

TARGET = parse_target("cam-7")


@pytest.fixture
def pins(tmp_path):
    return HostKeys(tmp_path / "known_hosts")


def route_to(device):
    return Route("127.0.0.1", device.port, "direct", "test")


def run(device, pins, line, *, stdout, stderr=lambda chunk: None, notes=None, login=None, port=None):
    """Run one line on the device, with its key unless another login is given."""

    async def main():
        route = Route("127.0.0.1", port or device.port, "direct", "test")
        async with connect(
            TARGET,
            route,
            login=login or Login("anyone", device.identity),
            pins=pins,
            connect_s=10,
            note=(notes if notes is not None else []).append,
        ) as connection:
            return await run_command(connection, line, stdout=stdout, stderr=stderr)

    return asyncio.run(main())


def test_the_first_contact_pins_the_key_and_says_so_once(device, pins):
    notes, out = [], []
    assert run(device, pins, "echo one; exit 3", stdout=out.append, notes=notes).exit_code == 3
    assert b"".join(out) == b"one\n"
    assert pins.pinned("cam-7") == (device.offered,)
    assert len(notes) == 1
    assert device.offered.fingerprint in notes[0]
    run(device, pins, "true", stdout=out.append, notes=notes)
    assert len(notes) == 1


@pytest.mark.parametrize(
    ("offered", "taken"),
    [
        ((), "aes128-gcm@openssh.com"),
        (["chacha20-poly1305@openssh.com"], "chacha20-poly1305@openssh.com"),
        (["aes256-ctr"], "aes256-ctr"),
    ],
)
def test_the_cheapest_cipher_is_taken_that_the_device_offers(device, pins, offered, taken):
    keys = asyncssh.import_authorized_keys(device.identity.with_name("id.pub").read_text())

    async def main():
        async with asyncssh.listen(
            "127.0.0.1", 0, server_host_keys=[device.host_key], authorized_client_keys=keys, encryption_algs=offered
        ) as acceptor:
            route = Route("127.0.0.1", acceptor.get_port(), "direct", "test")
            login = Login("anyone", device.identity)
            async with connect(TARGET, route, login=login, pins=pins, connect_s=20, note=print) as connection:
                return connection.get_extra_info("send_cipher"), connection.get_extra_info("recv_cipher")

    assert asyncio.run(main()) == (taken, taken)


def test_another_key_than_the_pinned_one_is_refused(device, pins, tmp_path):
    other = load_key(tmp_path / "other", "other")
    pins.pin("cam-7", type(device.offered)(other.public_data))
    with pytest.raises(HostKeyChanged, match=r"SHA256:.*SHA256:"):
        run(device, pins, "true", stdout=lambda chunk: None)


def test_a_refused_login_pins_nothing(device, pins, tmp_path):
    load_key(tmp_path / "stranger", "stranger")
    with pytest.raises(AuthError, match="may not log in"):
        run(device, pins, "true", stdout=lambda chunk: None, login=Login("anyone", tmp_path / "stranger"))
    assert pins.pinned("cam-7") == ()


def test_a_missing_key_file_is_a_wrong_configuration(device, pins, tmp_path):
    with pytest.raises(ConfigError, match="no such key file"):
        run(device, pins, "true", stdout=lambda chunk: None, login=Login("anyone", tmp_path / "none"))


def test_a_password_is_no_way_in_where_only_keys_count(device, pins, tmp_path):
    load_key(tmp_path / "stranger", "stranger")
    login = Login("anyone", tmp_path / "stranger", Secret("guess"))
    with pytest.raises(AuthError) as refused:
        run(device, pins, "true", stdout=lambda chunk: None, login=login)
    assert "guess" not in str(refused.value)


def test_binary_output_arrives_whole_and_in_order(device, pins):
    digest, size_bytes = hashlib.sha256(), 0

    def count(chunk):
        nonlocal size_bytes
        digest.update(chunk)
        size_bytes += len(chunk)

    line = "head -c 16777216 /dev/zero | openssl enc -aes-128-ctr -K 00 -iv 00 2>/dev/null"
    run(device, pins, line, stdout=count)
    again = hashlib.sha256()
    run(device, pins, f"{line} | sha256sum", stdout=lambda chunk: again.update(chunk[:64]))
    assert size_bytes == 16777216
    assert again.hexdigest() == hashlib.sha256(digest.hexdigest().encode()).hexdigest()


def test_both_outputs_stay_apart_and_input_is_empty(device, pins):
    out, err = [], []
    run(device, pins, "cat; echo out; echo err >&2", stdout=out.append, stderr=err.append)
    assert (b"".join(out), b"".join(err)) == (b"out\n", b"err\n")


def test_a_slow_reader_makes_the_device_wait(device, pins, tmp_path):
    """Half of the output is taken slowly: the device may be ahead by its window and what sockets and pipes hold."""
    progress, size_bytes = tmp_path / "progress", 48 * 1024 * 1024
    taken_bytes, ahead_bytes = 0, [0]

    def write_slowly(chunk):
        nonlocal taken_bytes
        taken_bytes += len(chunk)
        if taken_bytes < size_bytes // 2:
            time.sleep(0.001)
            ahead_bytes.append(progress.stat().st_size - taken_bytes)

    run(device, pins, f"head -c {size_bytes} /dev/zero | tee {progress}", stdout=write_slowly)
    assert taken_bytes == size_bytes
    assert max(ahead_bytes) < 14 * 1024 * 1024


def test_an_output_that_nobody_reads_ends_the_command(device, pins):
    def broken(chunk):
        raise BrokenPipeError

    started_s = time.monotonic()
    with pytest.raises(BrokenPipeError):
        run(device, pins, "yes", stdout=broken)
    assert time.monotonic() - started_s < 10


def test_a_command_that_a_signal_ends_gives_128_and_the_signal(device, pins):
    assert run(device, pins, "kill -TERM $$", stdout=lambda chunk: None).exit_code == 128 + 15


def test_a_connection_that_breaks_is_transport_loss(device, pins, loop_thread):
    """A relay between both is cut while the command runs."""

    async def main():
        ends = []

        async def relay(reader, writer):
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", device.port)
            ends.extend([writer, up_writer])

            async def copy(source, sink):
                while data := await source.read(65536):
                    sink.write(data)

            await asyncio.gather(copy(reader, up_writer), copy(up_reader, writer), return_exceptions=True)

        async with await asyncio.start_server(relay, "127.0.0.1", 0) as server:
            route = Route("127.0.0.1", server.sockets[0].getsockname()[1], "direct", "test")
            login = Login("anyone", device.identity)
            async with connect(TARGET, route, login=login, pins=pins, connect_s=10, note=print) as connection:

                def cut(chunk):
                    connection._loop.call_soon_threadsafe(lambda: [end.transport.abort() for end in ends])

                with pytest.raises(TransportLost) as lost:
                    await run_command(connection, "echo go; sleep 30", stdout=cut, stderr=print)
                assert lost.value.exit_code == 255

    pins = HostKeys(pins.path)
    asyncio.run(main())


def test_a_host_that_accepts_and_says_nothing_is_given_up(pins, device):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        route = Route("127.0.0.1", silent.getsockname()[1], "direct", "test")

        async def main():
            async with connect(
                TARGET, route, login=Login("anyone", device.identity), pins=pins, connect_s=0.3, note=print
            ):
                pass

        started_s = time.monotonic()
        with pytest.raises(Unreachable, match=r"within 0\.3 s"):
            asyncio.run(main())
        with pytest.raises(Unreachable):
            asyncio.run(fetch_host_key(route, timeout_s=0.3))
        assert time.monotonic() - started_s < 5


def test_the_host_key_can_be_asked_for_without_a_login(device):
    assert asyncio.run(fetch_host_key(route_to(device), timeout_s=5)) == device.offered


def test_the_pinned_kind_of_key_is_asked_for_first(device):
    assert order_host_key_algorithms(())[0] == "ssh-ed25519"
    rsa = type(device.offered)(b"\0\0\0\x07ssh-rsa")
    assert order_host_key_algorithms([rsa])[:2] == ["rsa-sha2-512", "rsa-sha2-256"]
    assert set(order_host_key_algorithms([rsa])) == set(order_host_key_algorithms(()))


def test_one_word_is_a_line_and_several_arrive_as_given(device, pins):
    assert join_command(["echo $HOME | cat"]) == "echo $HOME | cat"
    out = []
    run(device, pins, join_command(["printf", "%s;", "a b", "$HOME", "'"]), stdout=out.append)
    assert b"".join(out) == b"a b;$HOME;';"


def run_with_sudo(device, pins, tmp_path, line, *, uid: int, has_password: bool) -> bytes:
    """Run a line by sudo as a user with this number; `sudo` and `id` are stand-ins.

    That for sudo says so, and reads one line as the real one does with -S, and then runs what follows `--`.
    """
    programs = {
        "sudo": 'echo "by sudo"; [ "$1" = -S ] && read -r _; while [ "$1" != -- ]; do shift; done; shift; exec "$@"',
        "id": f"echo {uid}",
    }
    for name, script in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    out = []

    async def main():
        login, route = Login("anyone", device.identity), route_to(device)
        command = f"PATH={tmp_path}:$PATH; {wrap_sudo(line, has_password=has_password)}"
        async with connect(TARGET, route, login=login, pins=pins, connect_s=10, note=print) as connection:
            return await run_command(connection, command, stdout=out.append, stderr=print, stdin=b"secret\nmore\n")

    assert asyncio.run(main()).exit_code == 0
    return b"".join(out)


@pytest.mark.parametrize(("uid", "said"), [(1000, b"by sudo\n"), (0, b"")])
def test_sudo_keeps_the_password_from_the_command(device, pins, tmp_path, uid, said):
    line = "cat; echo 'it''s done'"
    assert run_with_sudo(device, pins, tmp_path, line, uid=uid, has_password=True) == said + b"its done\n"


@pytest.mark.parametrize(("uid", "said"), [(1000, b"by sudo\n"), (0, b"")])
def test_who_is_root_already_needs_no_sudo(device, pins, tmp_path, uid, said):
    assert run_with_sudo(device, pins, tmp_path, "echo $((6 * 7))", uid=uid, has_password=False) == said + b"42\n"

"""Whatever breaks, the tunnel comes back by itself, and no port stays locked."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from meetingctl.tunnel.rules import LinkRules

from .conftest import MakeBed, StartAgent, either_agent
from .support import Bed, Child, connect, echo, free_port, read_all, read_exactly, service, wait_until


def is_served(port: int, host: str = "127.0.0.1", *, timeout_s: float = 1.0) -> bool:
    """Say whether an echo comes back through the tunnel."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=timeout_s) as visitor:
        visitor.sendall(b"ping")
        return read_exactly(visitor, 4) == b"ping"
    return False


@either_agent
def test_the_newest_connection_wins_and_the_port_stays(bed: Bed, kind: str, start_agent: StartAgent) -> None:
    with service(lambda sock: sock.sendall(b"first")) as first, service(echo) as second:
        former = start_agent(bed, kind, first, backoff_first_s=3600, backoff_most_s=3600)
        port = bed.open(second)
        bed.wait_listening(port)
        start_agent(bed, kind, second, wait=False)
        wait_until(lambda: bed.directory.generation == 2)
        wait_until(lambda: is_served(port))
        assert len(bed.agents()) == 1
        former.close()
        assert is_served(port)


def test_two_devices_with_one_key_are_reported(bed: Bed, start_agent: StartAgent) -> None:
    with service(echo) as local_port:
        start_agent(bed, "new", local_port)
        start_agent(bed, "new", local_port)
        wait_until(lambda: any(e.kind == "two devices share one key" for e in bed.directory.events), timeout_s=15)


def test_a_failed_handshake_does_not_disturb_the_connected_agent(bed: Bed, start_agent: StartAgent) -> None:
    with service(echo) as local_port:
        start_agent(bed, "new", local_port)
        port = bed.open(local_port)
        bed.wait_listening(port)
        with connect(port) as visitor:
            visitor.sendall(b"a")
            assert visitor.recv(1) == b"a"
            with connect(bed.port) as intruder:
                intruder.sendall(b'{"name":"CAM-1","token":"000000"}\n')
                assert b"error" in read_all(intruder)
            visitor.sendall(b"b")
            assert visitor.recv(1) == b"b"


def test_a_killed_agent_returns(bed: Bed) -> None:
    with service(echo) as local_port:
        port = bed.open(local_port)
        child = Child("agent_process", bed.host, bed.port, local_port, 20)
        bed.wait_listening(port)
        with connect(port) as visitor:
            visitor.sendall(b"a")
            assert visitor.recv(1) == b"a"
            child.kill()
            with pytest.raises(ConnectionResetError):
                read_all(visitor)
        child = Child("agent_process", bed.host, bed.port, local_port, 20)
        try:
            wait_until(lambda: is_served(port), timeout_s=10)
        finally:
            child.kill()


@either_agent
def test_agents_return_to_a_killed_proxy(kind: str, start_agent: StartAgent) -> None:
    public, listen = free_port(), free_port()

    class Server:
        host, port = "127.0.0.1", listen

    with service(echo) as local_port:
        way = f"{public}:{local_port}"
        child = Child("proxy_process", listen, way, "127.0.0.1", 2)
        assert child.read_line() == str(listen)
        start_agent(Server, kind, local_port, wait=False)
        wait_until(lambda: is_served(public), timeout_s=10)
        child.kill()
        assert not is_served(public)
        child = Child("proxy_process", listen, way, "127.0.0.1", 2)
        try:
            wait_until(lambda: is_served(public), timeout_s=15)
        finally:
            child.kill()


def test_closing_the_proxy_frees_every_port_and_descriptor(make_bed: MakeBed, start_agent: StartAgent) -> None:
    with service(echo) as local_port:
        bed = make_bed()
        agent = start_agent(bed, "new", local_port)
        port = bed.open(local_port)
        bed.wait_listening(port)
        with connect(port) as visitor:
            visitor.sendall(b"a")
            assert visitor.recv(1) == b"a"
            bed.call(bed.proxy.close())
            with pytest.raises(ConnectionResetError):
                read_all(visitor)
        assert bed.directory.visits[-1].reason == "proxy stopped"
        for freed in (port, bed.port):
            socket.create_server(("127.0.0.1", freed)).close()
        wait_until(lambda: agent.status().state in {"waiting", "connecting"})


def test_a_silent_agent_is_noticed_by_pings(make_bed: MakeBed, start_agent: StartAgent) -> None:
    bed = make_bed(rules=LinkRules(ping_s=0.3))
    with service(echo) as local_port:
        child = Child("agent_process", bed.host, bed.port, local_port, 20)
        bed.wait_online()
        time.sleep(1.0)
        assert bed.agents(), "an idle agent that answers stays"
        os.kill(child.process.pid, 19)
        wait_until(lambda: not bed.agents(), timeout_s=5)
        wait_until(lambda: any("no sign of life" in event.detail for event in bed.directory.events))
        child.kill()


def test_an_agent_that_takes_nothing_is_dropped(make_bed: MakeBed) -> None:
    bed = make_bed(rules=replace(LinkRules(), stall_s=1.0))
    with socket.create_connection((bed.host, bed.port)) as agent:
        agent.sendall(b'{"name":"CAM-1","token":"3FA9C1"}\n')
        port = bed.open(1)
        bed.wait_listening(port)
        with connect(port) as visitor, pytest.raises((ConnectionResetError, BrokenPipeError)):
            visitor.sendall(b"x" * (64 << 20))
        wait_until(lambda: any(event.kind == "agent stalled" for event in bed.directory.events))


@pytest.fixture
def two_hosts() -> Iterator[tuple[str, str, str]]:
    """Two network namespaces joined by a cable: the namespaces' names and the first one's address."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        message = "needs root and ip (apt-get install iproute2)"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    names = [f"mt{os.getpid()}{side}" for side in "ab"]

    def ip(*argv: str) -> None:
        subprocess.run(["ip", *argv], check=True, capture_output=True)

    try:
        for name in names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("link", "add", names[0], "netns", names[0], "type", "veth", "peer", "name", names[1], "netns", names[1])
        for name, address in zip(names, ("10.231.7.1/24", "10.231.7.2/24"), strict=True):
            ip("-n", name, "addr", "add", address, "dev", name)
            ip("-n", name, "link", "set", name, "up")
        yield names[0], names[1], "10.231.7.1"
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@pytest.mark.real
def test_a_silent_loss_of_the_link_heals(two_hosts: tuple[str, str, str]) -> None:
    server, device, address = two_hosts
    inside, outside = ("ip", "netns", "exec", device), ("ip", "netns", "exec", server)
    echo_code = (
        "import socketserver,sys\n"
        "class E(socketserver.BaseRequestHandler):\n"
        "    def handle(self):\n"
        "        while c := self.request.recv(100): self.request.sendall(c)\n"
        "s = socketserver.ThreadingTCPServer(('127.0.0.1', 0), E); s.daemon_threads = True\n"
        "print(s.server_address[1], flush=True); s.serve_forever()\n"
    )
    probe_code = (
        "import socket,sys\n"
        "try:\n"
        "    s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=1)\n"
        "    s.sendall(b'ping'); sys.exit(s.recv(4) != b'ping')\n"
        "except OSError: sys.exit(1)\n"
    )

    def is_alive() -> bool:
        return (
            subprocess.run([*outside, sys.executable, "-c", probe_code, address, "7022"], check=False).returncode == 0
        )

    with contextlib.ExitStack() as stack:
        service_process = subprocess.Popen(
            [*inside, sys.executable, "-c", echo_code], stdout=subprocess.PIPE, text=True
        )
        stack.callback(lambda: (service_process.kill(), service_process.communicate()))
        assert service_process.stdout is not None
        local_port = int(service_process.stdout.readline())
        proxy = Child("proxy_process", 9001, f"7022:{local_port}", address, 2, prefix=outside)
        stack.callback(proxy.kill)
        assert proxy.read_line() == "9001"
        agent = Child("agent_process", address, 9001, local_port, 0.5, prefix=inside)
        stack.callback(agent.kill)
        wait_until(is_alive, timeout_s=15)
        subprocess.run(["ip", "-n", device, "link", "set", device, "down"], check=True)
        while agent.read_line() != "waiting":
            pass
        subprocess.run(["ip", "-n", device, "link", "set", device, "up"], check=True)
        wait_until(is_alive, timeout_s=20)

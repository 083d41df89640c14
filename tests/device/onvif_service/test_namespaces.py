"""A recorder in another network namespace finds the camera by multicast, whatever the routes and addresses are."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .live import DEADLINE_S, Running, configure

pytestmark = pytest.mark.real

CAMERA, RECORDER, MOVED = "10.231.9.1", "10.231.9.2", "10.231.9.77"
WSDISCOVERY = """
import sys
from wsdiscovery import QName, Scope
from wsdiscovery.discovery import ThreadedWSDiscovery
wsd = ThreadedWSDiscovery()
wsd.start()
found = wsd.searchServices(types=[QName("http://www.onvif.org/ver10/network/wsdl", "NetworkVideoTransmitter")],
                           scopes=[Scope("onvif://www.onvif.org/Profile")], timeout=2)
print("\\n".join(f"{item.getEPR()} {' '.join(item.getXAddrs())}" for item in found))
wsd.stop()
"""
PROBE = """
import socket, sys
data = sys.stdin.buffer.read()
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(sys.argv[1]))
sock.bind((sys.argv[1], 0))
sock.settimeout(1)
sock.sendto(data, (sys.argv[2], 3702))
answers = []
try:
    while True:
        answers.append(sock.recv(65536))
except TimeoutError:
    pass
sys.stdout.buffer.write(b"\\n".join(answers))
"""
LISTEN = """
import socket, struct, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
sock.bind(("", 3702))
sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP,
                socket.inet_aton("239.255.255.250") + socket.inet_aton(sys.argv[1]))
print("listening", flush=True)
while True:
    text = sock.recv(65536).decode()
    for word in ("Hello", "Bye"):
        if f"<d:{word}>" in text:
            print(word, text.partition("<d:XAddrs>")[2].partition("<")[0], flush=True)
"""


class Cable:
    """Two namespaces joined by a cable, without any route but that of their subnet."""

    def __init__(self) -> None:
        tag = secrets.token_hex(3)
        self.camera, self.recorder = f"ocam{tag}", f"orec{tag}"

    def ip(self, *words: str, check: bool = True) -> None:
        subprocess.run(["ip", *words], check=check, capture_output=True, timeout=30)

    def lay(self) -> None:
        for name in (self.camera, self.recorder):
            self.ip("netns", "add", name)
        peer = ("peer", "name", "eth9", "netns", self.recorder)
        self.ip("link", "add", "eth9", "netns", self.camera, "type", "veth", *peer)
        for name, address in ((self.camera, CAMERA), (self.recorder, RECORDER)):
            self.ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth9")
            self.ip("-n", name, "link", "set", "lo", "up")
            self.ip("-n", name, "link", "set", "eth9", "up")

    def cut(self) -> None:
        for name in (self.camera, self.recorder):
            self.ip("netns", "del", name, check=False)

    def python(self, code: str, *words: str, stdin: bytes = b"") -> str:
        argv = ["ip", "netns", "exec", self.recorder, sys.executable, "-W", "ignore", "-c", code, *words]
        ran = subprocess.run(argv, input=stdin, capture_output=True, timeout=DEADLINE_S, check=False)
        return ran.stdout.decode()


@pytest.fixture
def cable(require_program: Callable[..., str]) -> Iterator[Cable]:
    require_program("ip", package="iproute2")
    if os.geteuid() != 0:
        pytest.skip("needs root for network namespaces")
    cable = Cable()
    try:
        cable.lay()
        yield cable
    finally:
        cable.cut()


@pytest.fixture
def daemon(cable: Cable, tmp_path: Path) -> Iterator[Running]:
    configure(tmp_path, {"RTSP_USER": "admin", "RTSP_PASSWORD": "secret"})
    daemon = Running(tmp_path, prefix=("ip", "netns", "exec", cable.camera))
    daemon.start(host="0.0.0.0", port=8080)
    yield daemon
    daemon.stop()


def until(look: Callable[[], str], wanted: str) -> str:
    ends_s = time.monotonic() + DEADLINE_S
    while wanted not in (found := look()):
        assert time.monotonic() < ends_s, f"no {wanted} in {found!r}"
        time.sleep(0.1)
    return found


def url(address: str) -> str:
    return f"http://{address}:8080/onvif/device_service"


def test_found_without_and_with_a_default_route_and_after_an_address_change(cable: Cable, daemon: Running) -> None:
    def search() -> str:
        return cable.python(WSDISCOVERY)

    first = until(search, url(CAMERA))
    assert "urn:uuid:" in first

    cable.ip("-n", cable.camera, "route", "add", "default", "via", RECORDER)
    assert first == until(search, url(CAMERA))

    heard = subprocess.Popen(
        ["ip", "netns", "exec", cable.recorder, sys.executable, "-c", LISTEN, RECORDER],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert heard.stdout is not None
        assert heard.stdout.readline().strip() == "listening"
        cable.ip("-n", cable.camera, "addr", "flush", "dev", "eth9")
        cable.ip("-n", cable.camera, "addr", "add", f"{MOVED}/24", "dev", "eth9")
        moved = until(search, url(MOVED))
        assert moved.split()[0] == first.split()[0]
        assert CAMERA not in moved.replace(MOVED, "")
        assert heard.stdout.readline().split() == ["Hello", url(MOVED)]
        daemon.stop()
        assert heard.stdout.readline().split() == ["Bye"]
    finally:
        heard.kill()
        heard.communicate()


def test_an_answer_carries_the_address_of_the_asking_subnet(cable: Cable, daemon: Running) -> None:
    from .test_discovery import probe

    cable.ip("-n", cable.camera, "addr", "add", "172.31.5.1/16", "dev", "eth9")
    cable.ip("-n", cable.recorder, "addr", "add", "172.31.5.2/16", "dev", "eth9")

    def ask(source: str, target: str) -> str:
        return cable.python(PROBE, source, target, stdin=probe())

    other = until(lambda: ask("172.31.5.2", "239.255.255.250"), url("172.31.5.1"))
    assert CAMERA not in other
    assert url(CAMERA) in until(lambda: ask(RECORDER, "239.255.255.250"), url(CAMERA))
    # Unicast probes are answered as well.
    assert url(CAMERA) in until(lambda: ask(RECORDER, CAMERA), url(CAMERA))

"""kill -9 of each part: what was acknowledged stays, and the tunnel is back by itself."""

import http.client
import ipaddress
import json
import threading
import time

import pytest

from e2e.world import HOST, World, answers_ssh, is_free, own_address, running, wait_until

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

DEVICES = 6
KILLS = 3
LOAD_S = 1.0


class Heart(threading.Thread):
    """One device that sends heartbeats as fast as they are acknowledged, each with a number as its LAN address."""

    def __init__(self, port, key, token_code):
        super().__init__(daemon=True)
        self.key = key
        self.acknowledged = 0
        self.sent = 0
        self.refused = []
        self._address = (HOST, port)
        self._headers = {"X-Token-Code": token_code, "Content-Type": "application/json"}

    def run(self):
        connection = http.client.HTTPConnection(*self._address, timeout=10)
        try:
            while True:
                self.sent += 1
                body = json.dumps({"ip_lan": str(ipaddress.IPv4Address("10.0.0.0") + self.sent)})
                connection.request("POST", f"/api/devices/{self.key}/online", body, self._headers)
                answer = connection.getresponse()
                answer.read()
                if answer.status == 200:
                    self.acknowledged = self.sent
                else:
                    self.refused.append(answer.status)
        except (OSError, http.client.HTTPException):
            connection.close()


def test_every_acknowledged_heartbeat_survives_kill_9(openssh, tmp_path):
    with running(World(tmp_path / "world")) as world:
        devices = [world.operator.json("fleet", "create", "--generate") for _ in range(DEVICES)]
        for _ in range(KILLS):
            hearts = [Heart(world.api_port, device["device_key"], device["token_code"]) for device in devices]
            for heart in hearts:
                heart.start()
            time.sleep(LOAD_S)  # The load itself, not a wait for something.
            world.server.kill()
            for heart in hearts:
                heart.join(20)
                assert not heart.is_alive()
            world.start_server()
            stored = {device["device_key"]: device["ip_lan"] for device in world.operator.json("fleet", "list")}
            for heart in hearts:
                assert heart.acknowledged > 10, heart.refused[:5]
                number = int(ipaddress.IPv4Address(stored[heart.key])) - int(ipaddress.IPv4Address("10.0.0.0"))
                assert heart.acknowledged <= number <= heart.sent
        checked = world.operator.run("db", "check", "--data", str(world.data))
        assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_tunnel_is_back_after_kill_9_of_the_agent(openssh, tmp_path):
    with running(World(tmp_path / "world")) as world:
        world.agent.kill()
        shown = ("tunnel", "show", str(world.public_port))
        wait_until(lambda: world.operator.json(*shown)["online"] is False, "the agent's loss being seen")
        world.start_agent()
        world.wait_ssh()
        assert world.ssh("echo back").stdout == b"back\n"
        again = world.operator.json("tunnel", "open", world.key, "ssh")
        assert again["port"] == world.public_port


def test_without_an_agent_the_direct_address_is_taken_at_once(openssh, tmp_path):
    """Even at the first contact, which prefers the tunnel: nobody waits for an agent that is not there."""
    address = own_address()
    if address is None:
        pytest.skip("this machine has no address beside loopback")
    with running(World(tmp_path / "world", addresses=(HOST, address))) as world:
        world.agent.stop()
        assert world.operator.run("fleet", "heartbeat", world.key, "--ip-lan", address).returncode == 0
        login = ("--user", world.sshd.user, "-i", str(world.sshd.identity))
        started_s = time.monotonic()
        done = world.operator.run("remote", "run", world.key, *login, "-v", "--", "echo in")
        assert (done.returncode, done.stdout) == (0, b"in\n"), done.stderr
        assert time.monotonic() - started_s < 8
        assert b"direct, ip_lan answers" in done.stderr
        assert b"first contact" in done.stderr


def test_the_tunnel_is_back_after_kill_9_of_the_server(openssh, tmp_path):
    with running(World(tmp_path / "world")) as world:
        world.server.kill()
        wait_until(lambda: is_free(world.public_port), "the public port being free")
        world.start_server()
        world.wait_ssh(within_s=60)
        assert world.ssh("echo back").stdout == b"back\n"


def test_the_tunnel_is_back_after_kill_9_of_a_proxy_of_its_own(openssh, tmp_path):
    with running(World(tmp_path / "world", is_split=True)) as world:
        for _ in range(2):
            assert world.ssh("echo through").stdout == b"through\n"
            world.proxy.kill()
            assert not answers_ssh(world.public_port)
            assert is_free(world.public_port)
            assert is_free(world.tunnel_port)
            world.start_proxy()
            world.wait_ssh(within_s=60)
        second = world.operator.json("tunnel", "open", world.key, "http")
        assert second["port"] != world.public_port


def test_sigterm_ends_every_part_cleanly(openssh, tmp_path):
    with running(World(tmp_path / "world", is_split=True)) as world:
        assert world.agent.stop() == 0
        assert world.proxy.stop() == 0
        assert world.server.stop() == 0
        for port in (world.api_port, world.tunnel_port, world.public_port):
            assert is_free(port)
        for daemon in (world.agent, world.proxy, world.server):
            assert "Traceback" not in daemon.text()

"""The tunnel as a way to a device, with a real server, agent and SSH server; the errors name the cause."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from meetingctl.client import FleetClient
from meetingctl.core.errors import Forbidden, NotFound, Unreachable
from meetingctl.core.net import join_endpoint
from meetingctl.core.secret import Secret
from meetingctl.remote.route import RouteFinder, choose_failure
from meetingctl.remote.tunnel import HANG_UPS_ENOUGH, TunnelWay, refused_ports
from meetingctl.remote.ways import Route, Via
from meetingctl.server.run import ControlPlane
from meetingctl.tunnel.agent import Agent
from meetingctl.tunnel.agentconfig import AgentConfig
from remote.conftest import ADMIN

KEY, CODE = "cam-7", Secret("3FA9C1")


@pytest.fixture
def client(plane: ControlPlane) -> Iterator[FleetClient]:
    with FleetClient(f"http://{join_endpoint(*plane.api_address)}", api_key=Secret(ADMIN)) as client:
        client.create_device(KEY, token_code=CODE, device_type="test", distribution="test")
        client.set_authorized(KEY, True)
        yield client


@pytest.fixture
def start_agent(plane: ControlPlane, client: FleetClient) -> Iterator[Callable[..., Agent]]:
    agents: list[Agent] = []

    def start(*ports: int) -> Agent:
        host, port = plane.tunnel_address
        facts = AgentConfig(
            server_host=host, server_port=port, device_key=KEY, token=CODE, ports=frozenset(ports), backoff_first_s=0.1
        )
        agents.append(agent := Agent(facts))
        agent.start()
        deadline_s = time.monotonic() + 10
        while agent.status().state != "online":
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        return agent

    yield start
    for agent in agents:
        agent.close()


def find(client: FleetClient, *, local_port: int | None, connect_s: float = 10.0, is_last: bool = True) -> Route:
    return asyncio.run(TunnelWay(client, connect_s).find(KEY, local_port=local_port, is_last=is_last))


def failure_of(client: FleetClient, **facts) -> tuple[Unreachable, float]:
    """Return the error of a search and how long it took."""
    started_s = time.monotonic()
    with pytest.raises(Unreachable) as caught:
        find(client, **facts)
    return caught.value, time.monotonic() - started_s


def test_a_tunnel_to_another_port_is_led_to_the_right_one(client, start_agent, device):
    client.set_services(KEY, local_ports={"ssh": 1})
    other = client.open_tunnel(KEY, "ssh", ttl_s=7200, allow_from=["127.0.0.0/8"])
    client.set_services(KEY, local_ports={"ssh": device.port})
    start_agent(device.port)
    assert find(client, local_port=device.port).port == other["port"]
    now = client.get_tunnel(other["port"])
    assert (now["local_port"], now["allow_from"]) == (device.port, ["127.0.0.0/8"])
    assert now["expires_at"][:15] == other["expires_at"][:15]


def test_a_tunnel_to_the_right_port_is_left_alone(client, start_agent, device):
    client.set_services(KEY, local_ports={"ssh": device.port})
    start_agent(device.port)
    opened = client.open_tunnel(KEY, "ssh", ttl_s=7200)
    for local_port in (device.port, None):
        assert find(client, local_port=local_port).port == opened["port"]
    assert client.get_tunnel(opened["port"])["expires_at"] == opened["expires_at"]


def test_a_port_that_the_agent_refuses_is_named_with_its_setting(client, start_agent, device):
    client.set_services(KEY, local_ports={"ssh": device.port})
    start_agent(22)
    error, took_s = failure_of(client, local_port=device.port)
    assert f"port {device.port}" in error.message
    assert "agent_ports" in error.message
    assert "MEETINGCTL_AGENT_PORTS" in (error.hint or "")
    assert took_s < 6


def test_a_tunnel_that_hangs_up_is_given_up_early_after_a_few_tries(client, start_agent):
    """Nothing listens on the device: each visit is reset at once."""
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    client.set_services(KEY, local_ports={"ssh": port})
    start_agent(port)
    error, took_s = failure_of(client, local_port=port, connect_s=30.0)
    assert f"no SSH server answers at port {port}" in error.message
    assert 1 < took_s < 10
    (tunnel,) = client.list_tunnels()
    assert tunnel["port"]
    assert error.hint == f"meetingctl tunnel show {tunnel['port']}"
    deadline_s = time.monotonic() + 10
    while not (rows := client.tunnel_stats(KEY)["stats"]):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    assert rows[0]["visits"] <= HANG_UPS_ENOUGH


@pytest.mark.parametrize("is_last", [True, False])
def test_an_agent_that_is_not_connected_is_named(client, is_last):
    # Only the last way is worth waiting for.
    error, took_s = failure_of(client, local_port=None, connect_s=1.0 if is_last else 60.0, is_last=is_last)
    assert error.message == f"{KEY}: its agent is not connected"
    assert error.hint == f"meetingctl tunnel stats {KEY}"
    assert took_s < 30


def test_the_hint_is_about_the_device_also_for_a_server_that_needs_none(client, meetingctl):
    """For a demo that does not run, the advice is to start it; here only the agent is missing."""
    config = meetingctl.home / ".config/meetingctl/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(f'[profile.demo]\nserver_url = "{client.base_url}"\nssh_connect_s = 1\n')
    env = {"HOME": str(meetingctl.home), "PATH": os.environ["PATH"], "MEETINGCTL_API_KEY": ADMIN}
    failed = meetingctl("--profile", "demo", "remote", "run", KEY, "--", "true", env=env)
    assert failed.returncode == 69
    assert b"its agent is not connected" in failed.stderr
    assert f"hint: meetingctl --profile demo tunnel stats {KEY}".encode() in failed.stderr


def test_only_refusals_of_the_present_connection_count():
    log = [
        {"event": "local port refused", "remote": "22022"},
        {"event": "agent refused", "remote": "192.0.2.7"},
        {"event": "local port refused", "remote": "nonsense"},
        {"event": "agent up", "remote": "new agent from 192.0.2.7"},
        {"event": "local port refused", "remote": "5900"},
    ]
    assert refused_ports(log) == {22022}


def test_when_no_way_leads_there_all_reasons_are_told():
    direct, tunnel = Unreachable("cam-7: nobody at 192.0.2.7"), Unreachable("cam-7: its agent is gone", hint="do this")
    both = choose_failure(KEY, {"tunnel": tunnel, "direct": direct})
    assert (both.message, both.hint) == ("cam-7: its agent is gone; nobody at 192.0.2.7", "do this")
    assert choose_failure(KEY, {"direct": direct}) is direct
    refused = Forbidden("not authorized")
    assert choose_failure(KEY, {"tunnel": refused, "direct": direct}) is refused
    assert isinstance(choose_failure(KEY, {}), NotFound)


@pytest.mark.parametrize(
    ("is_pinned", "via", "direct_s", "wanted"),
    [
        (False, "auto", 0.2, ["the tunnel first, because", "trying the tunnel", "tunnel: ", "trying 192", "direct: "]),
        (True, "auto", 0.2, ["a direct address first, because", "trying 192", "direct: ", "trying the", "tunnel: "]),
        (True, "auto", 0, ["no direct address is tried, because", "tunnel only", "trying the tunnel", "tunnel: "]),
        (True, "direct", 0.2, ["direct only, as asked for", "trying 192", "direct: "]),
    ],
)
def test_each_try_is_told_with_what_came_of_it(
    client: FleetClient, is_pinned: bool, via: Via, direct_s: float, wanted: list[str]
) -> None:
    client.send_heartbeat(KEY, {"ip_lan": "192.0.2.1"})
    notes: list[str] = []
    finder = RouteFinder(client, direct_s, 0.2, notes.append)

    async def walk() -> None:
        async for route in finder.routes(KEY, is_pinned=is_pinned, via=via):
            raise AssertionError(f"nobody answers at {route}")

    with pytest.raises(Unreachable):
        asyncio.run(walk())
    told = [note.removeprefix(f"{KEY}: ") for note in notes if "ip_address" not in note]
    assert [text[: len(start)] for text, start in zip(told, wanted, strict=True)] == wanted
    assert all(note.count(KEY) == 1 for note in notes)

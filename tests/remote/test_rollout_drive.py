"""A rollout carried out over SSH: the server decides, the driver does what it says."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator

import pytest

from meetingctl.client import FleetClient
from meetingctl.core.errors import MeetingctlError
from meetingctl.core.net import join_endpoint
from meetingctl.core.secret import Secret
from meetingctl.core.target import DeviceTarget
from meetingctl.remote.fanout import Report, Result
from meetingctl.remote.update.rollout import Drive, choose_behind, fold_drive
from meetingctl.tunnel.agent import Agent
from meetingctl.tunnel.agentconfig import AgentConfig
from remote.conftest import ADMIN

from .release_machine import ReleaseMachine, write_package

CODE = Secret("3FA9C1")
NAMED = {"device_type": "test", "distribution": "test", "version": "1.1.0"}


@pytest.fixture
def client(plane, tmp_path, here) -> Iterator[FleetClient]:
    """The fleet's operator; `here` is the same one on the command line, and 1.1.0 is published."""
    url = f"http://{join_endpoint(*plane.api_address)}"
    here.env |= {"MEETINGCTL_SERVER_URL": url, "MEETINGCTL_API_KEY": ADMIN, "MEETINGCTL_SSH_DIRECT_S": "0"}
    package = write_package(tmp_path, "1.1.0")
    words = ("--type", "test", "--distribution", "test", "--release-version", "1.1.0")
    assert here("fleet", "publish", str(package), *words).code == 0
    with FleetClient(url, api_key=Secret(ADMIN)) as client:
        yield client


def add_devices(client: FleetClient, *keys: str) -> None:
    for key in keys:
        client.create_device(key, token_code=CODE, device_type="test", distribution="test")
        client.set_authorized(key, True)


def start_rollout(client: FleetClient, *waves: int) -> int:
    plan = {"waves_percent": list(waves), "soak_s": 60, "max_delay_s": 0, "max_failed_percent": 10}
    return int(client.rollouts.start({**NAMED, "plan": plan})["id"])


def test_a_rollout_to_a_device_behind_the_tunnel_is_driven_to_its_end(client, plane, here, camera, machine, tmp_path):
    releases = ReleaseMachine(machine, tmp_path / "root")
    releases.install("1.0.0")
    add_devices(client, "cam-7")
    client.send_heartbeat("cam-7")
    client.set_services("cam-7", local_ports={"ssh": camera.port})
    host, port = plane.tunnel_address
    agent = Agent(
        AgentConfig(server_host=host, server_port=port, device_key="cam-7", token=CODE, ports=frozenset([camera.port]))
    )
    agent.start()
    try:
        rollout = str(start_rollout(client, 100))
        login = ("-i", str(camera.identity), "--user", "anyone", "--json")
        done = here("fleet", "rollout", "drive", rollout, *login)
        installed = client.get_device("cam-7")["installed_version"]
        back = here("remote", "update", "cam-7", "--rollback", "--settle", "1s", *login)
    finally:
        agent.close()
    assert done.code == 0, done.err + done.out
    assert done.json["state"] == "finished"
    assert [(row["target"], row["outcome"], row["route"]["way"]) for row in done.json["devices"]] == [
        ("cam-7", "updated", "tunnel")
    ]
    assert installed == "1.1.0"
    assert (back.code, releases.version) == (0, "1.0.0"), back.err + back.out
    # The server hears of the way back too.
    assert client.get_device("cam-7")["installed_version"] == "1.0.0"
    attempts = list(client.releases.history({"device_key": "cam-7"}))
    assert [(row["status"], row["from_version"], row["to_version"]) for row in attempts] == [
        ("success", "1.1.0", "1.0.0"),
        ("success", "1.0.0", "1.1.0"),
    ]


def test_failures_pause_the_rollout_by_the_servers_rule_and_later_waves_never_begin(client):
    add_devices(client, *(f"cam-{number}" for number in range(4)))
    rollout, begun = start_rollout(client, 50, 100), []

    async def fail(target: DeviceTarget) -> Report:
        begun.append(target.key)
        report = {"to_version": "1.1.0", "from_version": "1.0.0", "status": "failed", "message": "no"}
        await asyncio.to_thread(lambda: client.releases.report(target.key, **report))
        return Report(target.key, Result.failed, error=MeetingctlError("no"))

    drive = Drive(client, rollout, fail, lambda text: None, parallel=1, poll_s=0.2)
    driven = asyncio.run(asyncio.wait_for(drive.finish(), 40))
    assert driven.item["state"] == "paused"
    assert 1 <= len(begun) <= 2
    error = fold_drive(driven, once=False)
    assert error is not None
    assert "devices failed" in error.message


def test_once_ends_when_nothing_is_due(client):
    add_devices(client, "cam-1")
    plan = {"waves_percent": [100], "soak_s": 0, "max_delay_s": 86_400}
    rollout = int(client.rollouts.start({**NAMED, "plan": plan})["id"])
    deadline_s = time.monotonic() + 20
    while client.rollouts.show(rollout)["wave"] < 1:
        assert time.monotonic() < deadline_s
        time.sleep(0.05)

    async def never(target: DeviceTarget) -> Report:
        raise AssertionError(target)

    driven = asyncio.run(Drive(client, rollout, never, lambda text: None, once=True).finish())
    assert (driven.item["state"], driven.reports) == ("running", {})
    assert fold_drive(driven, once=True) is None


def test_a_dry_run_only_looks(client, here):
    add_devices(client, "cam-1")
    rollout = start_rollout(client, 100)
    done = here("fleet", "rollout", "drive", str(rollout), "--dry-run", "--json")
    assert json.loads(done.out)["would_change"] is True


def test_who_is_behind():
    item = {"channel": "default", "version": "1.1.0"}
    row = {"channel": "default", "target_version": "1.1.0", "installed_version": None}
    rows = [
        {**row, "device_key": "behind"},
        {**row, "device_key": "there", "installed_version": "1.1.0"},
        {**row, "device_key": "later", "target_version": "1.0.0"},
        {**row, "device_key": "other", "channel": "beta"},
    ]
    assert choose_behind(rows, item) == ["behind"]

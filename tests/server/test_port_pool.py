"""Public ports: never given twice, renewed, refused with reasons, free again after their time."""

from __future__ import annotations

import json
import multiprocessing
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from planes import CODE, Fleet, MakeFleet

from meetingctl.core.clock import now_ms
from meetingctl.server.db.schema import tunnel_ports
from meetingctl.server.sweeper import sweep
from meetingctl.server.tunnels.ports import (
    AFTERLIFE_MS,
    PortRequest,
    fill_pool,
    list_tunnels_and_afterlife,
    renewed_list,
)

POOL = range(9050, 9131)


def open_tunnel(fleet: Fleet, device_key: str = "cam-1", service: str = "ssh", **body: Any):
    return fleet.call(
        "POST", f"/api/devices/{device_key}/service", key=fleet.key("operator"), json={"service": service, **body}
    )


def make_devices(fleet: Fleet, count: int) -> list[str]:
    return [fleet.device(f"cam-{number}") for number in range(count)]


def set_expiry(fleet: Fleet, port: int, expires_at_ms: int) -> None:
    statement = tunnel_ports.update().where(tunnel_ports.c.port == port).values(expires_at_ms=expires_at_ms)
    fleet.write(lambda connection: connection.execute(statement))


def test_a_hundred_requests_at_once_get_81_ports_and_19_refusals(any_fleet: Fleet) -> None:
    keys = make_devices(any_fleet, 100)
    operator = any_fleet.key("operator")
    calls = [("POST", f"/api/devices/{key}/service", {"key": operator, "json": {"service": "ssh"}}) for key in keys]
    answers = any_fleet.call_all(calls)
    assert Counter(answer.status_code for answer in answers) == {200: 81, 503: 19}
    assert {answer.json()["port"] for answer in answers if answer.status_code == 200} == set(POOL)
    for refused in (answer for answer in answers if answer.status_code == 503):
        assert refused.json() == {"error": "No available port in range"}
        assert int(refused.headers["retry-after"]) > 0


def _ask_for_ports(url: sa.URL, folder: Path, names: list[str], key: str, queue: Any, start: Any) -> None:
    """A second API process in short."""
    fleet = Fleet(url, folder)
    calls = [("POST", f"/api/devices/{name}/service", {"key": key, "json": {"service": "ssh"}}) for name in names]
    start.wait(30)
    queue.put([(answer.status_code, answer.json()) for answer in fleet.call_all(calls)])
    fleet.close()


def ask_from_two_processes(url: sa.URL, folder: Path, names: list[list[str]], key: str) -> list[tuple[int, Any]]:
    context = multiprocessing.get_context("spawn")
    queue, start = context.Queue(), context.Barrier(2)
    processes = [context.Process(target=_ask_for_ports, args=(url, folder, mine, key, queue, start)) for mine in names]
    for process in processes:
        process.start()
    answers = [answer for _ in processes for answer in queue.get(timeout=60)]
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    queue.close()
    queue.join_thread()
    return answers


@pytest.mark.real
def test_two_processes_on_postgresql_never_give_a_port_twice(postgres_url: sa.URL, tmp_path: Path) -> None:
    fleet = Fleet(postgres_url, tmp_path)
    try:
        keys = make_devices(fleet, 100)
        answers = ask_from_two_processes(postgres_url, tmp_path, [keys[:50], keys[50:]], fleet.key("operator"))
    finally:
        fleet.close()
    assert Counter(status for status, _ in answers) == {200: 81, 503: 19}
    assert {body["port"] for status, body in answers if status == 200} == set(POOL)


@pytest.mark.real
def test_equal_requests_in_two_processes_get_one_port(postgres_url: sa.URL, tmp_path: Path) -> None:
    fleet = Fleet(postgres_url, tmp_path)
    try:
        keys = make_devices(fleet, 10)
        answers = ask_from_two_processes(postgres_url, tmp_path, [keys, keys], fleet.key("operator"))
        assert {status for status, _ in answers} == {200}
        assert len({body["port"] for _, body in answers}) == 10
    finally:
        fleet.close()


def test_equal_requests_at_once_get_one_port(any_fleet: Fleet) -> None:
    any_fleet.device()
    operator = any_fleet.key("operator")
    calls = [("POST", "/api/devices/cam-1/service", {"key": operator, "json": {"service": "http"}})] * 20
    assert len({answer.json()["port"] for answer in any_fleet.call_all(calls)}) == 1


def test_the_same_request_renews_also_when_the_pool_is_used_up(make_any_fleet: MakeFleet) -> None:
    any_fleet = make_any_fleet(tunnel_ports="9050-9052")
    keys = make_devices(any_fleet, 3)
    ports = {key: open_tunnel(any_fleet, key).json()["port"] for key in keys}
    assert open_tunnel(any_fleet, "cam-0", "http").status_code == 503
    set_expiry(any_fleet, ports["cam-2"], now_ms() + 5000)
    again = open_tunnel(any_fleet, "cam-2").json()
    assert again["port"] == ports["cam-2"]
    row = any_fleet.rows(sa.select(tunnel_ports).where(tunnel_ports.c.port == ports["cam-2"]))[0]
    assert row["expires_at_ms"] > now_ms() + 3_500_000


def test_a_device_holds_one_tunnel_per_service_and_one_relay_per_port(fleet: Fleet) -> None:
    fleet.device()
    opened = [open_tunnel(fleet, service=service).json()["port"] for service in ("ssh", "scp", "http", "vnc")]
    opened += [open_tunnel(fleet, service="relay", port=port).json()["port"] for port in (554, 5900)]
    assert len(set(opened)) == 6
    assert open_tunnel(fleet, service="relay", port=554).json()["port"] == opened[4]
    listed = {row["port"]: row for row in fleet.call("GET", "/api/tunnels", key=fleet.key("viewer")).json()["tunnels"]}
    assert {listed[port]["local_port"] for port in opened} == {22, 80, 554, 5900}


@pytest.mark.parametrize(
    ("port", "status", "error"),
    [
        (None, 400, "Missing relay port"),
        (0, 400, "Missing relay port"),
        (65536, 400, "Missing relay port"),
        (2**70, 400, "Missing relay port"),
        (True, 400, "Missing relay port"),
        (22.0, 400, "Missing relay port"),
        ("x", 400, "Missing relay port"),
        ([], 400, "Missing relay port"),
        (25, 403, "Relay port not allowed"),
        ("554", 200, None),
    ],
)
def test_relay_takes_only_ports_on_the_list(fleet: Fleet, port: Any, status: int, error: str | None) -> None:
    fleet.device()
    answer = open_tunnel(fleet, service="relay", port=port)
    assert answer.status_code == status
    assert error is None or answer.json() == {"error": error}


def test_an_expired_tunnel_is_gone_at_once_and_its_port_rests_a_minute(make_any_fleet: MakeFleet) -> None:
    any_fleet = make_any_fleet(tunnel_ports="9050-9052")
    any_fleet.device()
    port = open_tunnel(any_fleet).json()["port"]
    set_expiry(any_fleet, port, now_ms() - 1000)
    viewer = any_fleet.key("viewer")
    assert any_fleet.call("GET", "/api/tunnels", key=viewer).json() == {"tunnels": []}
    assert any_fleet.call("GET", f"/api/tunnels/{port}", key=viewer).status_code == 404
    with any_fleet.database.read() as connection:
        assert [row["port"] for row in list_tunnels_and_afterlife(connection)] == [port]
    assert any_fleet.write(sweep) == 0
    others = [any_fleet.device(f"other-{n}") for n in range(3)]
    statuses = [open_tunnel(any_fleet, key).status_code for key in others]
    assert statuses == [200] * 2 + [503]
    set_expiry(any_fleet, port, now_ms() - AFTERLIFE_MS - 1)
    with any_fleet.database.read() as connection:
        assert port not in [row["port"] for row in list_tunnels_and_afterlife(connection)]
    assert open_tunnel(any_fleet, others[2]).json()["port"] == port, "taken over without waiting for the sweeper"


def test_the_sweeper_frees_what_expired_long_ago(any_fleet: Fleet) -> None:
    any_fleet.device()
    port = open_tunnel(any_fleet).json()["port"]
    set_expiry(any_fleet, port, now_ms() - AFTERLIFE_MS - 1)
    assert any_fleet.write(sweep) == 1
    row = any_fleet.rows(sa.select(tunnel_ports).where(tunnel_ports.c.port == port))[0]
    assert row["device_id"] is None
    assert row["service"] is None


def test_a_port_that_became_free_is_given_last(fleet: Fleet) -> None:
    fleet.device("cam-1")
    fleet.device("cam-2")
    port = open_tunnel(fleet, "cam-1").json()["port"]
    assert fleet.call("DELETE", f"/api/tunnels/{port}", key=fleet.key("operator")).json() == {"success": True}
    assert open_tunnel(fleet, "cam-2").json()["port"] != port


def test_lifetime_comes_from_the_request_or_the_setting(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(tunnel_ttl_s=0.0)
    fleet.device()
    assert open_tunnel(fleet).json()["expires_at"] is None
    assert open_tunnel(fleet, ttl_s=60).json()["expires_at"] is not None
    for wrong in (0, -1, 1e9, "x", 2**70, True):
        assert open_tunnel(fleet, ttl_s=wrong).status_code == 400


ALLOW_CASES = [
    # mode, setting, asked by the operator, stored
    ("compat", (), None, None),
    ("enforce", (), None, ["198.51.100.7/32"]),
    ("enforce", ("any",), None, None),
    ("compat", ("requester",), None, ["198.51.100.7/32"]),
    ("compat", ("10.0.0.0/8",), None, ["10.0.0.0/8"]),
    ("compat", (), ["192.0.2.0/24", "requester"], ["192.0.2.0/24", "198.51.100.7/32"]),
    ("enforce", (), ["any"], None),
    ("compat", (), ["192.0.2.9"], ["192.0.2.9/32"]),
]


@pytest.mark.parametrize(("mode", "setting", "asked", "stored"), ALLOW_CASES)
def test_who_may_visit(
    make_fleet: MakeFleet, mode: str, setting: tuple[str, ...], asked: list[str] | None, stored: list[str] | None
) -> None:
    fleet = make_fleet(mode=mode, tunnel_allow_from=setting)
    fleet.device()
    body = {"service": "ssh"} | ({} if asked is None else {"allow_from": asked})
    answer = fleet.call("POST", "/api/devices/cam-1/service", key=fleet.key("operator"), json=body, peer="198.51.100.7")
    assert answer.status_code == 200
    shown = fleet.call("GET", f"/api/tunnels/{answer.json()['port']}", key=fleet.key("viewer")).json()
    assert shown["allow_from"] == stored


def test_a_devices_own_request_does_not_mean_its_own_address(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(mode="enforce", tunnel_device_may_request=True)
    fleet.device()
    answer = fleet.call("POST", "/api/devices/cam-1/service", code="A1B2C3", json={"service": "ssh"})
    shown = fleet.call("GET", f"/api/tunnels/{answer.json()['port']}", key=fleet.key("viewer")).json()
    assert shown["allow_from"] is None


def test_bad_networks_are_refused(fleet: Fleet) -> None:
    fleet.device()
    for wrong in (["10.0.0.0/99"], ["nonsense"], "10.0.0.0/8", [5], [""], ["10.0.0.1"] * 65, ["a\u0000"]):
        answer = open_tunnel(fleet, allow_from=wrong)
        assert answer.status_code == 400, wrong
        assert answer.json().keys() == {"error"}


def test_forbidding_or_deleting_a_device_closes_its_tunnels(any_fleet: Fleet) -> None:
    for key in ("cam-1", "cam-2"):
        any_fleet.device(key)
        open_tunnel(any_fleet, key)
        open_tunnel(any_fleet, key, "http")
    any_fleet.call("PUT", "/api/devices/cam-1/authorize", key=any_fleet.admin, json={"authorized": 0})
    any_fleet.call("DELETE", "/api/devices/cam-2", key=any_fleet.admin)
    assert any_fleet.call("GET", "/api/tunnels", key=any_fleet.admin).json() == {"tunnels": []}
    assert any_fleet.rows(sa.select(tunnel_ports).where(tunnel_ports.c.service.is_not(None))) == []


def test_the_pool_follows_the_setting(any_fleet: Fleet) -> None:
    any_fleet.device()
    port = open_tunnel(any_fleet).json()["port"]
    any_fleet.write(lambda connection: fill_pool(connection, range(9100, 9111)))
    present = {row["port"] for row in any_fleet.rows(sa.select(tunnel_ports.c.port))}
    assert present == {port, *range(9100, 9111)}, "a port in use stays until its tunnel ends"


def test_changes_are_announced(fleet: Fleet) -> None:
    fleet.device()
    heard = threading.Event()
    fleet.state.changes.listen(heard.set)
    for change in (
        lambda: open_tunnel(fleet),
        lambda: fleet.call("DELETE", "/api/tunnels/9050", key=fleet.admin),
        lambda: fleet.call("PUT", "/api/devices/cam-1/authorize", key=fleet.admin, json={"authorized": 0}),
        lambda: fleet.call("POST", "/api/tunnels/close-all", key=fleet.admin),
    ):
        heard.clear()
        assert change().status_code == 200
        assert heard.is_set()


def test_local_port_of_a_service(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(tunnel_local_ports=(("http", 5000),))
    fleet.device("cam-1")
    fleet.device("cam-2")
    body = {"local_ports": {"http": 8080, "ssh": 2222}}
    assert fleet.call("PUT", "/api/devices/cam-2", key=fleet.admin, content=json.dumps(body)).status_code == 200
    for key in ("cam-1", "cam-2"):
        for service in ("ssh", "http"):
            open_tunnel(fleet, key, service)
    rows = fleet.call("GET", "/api/tunnels", key=fleet.admin).json()["tunnels"]
    found = {(row["device_key"], row["service"]): row["local_port"] for row in rows}
    assert found == {
        ("cam-1", "ssh"): 22,
        ("cam-1", "http"): 5000,
        ("cam-2", "ssh"): 2222,
        ("cam-2", "http"): 8080,
    }


def test_an_open_tunnel_follows_the_port_where_its_service_listens(fleet: Fleet) -> None:
    fleet.device()
    opened = fleet.call("POST", "/api/devices/cam-1/service", key=fleet.admin, json={"service": "ssh"}).json()
    for overrides, local_port in (({"ssh": 2222}, 2222), ({}, 22)):
        fleet.call("PUT", "/api/devices/cam-1", key=fleet.admin, json={"local_ports": overrides})
        shown = fleet.call("GET", f"/api/tunnels/{opened['port']}", key=fleet.admin).json()
        assert shown["local_port"] == local_port


def test_an_empty_list_of_visitors_is_refused(fleet: Fleet) -> None:
    fleet.device()
    assert open_tunnel(fleet, allow_from=[]).status_code == 400


def test_nobody_widens_an_open_tunnel_by_renewing_it(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(tunnel_device_may_request=True)
    fleet.device()
    fleet.call("POST", "/api/devices/cam-1/online", code=CODE)
    port = open_tunnel(fleet, allow_from=["10.9.9.9/32"]).json()["port"]
    for path in ("service", "request-tunnel-port"):
        renewed = fleet.call("POST", f"/api/devices/cam-1/{path}", code=CODE, json={"service": "ssh"})
        assert renewed.json()["port"] == port
    open_tunnel(fleet)
    shown = fleet.call("GET", f"/api/tunnels/{port}", key=fleet.admin).json()
    assert shown["allow_from"] == ["10.9.9.9/32"]
    open_tunnel(fleet, allow_from=["any"])
    assert fleet.call("GET", f"/api/tunnels/{port}", key=fleet.admin).json()["allow_from"] is None


def test_a_second_requester_joins_the_list_in_mode_enforce() -> None:
    default = PortRequest("cam-1", "ssh", 22, None, ["192.0.2.2/32"])
    assert renewed_list(["192.0.2.1/32"], default) == ["192.0.2.1/32", "192.0.2.2/32"]
    assert renewed_list(["192.0.2.2/32"], default) == ["192.0.2.2/32"]
    assert renewed_list(None, default) is None


def test_an_operator_points_services_only_at_ports_that_a_relay_may_reach(fleet: Fleet) -> None:
    fleet.device()
    wanted = {"json": {"local_ports": {"vnc": 5432}}}
    assert fleet.call("PUT", "/api/devices/cam-1", key=fleet.key("operator"), **wanted).status_code == 403
    assert fleet.call("PUT", "/api/devices/cam-1", key=fleet.admin, **wanted).status_code == 200

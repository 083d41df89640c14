"""What is kept in memory of devices and keys never outlives a change."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from typing import Any

import pytest
from planes import CODE, Fleet, MakeFleet

from meetingctl.core.errors import Busy
from meetingctl.server.audit.chain import SYSTEM
from meetingctl.server.db.schema import api_keys, devices
from meetingctl.server.devices import index as index_module
from meetingctl.server.devices.index import DeviceFacts, DeviceIndex, Lookups
from meetingctl.server.identity.keys import revoke_key

ONLINE = "/api/devices/cam-1/online"


def change_code(fleet: Fleet, code: str) -> None:
    fleet.write(lambda c: c.execute(devices.update().values(token_code=code)))


def test_facts_are_loaded_once_and_again_after_forget(fleet: Fleet) -> None:
    fleet.device()
    facts = fleet.state.index.find("cam-1")
    assert facts is not None
    assert facts.token_code == CODE
    assert fleet.state.index.find("cam-1") is facts
    change_code(fleet, "111111")
    fleet.state.index.forget("cam-1")
    again = fleet.state.index.find("cam-1")
    assert again is not None
    assert again.token_code == "111111"
    assert fleet.state.index.find("nobody") is None


def test_a_row_read_before_a_change_is_not_kept_after_it(fleet: Fleet) -> None:
    fleet.device()
    index = fleet.state.index

    class ChangingDatabase:
        """The real database, with a change of the code right after each query."""

        dialect = "sqlite"

        @contextlib.contextmanager
        def read(self):
            with fleet.database.read() as connection:
                yield connection
            change_code(fleet, "222222")
            index.forget("cam-1")

    index._database = ChangingDatabase()
    old = index.find("cam-1")
    assert old is not None
    assert old.token_code == CODE, "the request that was under way may still see it"
    index._database = fleet.database
    assert index.find("cam-1").token_code == "222222"


def test_entries_expire_where_several_processes_share_a_database(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet.device()
    monkeypatch.setattr(index_module, "SHARED_S", 0.0)

    @dataclasses.dataclass
    class Shared:
        dialect: str = "postgresql"
        read = staticmethod(fleet.database.read)

    index = DeviceIndex(Shared())
    assert index.find("cam-1").token_code == CODE
    change_code(fleet, "333333")
    assert index.find("cam-1").token_code == "333333"


def test_the_index_has_a_bound(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "CAPACITY", 10)
    for number in range(25):
        fleet.state.index.find(fleet.device(f"cam-{number}"))
    assert len(fleet.state.index._facts) <= 10


@pytest.mark.real
def test_another_process_sees_a_change_within_seconds(make_postgres_fleet: MakeFleet) -> None:
    one, two = make_postgres_fleet(), make_postgres_fleet()
    one.device()
    assert two.call("POST", ONLINE, code=CODE).status_code == 200
    one.call("PUT", "/api/devices/cam-1/token-code", key=one.admin, json={"token_code": "444444"})
    two.state.index.find("cam-1").fresh_until_s -= index_module.SHARED_S + 1
    assert two.call("POST", ONLINE, code=CODE).status_code == 401
    assert two.call("POST", ONLINE, code="444444").status_code == 200


def test_a_revoked_key_stops_at_once(fleet: Fleet) -> None:
    viewer = fleet.key("viewer")
    assert fleet.call("GET", "/api/devices", key=viewer).status_code == 200
    public_id = viewer.split("_")[1]
    assert fleet.call("DELETE", f"/api/keys/{public_id}", key=fleet.admin).status_code == 200
    assert fleet.call("GET", "/api/devices", key=viewer).status_code == 401


def test_a_key_revoked_elsewhere_stops_within_seconds(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    viewer = fleet.key("viewer")
    assert fleet.call("GET", "/api/devices", key=viewer).status_code == 200
    _ = fleet.admin
    fleet.write(lambda connection: revoke_key(connection, SYSTEM, viewer.split("_")[1]))
    ring = fleet.state.ring
    ring._principals = {digest: (0.0, principal) for digest, (_, principal) in ring._principals.items()}
    assert fleet.call("GET", "/api/devices", key=viewer).status_code == 401


def test_an_expired_key_is_refused_although_it_is_cached(fleet: Fleet) -> None:
    made = fleet.call(
        "POST", "/api/keys", key=fleet.admin, json={"name": "short", "role": "viewer", "expires_in_s": 3600}
    ).json()
    assert fleet.call("GET", "/api/devices", key=made["key"]).status_code == 200
    fleet.write(lambda c: c.execute(api_keys.update().where(api_keys.c.name == "short").values(expires_at_ms=1)))
    ring = fleet.state.ring
    ring._principals = {
        digest: (
            until_s,
            dataclasses.replace(principal, expires_at_ms=1) if principal.name == "key:short" else principal,
        )
        for digest, (until_s, principal) in ring._principals.items()
    }
    assert fleet.call("GET", "/api/devices", key=made["key"]).status_code == 401


def test_last_use_of_a_key_is_written_at_most_once_a_minute(fleet: Fleet) -> None:
    viewer = fleet.key("viewer")
    for _ in range(3):
        fleet.call("GET", "/api/devices", key=viewer)
    fleet.write(lambda connection: None)
    shown = {row["name"]: row for row in fleet.call("GET", "/api/keys", key=fleet.admin).json()["keys"]}
    assert shown["the viewer"]["last_used_at"] is not None


def test_the_last_admin_key_stays(fleet: Fleet) -> None:
    public_id = fleet.admin.split("_")[1]
    refused = fleet.call("DELETE", f"/api/keys/{public_id}", key=fleet.admin)
    assert (refused.status_code, refused.json()) == (409, {"error": "Last admin key"})
    fleet.call("POST", "/api/keys", key=fleet.admin, json={"name": "second", "role": "admin"})
    assert fleet.call("DELETE", f"/api/keys/{public_id}", key=fleet.admin).status_code == 200
    assert fleet.call("DELETE", "/api/keys/000000000000", key=fleet.admin).status_code in (401, 404)


def test_devices_that_are_asked_for_at_once_share_queries(any_fleet: Fleet) -> None:
    keys = [f"cam-{number}" for number in range(30)]
    for key in keys:
        any_fleet.device(key)
    queries = []

    class CountingIndex(DeviceIndex):
        def find_many(self, device_keys):
            queries.append(list(device_keys))
            return super().find_many(device_keys)

    lookups = Lookups(CountingIndex(any_fleet.database))

    async def ask() -> list[DeviceFacts | None]:
        return await asyncio.gather(*(lookups.find(key) for key in [*keys, "nobody", *keys]))

    found = any_fleet.loop.run(ask())
    assert [facts and facts.device_key for facts in found] == [*keys, None, *keys]
    assert sorted(key for query in queries for key in query) == sorted([*keys, "nobody"]), "each key once"
    assert len(queries) <= 3


def test_a_failed_lookup_reaches_everybody_and_the_next_one_works(fleet: Fleet) -> None:
    fleet.device()

    class FailingIndex(DeviceIndex):
        is_broken = True

        def find_many(self, device_keys):
            if self.is_broken:
                raise Busy("Database busy")
            return super().find_many(device_keys)

    index = FailingIndex(fleet.database)
    lookups = Lookups(index)

    async def ask() -> list[Any]:
        return await asyncio.gather(*(lookups.find("cam-1") for _ in range(3)), return_exceptions=True)

    assert [type(outcome) for outcome in fleet.loop.run(ask())] == [Busy] * 3
    index.is_broken = False
    assert [facts.device_key for facts in fleet.loop.run(ask())] == ["cam-1"] * 3


def test_a_caller_that_goes_away_takes_nothing_from_the_others(fleet: Fleet) -> None:
    fleet.device()
    lookups = Lookups(DeviceIndex(fleet.database))

    async def ask() -> Any:
        first, second = asyncio.create_task(lookups.find("cam-1")), asyncio.create_task(lookups.find("cam-1"))
        await asyncio.sleep(0)
        first.cancel()
        facts = await second
        assert first.cancelled() or await asyncio.wait([first])
        return facts

    assert fleet.loop.run(ask()).device_key == "cam-1"

"""The group-commit writer: batches, failures that stay alone, bounds, closing, a full disk."""

from __future__ import annotations

import asyncio
import logging
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from planes import CODE, Fleet, LoopThread, MakeFleet, missing, wait_for

from meetingctl.core.errors import Busy, Conflict, MeetingctlError, StorageFull
from meetingctl.server.db import writer as writer_module
from meetingctl.server.db.engine import open_database
from meetingctl.server.db.schema import connection_logs, devices, presence
from meetingctl.server.db.writer import GroupWriter
from meetingctl.server.devices.heartbeat import HeartbeatRows


class Gate:
    """An operation that holds the writer until it is opened, so that a batch collects behind it."""

    def __init__(self, fleet: Fleet) -> None:
        self._entered, self._open = threading.Event(), threading.Event()
        fleet.state.writer.post(self._hold)
        assert self._entered.wait(10)

    def _hold(self, connection: sa.Connection) -> None:
        self._entered.set()
        assert self._open.wait(10)

    def open(self) -> None:
        self._open.set()


def note_log(connection: sa.Connection, device_id: int, event: str) -> None:
    connection.execute(connection_logs.insert().values(device_id=device_id, at_ms=1, event=event, host="", remote=""))


def device_id_of(fleet: Fleet, device_key: str) -> int:
    return fleet.rows(sa.select(devices.c.id).where(devices.c.device_key == device_key))[0]["id"]


def in_threads(work, count: int) -> list:
    """Run `work(number)` in as many threads; return results and errors in order."""
    outcomes: list = [None] * count

    def run(number: int) -> None:
        try:
            outcomes[number] = work(number)
        except MeetingctlError as exc:
            outcomes[number] = exc

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return outcomes


def test_what_waits_is_committed_together(any_fleet: Fleet) -> None:
    writer = any_fleet.state.writer
    any_fleet.device()
    device_id = device_id_of(any_fleet, "cam-1")
    gate = Gate(any_fleet)
    before = writer.commits
    threads = threading.Thread(
        target=lambda: in_threads(lambda n: writer.run(lambda c: note_log(c, device_id, f"e{n}")), 50)
    )
    threads.start()
    wait_for(lambda: writer.pending == 50, "all wait")
    gate.open()
    threads.join(30)
    assert len(any_fleet.rows(sa.select(connection_logs))) == 50
    assert writer.commits == before + 2, "the gate, then one commit for all"


def test_an_operation_that_raises_leaves_the_others_alone(any_fleet: Fleet) -> None:
    any_fleet.device()
    device_id = device_id_of(any_fleet, "cam-1")
    gate = Gate(any_fleet)

    def work(number: int) -> str:
        def change(connection: sa.Connection) -> str:
            note_log(connection, device_id if number != 3 else -1, f"e{number}")
            if number % 5 == 0:
                raise Conflict("no")
            return f"done {number}"

        try:
            return any_fleet.write(change)
        except sa.exc.IntegrityError:
            return "integrity"

    threads = threading.Thread(target=lambda: outcomes.extend(in_threads(work, 10)))
    outcomes: list = []
    threads.start()
    wait_for(lambda: any_fleet.state.writer.pending == 10, "all wait")
    gate.open()
    threads.join(30)
    assert [isinstance(outcome, Conflict) for outcome in outcomes] == [n % 5 == 0 for n in range(10)]
    events = sorted(row["event"] for row in any_fleet.rows(sa.select(connection_logs)))
    assert "integrity" in outcomes or any_fleet.url.get_backend_name() == "sqlite"
    assert [e for e in events if e != "e3"] == [f"e{n}" for n in (1, 2, 4, 6, 7, 8, 9)]


def presence_row(device_id: int, at_ms: int, **columns) -> tuple:
    names = (
        "authenticated",
        "ip_address",
        "ip_lan",
        "ip_public",
        "mac",
        "cluster_ip",
        "status_note",
        "installed_version",
    )
    return (device_id, at_ms, *(columns.get(name) for name in names), False, "")


def test_a_bad_row_fails_alone(any_fleet: Fleet) -> None:
    keys = [any_fleet.device(f"cam-{n}") for n in range(3)]
    ids = [device_id_of(any_fleet, key) for key in keys]
    batch, writer = HeartbeatRows(), any_fleet.state.writer
    gate = Gate(any_fleet)

    async def add() -> list:
        futures = [writer.add_row(batch, presence_row(i, 5, authenticated=1)) for i in (ids[0], 10**9, ids[1])]
        if any_fleet.url.get_backend_name() == "postgresql":  # only there a text can be too long
            futures.append(writer.add_row(batch, presence_row(ids[2], 5, authenticated=1, mac="x" * 99)))
        gate.open()
        return await asyncio.gather(*futures, return_exceptions=True)

    outcomes = any_fleet.loop.run(add())
    assert [outcome is None for outcome in outcomes[:3]] == [True, False, True]
    assert isinstance(outcomes[1], sa.exc.IntegrityError)
    assert all(isinstance(outcome, sa.exc.DataError) for outcome in outcomes[3:])
    assert sorted(row["device_id"] for row in any_fleet.rows(sa.select(presence))) == sorted(ids[:2])


def test_rows_of_one_device_in_one_batch_add_up(any_fleet: Fleet) -> None:
    any_fleet.device()
    device_id = device_id_of(any_fleet, "cam-1")
    rows = [
        presence_row(device_id, 10, authenticated=1, ip_address="192.0.2.1", ip_lan="10.0.0.1"),
        presence_row(device_id, 30, authenticated=1, ip_address="192.0.2.2", mac="aa:aa:aa:aa:aa:aa"),
        presence_row(device_id, 20, authenticated=0, ip_address="198.51.100.1"),
    ]
    any_fleet.write(lambda connection: HeartbeatRows().write(connection, rows))
    row = any_fleet.rows(sa.select(presence))[0]
    assert row["last_seen_ms"] == 30
    assert (row["ip_address"], row["ip_lan"], row["mac"]) == ("192.0.2.2", "10.0.0.1", "aa:aa:aa:aa:aa:aa")
    assert row["authenticated"] == 1


def test_the_queue_has_a_bound(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "MAX_PENDING", 3)
    fleet.device()
    fleet.call("POST", "/api/devices/cam-1/online", code=CODE)
    gate = Gate(fleet)
    for _ in range(3):
        fleet.state.writer.post(lambda connection: None)
    refused = fleet.call("POST", "/api/devices/cam-1/online", code=CODE)
    assert refused.status_code == 503
    assert refused.json() == {"error": "Server busy"}
    assert refused.headers["retry-after"] == "1"
    fleet.state.writer.post(lambda connection: None)  # dropped, not raised
    gate.open()
    wait_for(lambda: fleet.state.writer.pending == 0, "the queue is empty")
    assert fleet.call("POST", "/api/devices/cam-1/online", code=CODE).status_code == 200


def test_closing_finishes_what_waits_and_refuses_what_comes(any_fleet: Fleet) -> None:
    any_fleet.device()
    device_id = device_id_of(any_fleet, "cam-1")
    writer, gate = any_fleet.state.writer, Gate(any_fleet)
    waiting = threading.Thread(
        target=lambda: in_threads(lambda n: writer.run(lambda c: note_log(c, device_id, "e")), 20)
    )
    waiting.start()
    wait_for(lambda: writer.pending == 20, "all wait")
    closing = threading.Thread(target=writer.close)
    closing.start()
    wait_for(lambda: writer._closing, "it closes")
    with pytest.raises(Busy, match="shutting down"):
        writer.run(lambda connection: None)
    gate.open()
    closing.join(30)
    waiting.join(30)
    assert len(any_fleet.rows(sa.select(connection_logs))) == 20


def test_an_answer_for_a_loop_that_is_gone_does_not_end_the_writer(fleet: Fleet) -> None:
    gate, stranger = Gate(fleet), LoopThread()

    async def add() -> None:
        fleet.state.writer.add_row(HeartbeatRows(), presence_row(1, 1, authenticated=1))

    stranger.run(add())
    stranger.close()
    gate.open()
    assert fleet.write(lambda connection: 7) == 7


def test_a_bug_in_the_writer_reaches_its_callers_and_not_the_next(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def write(self, connection, rows) -> None:
            raise ZeroDivisionError

    async def add() -> None:
        await fleet.state.writer.add_row(Broken(), ())

    with caplog.at_level(logging.CRITICAL, logger="meetingctl"), pytest.raises(ZeroDivisionError):
        fleet.loop.run(add())
    assert fleet.write(lambda connection: 7) == 7


def test_a_stuck_database_is_busy_after_a_deadline(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "WAIT_S", 0.1)
    gate = Gate(fleet)
    with pytest.raises(Busy):
        fleet.state.writer.run(lambda connection: None)
    gate.open()


def test_another_process_that_holds_the_file_is_busy_then_passes(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet.device()
    with fleet.state.database.writing.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout=50")
    other = sa.create_engine(fleet.url, poolclass=sa.NullPool)
    with other.connect() as holder:
        holder.exec_driver_sql("BEGIN EXCLUSIVE")
        answer = fleet.call("PUT", "/api/devices/cam-1/note", key=None, code=None, json={"note": "x"})
        assert answer.status_code == 401
        with pytest.raises(Busy):
            fleet.write(lambda connection: None)
        holder.rollback()
    assert fleet.write(lambda connection: 7) == 7


@pytest.fixture
def small_disk(tmp_path: Path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        missing("the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.real
def test_a_full_disk_is_507_and_passes_once_there_is_room(
    small_disk: Path, migrated_file: Path, make_fleet: MakeFleet
) -> None:
    path = small_disk / "meetingctl.db"
    shutil.copy(migrated_file, path)
    fleet = Fleet(sa.URL.create("sqlite", database=str(path)), small_disk)
    try:
        fleet.device()
        admin = fleet.admin
        fleet.call("GET", "/api/devices", key=admin)
        ballast = small_disk / "ballast"
        with ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"x" * 4096)
            except OSError:
                pass
        statuses = set()
        for number in range(40):
            answer = fleet.call("PUT", "/api/devices/cam-1/note", key=admin, json={"note": f"{number:02d}" * 900})
            statuses.add(answer.status_code)
            if answer.status_code != 200:
                assert answer.json() == {"error": "Storage full"}
        assert 507 in statuses
        assert statuses <= {200, 507}
        assert fleet.call("POST", "/api/devices/cam-1/online", code=CODE).status_code in (200, 507)
        assert fleet.call("GET", "/api/devices/cam-1/note", key=admin).status_code == 200
        ballast.unlink()
        wait_for(
            lambda: fleet.call("PUT", "/api/devices/cam-1/note", key=admin, json={"note": "after"}).status_code == 200,
            "it writes again",
        )
        assert fleet.call("GET", "/api/devices/cam-1/note", key=admin).json() == {"note": "after"}
    finally:
        fleet.close()


def test_full_disk_is_its_own_error(tmp_path: Path, migrated_file: Path) -> None:
    shutil.copy(migrated_file, tmp_path / "meetingctl.db")
    database = open_database(sa.URL.create("sqlite", database=str(tmp_path / "meetingctl.db")))
    writer = GroupWriter(database.writing)
    writer.start()

    def fill(connection: sa.Connection) -> None:
        connection.exec_driver_sql("PRAGMA max_page_count=1")
        connection.exec_driver_sql("CREATE TABLE filler (x)")
        for _ in range(1000):
            connection.exec_driver_sql("INSERT INTO filler VALUES (zeroblob(100000))")

    with pytest.raises(StorageFull):
        writer.run(fill)
    writer.close()
    database.close()


@pytest.mark.real
def test_two_processes_do_not_deadlock_or_fork_the_audit_chain(postgres_url: sa.URL, tmp_path: Path) -> None:
    """Two writers on one PostgreSQL, changing the same devices in opposite orders."""
    from meetingctl.server.audit.chain import verify

    fleets = [Fleet(postgres_url, tmp_path) for _ in range(2)]
    try:
        for key in ("cam-1", "cam-2"):
            fleets[0].device(key)
        admin = fleets[0].admin
        began_s = time.monotonic()
        outcomes: list[list[int]] = [[], []]

        def hammer(number: int) -> None:
            order = ("cam-1", "cam-2") if number == 0 else ("cam-2", "cam-1")
            calls = [
                ("PUT", f"/api/devices/{key}/note", {"key": admin, "json": {"note": f"{number}-{n}"}})
                for n in range(25)
                for key in order
            ]
            outcomes[number] = [answer.status_code for answer in fleets[number].call_all(calls)]

        in_threads(hammer, 2)
        assert set(outcomes[0] + outcomes[1]) == {200}
        assert time.monotonic() - began_s < 20
        with fleets[0].database.read() as connection:
            records, first_bad = verify(connection)
        assert first_bad is None
        assert records >= 100
    finally:
        for fleet in fleets:
            fleet.close()

"""Take the original's tables from a MySQL dump into our database, in one transaction: all of it or nothing.

The dump is read more than once, because mysqldump writes the tables in the order of their names, and logs, keys and
tunnels refer to devices. What is here already stays as it is, so that a later dump adds only what is new.
"""

from __future__ import annotations

import contextlib
import gzip
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import sqlalchemy as sa

from meetingctl.core.clock import now_ms
from meetingctl.core.errors import Conflict, InvalidInput, NotFound
from meetingctl.core.ids import new_token_code
from meetingctl.core.settings import Settings
from meetingctl.server.audit.chain import Actor, append
from meetingctl.server.catalog.fields import fold_name
from meetingctl.server.db import mysql_rows as rows
from meetingctl.server.db.copy import open_existing, require_newest
from meetingctl.server.db.engine import Database, database_url, translated_errors
from meetingctl.server.db.mysql_dump import DumpReader
from meetingctl.server.db.schema import (
    connection_logs,
    device_key_log,
    device_keys,
    device_types,
    devices,
    presence,
    tunnel_ports,
    update_channels,
    users,
)
from meetingctl.server.db.writer import take_turn
from meetingctl.server.devices.model import new_device_secrets, new_serial
from meetingctl.server.identity.users import create_user, find_user

ACTOR = Actor("local:import-mysql", "", "")
MOST_DETAILS = 200
_LOG_BATCH = 500
_KNOWN_DEVICES = 20_000
_DEEPEST = 64
_FORBIDDEN_USERS = frozenset({"root"})

# Made once: for each of many rows, making a statement would take longer than running it.
_FIND_DEVICE = sa.select(devices.c.id, devices.c.device_key).where(devices.c.key_fold == sa.bindparam("fold"))
_FIND_SERIAL = sa.select(devices.c.id).where(devices.c.product_serial == sa.bindparam("serial"))
_ADD_DEVICE = devices.insert().returning(devices.c.id)
_ADD_PRESENCE = presence.insert()


@dataclass(slots=True)
class Tally:
    """What became of the rows of one table."""

    read: int = 0
    taken: int = 0
    there: int = 0
    skipped: int = 0


@dataclass(slots=True)
class Report:
    """Counts per table, and a bounded list of what was skipped or taken otherwise than it stood there."""

    tallies: dict[str, Tally] = field(default_factory=lambda: {name: Tally() for name in rows.TABLES})
    details: list[dict[str, str]] = field(default_factory=list)
    more_details: int = 0

    def tell(self, table: str, row: str, what: str) -> None:
        if len(self.details) < MOST_DETAILS:
            self.details.append({"table": table, "row": row[:160], "what": what})
        else:
            self.more_details += 1


def import_dump(settings: Settings, data_dir: Path, dump: Path, *, dry_run: bool = False) -> dict[str, Any]:
    """Import a dump, plain or compressed with gzip.

    Returns {dump, database, tables: [{table, read, taken, there, skipped}], details: [{table, row, what}],
    more_details, other_tables: {table: rows}}. With `dry_run` the same is done and then undone.
    Raises: NotFound, InvalidInput for what is no dump, ConfigError, Conflict beside a server on SQLite.
    """
    from meetingctl.server.run import only_one

    url = database_url(settings.db_url, data_dir)
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(open_existing(url))
        if database.dialect == "sqlite":
            stack.enter_context(only_one(Path(str(url.database))))
        stack.enter_context(translated_errors())
        with _transaction(database, keep=not dry_run) as connection:
            report, others = _import_all(connection, dump)
    return {
        "dump": str(dump),
        "database": url.render_as_string(hide_password=True),
        "tables": [
            {"table": name, "read": t.read, "taken": t.taken, "there": t.there, "skipped": t.skipped}
            for name, t in report.tallies.items()
        ],
        "details": report.details,
        "more_details": report.more_details,
        "other_tables": others,
    }


@contextlib.contextmanager
def _transaction(database: Database, *, keep: bool) -> Iterator[sa.Connection]:
    with database.writing.connect() as connection, connection.begin() as transaction:
        if database.dialect == "postgresql":  # reading on in the dump may take longer than a server should ever wait
            connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
        require_newest(connection, database.writing.url)
        yield connection
        if not keep:
            transaction.rollback()


def _import_all(connection: sa.Connection, dump: Path) -> tuple[Report, dict[str, int]]:
    work = _Import(connection)
    others = work.read(
        dump, {"devices": work.take_device, "device_types": work.take_type, "update_channels": work.take_channel}
    )
    work.join_types()
    work.read(
        dump,
        {
            "devices": work.take_parent,
            "device_keys": work.take_key,
            "tunnel_ports": work.take_tunnel,
            "connection_logs": work.take_log,
        },
        counted=frozenset(rows.TABLES) - {"devices"},
    )
    work.write_logs()
    take_turn(connection)  # accounts are audited one by one, and two at once would fork the chain
    work.read(dump, {"builder_users": work.take_user})
    report = work.report
    if not any(tally.read for tally in report.tallies.values()):
        raise InvalidInput("no table of Meeting is in the dump", hint=f"it should have {', '.join(rows.TABLES)}")
    counts = {name: tally.taken for name, tally in report.tallies.items()}
    append(connection, ACTOR, "db.import", f"dump:{dump.name}", after=counts)
    return report, {name: count for name, count in sorted(others.items()) if name not in rows.TABLES}


@contextlib.contextmanager
def _opened_dump(path: Path) -> Iterator[BinaryIO]:
    """Raises: NotFound, InvalidInput for a file that is not whole."""
    try:
        with path.open("rb") as plain:
            is_packed = plain.read(2) == b"\x1f\x8b"
            plain.seek(0)
            yield cast(BinaryIO, gzip.GzipFile(fileobj=plain)) if is_packed else plain
    except (FileNotFoundError, IsADirectoryError, PermissionError) as exc:
        raise NotFound(f"cannot read {path}: {os.strerror(exc.errno or 0)}", hint="name a file of mysqldump") from exc
    except (EOFError, gzip.BadGzipFile) as exc:
        raise InvalidInput(f"{path} is not whole", hint="make the dump again") from exc


class _Import:
    """One import: where the originals' numbers went, and what to tell about it."""

    def __init__(self, connection: sa.Connection) -> None:
        self.report = Report()
        self._connection = connection
        self._now_ms = now_ms()
        self._device_before = self._highest(devices.c.id)
        self._log_before = self._highest(connection_logs.c.id)
        self._device_ids: dict[int, int] = {}  # number in the original -> ours: some 100 bytes a device
        self._known: dict[str, int | None] = {}
        self._type_ids: dict[int, int] = {}
        self._type_parents: dict[int, int] = {}
        self._logs: list[dict[str, Any]] = []

    def read(
        self,
        dump: Path,
        takers: dict[str, Callable[[rows.Row], bool]],
        counted: frozenset[str] = frozenset(rows.TABLES),
    ) -> dict[str, int]:
        """Give each row of the named tables to its function; return the rows of the other tables."""
        with _opened_dump(dump) as file:
            reader = DumpReader(file, takers.keys())
            for table, row in reader.rows():
                tally = self.report.tallies[table] if table in counted else Tally()
                tally.read += 1
                try:
                    if takers[table](row):
                        tally.taken += 1
                    else:
                        tally.there += 1
                except rows.Skipped as exc:
                    tally.skipped += 1
                    if table in counted and str(exc):
                        self.report.tell(table, _name_row(row), f"skipped: {exc}")
        return reader.other_rows

    def take_device(self, row: rows.Row) -> bool:
        notes = rows.Notes()
        values, seen = rows.device_values(row, notes)
        found = self._find_folded(values["key_fold"])
        if found is not None:
            if found.device_key != values["device_key"]:
                raise rows.Skipped(f"differs only in case from {found.device_key}")
            self._remember(row, found.id)
            return False
        serial = values["product_serial"]
        if serial and self._one(_FIND_SERIAL, serial=serial) is not None:
            notes.add(f"serial {serial} is another device's: it got a new one")
            serial = None
        values["product_serial"] = serial or (new_serial(values["device_type"]) if values["device_type"] else None)
        values["created_at_ms"] = values["created_at_ms"] or self._now_ms
        values = {"token_code": new_token_code(), **new_device_secrets(values["device_key"]), **values}
        device_id = int(self._connection.execute(_ADD_DEVICE, values).scalar_one())
        if seen is not None:
            self._connection.execute(_ADD_PRESENCE, {"device_id": device_id, **seen})
        self._remember(row, device_id)
        self._tell("devices", values["device_key"], notes)
        return True

    def take_parent(self, row: rows.Row) -> bool:
        """Name the parent of a device that came with this import."""
        key, above = rows.parent_key_of(row), rows.original_id(row, "parent_id")
        if key is None and above is None:
            return False
        own = self._find_device(row)
        if own is None or own <= self._device_before:
            return False
        parent = self._device_ids.get(above or 0) if key is None else self._find_key(key)
        if parent is None or own in self._ancestors(parent):
            self.report.tell("devices", _name_row(row), "its parent was left out: unknown, or itself below it")
            return False
        self._connection.execute(devices.update().where(devices.c.id == own).values(parent_id=parent))
        return True

    def take_type(self, row: rows.Row) -> bool:
        notes = rows.Notes()
        values = rows.type_values(row, notes)
        number, live_name = rows.original_id(row), fold_name(values["name"])
        there = self._one(sa.select(device_types.c.id).where(device_types.c.live_name == live_name))
        type_id = there if there is not None else self._insert_type(values | {"live_name": live_name}, row)
        if number is not None:
            self._type_ids[number] = type_id
        if there is None:
            self._tell("device_types", values["name"], notes)
        return there is None

    def join_types(self) -> None:
        """Name the parents of the types that came with this import."""
        for type_id, number in self._type_parents.items():
            parent = self._type_ids.get(number)
            if parent is not None and parent < type_id:  # a parent is older, so no circle can close
                change = device_types.update().where(device_types.c.id == type_id)
                self._connection.execute(change.values(parent_id=parent))

    def take_channel(self, row: rows.Row) -> bool:
        values = rows.channel_values(row)
        named = [update_channels.c[name] == values[name] for name in ("device_type", "distribution", "channel")]
        if self._one(sa.select(update_channels.c.id).where(*named)) is not None:
            return False
        self._connection.execute(update_channels.insert().values(self._dated(values)))
        return True

    def take_key(self, row: rows.Row) -> bool:
        values = rows.key_values(row, _FORBIDDEN_USERS)
        device_id = self._need_device(row)
        if self._one(sa.select(device_keys.c.device_id).where(device_keys.c.device_id == device_id)) is not None:
            return False
        added_ms = values["added_at_ms"] or self._now_ms
        values |= {"added_at_ms": added_ms, "modified_at_ms": values["modified_at_ms"] or added_ms}
        self._connection.execute(device_keys.insert().values(device_id=device_id, **values))
        noted = {"device_id": device_id, "at_ms": self._now_ms, "action": "import", "actor": ACTOR.principal}
        self._connection.execute(device_key_log.insert().values(**noted, fingerprint=values["fingerprint"], remote=""))
        return True

    def take_tunnel(self, row: rows.Row) -> bool:
        if rows.device_key_of(row) is None and rows.original_id(row, "device_id") is None:
            raise rows.Skipped  # a free port
        values = rows.tunnel_values(row, self._now_ms) | {"device_id": self._need_device(row)}
        same = [tunnel_ports.c[name] == values[name] for name in ("device_id", "service", "local_port")]
        port = self._one(sa.select(tunnel_ports.c.port).where(*same))
        if port is not None:
            if port == values["port"]:
                return False
            raise rows.Skipped(f"the device has this tunnel on port {port}")
        is_port = tunnel_ports.c.port == values["port"]
        found = self._connection.execute(sa.select(tunnel_ports.c.device_id).where(is_port)).first()
        if found is None:
            self._connection.execute(tunnel_ports.insert().values(values))
        elif found.device_id is None:
            self._connection.execute(tunnel_ports.update().where(is_port).values(values))
        else:
            raise rows.Skipped("another device has this port")
        return True

    def take_log(self, row: rows.Row) -> bool:
        """Keep a line until there are enough; `write_logs` corrects the count for what was there."""
        self._logs.append({**rows.log_values(row), "device_id": self._need_device(row)})
        if len(self._logs) >= _LOG_BATCH:
            self.write_logs()
        return True

    def write_logs(self) -> None:
        """Write the lines that wait, but for those that an earlier import brought."""
        batch, self._logs = self._logs, []
        there = self._logs_there(batch)
        fresh = []
        for values in batch:
            line = _line_of(values)
            if there[line]:
                there[line] -= 1
            else:
                fresh.append(values)
        tally = self.report.tallies["connection_logs"]
        tally.taken -= len(batch) - len(fresh)
        tally.there += len(batch) - len(fresh)
        if fresh:
            self._connection.execute(connection_logs.insert(), fresh)

    def _logs_there(self, batch: list[dict[str, Any]]) -> Counter[tuple[Any, ...]]:
        if not batch or not self._log_before:
            return Counter()
        times = [values["at_ms"] for values in batch]
        query = sa.select(connection_logs).where(
            connection_logs.c.at_ms.between(min(times), max(times)),
            connection_logs.c.id <= self._log_before,
            connection_logs.c.device_id.in_({values["device_id"] for values in batch}),
        )
        wanted = {_line_of(values) for values in batch}
        return Counter(line for row in self._connection.execute(query).mappings() if (line := _line_of(row)) in wanted)

    def take_user(self, row: rows.Row) -> bool:
        notes = rows.Notes()
        values = rows.user_values(row, notes)
        if find_user(self._connection, values["username"]) is not None:
            return False
        created_ms = values.pop("created_at_ms")
        try:
            with self._connection.begin_nested():
                user_id, _ = create_user(self._connection, ACTOR, **values)
        except (InvalidInput, Conflict) as exc:
            raise rows.Skipped(exc.message) from exc
        if created_ms is not None:
            self._connection.execute(users.update().where(users.c.id == user_id).values(created_at_ms=created_ms))
        self._tell("builder_users", values["username"], notes)
        return True

    def _insert_type(self, values: dict[str, Any], row: rows.Row) -> int:
        insert = device_types.insert().values(self._dated(values)).returning(device_types.c.id)
        type_id = int(self._connection.execute(insert).scalar_one())
        if (number := rows.original_id(row, "parent_id")) is not None:
            self._type_parents[type_id] = number
        return type_id

    def _dated(self, values: dict[str, Any]) -> dict[str, Any]:
        """Give what the original has no times for those of now."""
        return {
            name: self._now_ms if value is None and name.endswith("_at_ms") else value for name, value in values.items()
        }

    def _remember(self, row: rows.Row, device_id: int) -> None:
        if (number := rows.original_id(row)) is not None:
            self._device_ids[number] = device_id

    def _need_device(self, row: rows.Row) -> int:
        device_id = self._find_device(row)
        if device_id is None:
            raise rows.Skipped("its device is not here")
        return device_id

    def _find_device(self, row: rows.Row) -> int | None:
        key = rows.device_key_of(row)
        return self._find_key(key) if key else self._device_ids.get(rows.original_id(row, "device_id") or 0)

    def _find_key(self, device_key: str) -> int | None:
        fold = device_key.lower()[:128]
        if fold not in self._known:
            if len(self._known) >= _KNOWN_DEVICES:
                self._known.clear()
            found = self._find_folded(fold)
            self._known[fold] = None if found is None else found.id
        return self._known[fold]

    def _find_folded(self, fold: str) -> Any:
        return self._connection.execute(_FIND_DEVICE, {"fold": fold}).first()

    def _ancestors(self, device_id: int) -> set[int]:
        found: set[int] = set()
        above: int | None = device_id
        while above is not None and above not in found and len(found) < _DEEPEST:
            found.add(above)
            above = self._one(sa.select(devices.c.parent_id).where(devices.c.id == above))
        return found

    def _one(self, query: Any, **values: Any) -> int | None:
        value = self._connection.execute(query, values).scalar()
        return None if value is None else int(value)

    def _highest(self, column: sa.Column[int]) -> int:
        return self._one(sa.select(sa.func.max(column))) or 0

    def _tell(self, table: str, row: str, notes: rows.Notes) -> None:
        for text in notes.texts:
            self.report.tell(table, row, text)


def _line_of(values: Any) -> tuple[Any, ...]:
    return tuple(values[name] for name in ("device_id", "at_ms", "event", "host", "remote"))


def _name_row(row: rows.Row) -> str:
    """Name a row by what is no secret."""
    for name in ("device_key", "devicekey", "username", "login", "name", "port", "channel", "id"):
        if row.get(name) is not None:
            return str(row[name])
    return "?"

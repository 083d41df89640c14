"""Rows in every table of a database, whatever its revision: made from the tables themselves."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

ROWS = 3


def fill_tables(connection: sa.Connection) -> None:
    """Put three related rows into each table; a reference of a table to itself stays empty."""
    found = sa.MetaData()
    found.reflect(connection)
    for table in found.sorted_tables:
        if table.name == "alembic_version":
            continue
        start = connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
        for number in range(start + 1, ROWS + 1):
            values = {c.name: _value(connection, c, number) for c in table.columns if not _refers_to_itself(c)}
            connection.execute(table.insert().values(values))
    if connection.dialect.name == "postgresql":
        _move_sequences(connection, found)


def _refers_to_itself(column: sa.Column[Any]) -> bool:
    return any(key.column.table is column.table for key in column.foreign_keys)


def _value(connection: sa.Connection, column: sa.Column[Any], number: int) -> Any:
    key = next(iter(column.foreign_keys), None)
    if key is not None:
        return connection.execute(sa.select(key.column).order_by(key.column)).scalars().all()[number - 1]
    kind = column.type
    if isinstance(kind, sa.Boolean):
        return number % 2 == 0
    if isinstance(kind, sa.Integer):
        return number
    if isinstance(kind, sa.JSON):
        return {"é": [number, None, "\\n\t\"'"]}
    return f"{number} é\t\\N\n'\"{column.name}"[: getattr(kind, "length", None) or 60]


def _move_sequences(connection: sa.Connection, found: sa.MetaData) -> None:
    for table in found.sorted_tables:
        for column in table.primary_key:
            if isinstance(column.type, sa.Integer) and column.autoincrement is not False and column.server_default:
                sequence = sa.func.pg_get_serial_sequence(table.name, column.name)
                connection.execute(sa.select(sa.func.setval(sequence, ROWS)))

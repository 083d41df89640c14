"""Append to the audit table inside the transaction of the change itself, and verify the chain.

Each record's hash covers its own fields and the hash before it, so that a changed, removed or inserted record breaks
the chain from there on; `audit_head` names the newest record, so that a removed end shows too. Whoever can rewrite
both tables can rewrite the whole chain: export it regularly.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from meetingctl.core.clock import now_ms
from meetingctl.core.secret import sha256_hex
from meetingctl.server.db.schema import audit, audit_head

_SECRET_WORDS = ("token", "password", "secret", "http_pw", "private", "passphrase")
_COUNTS = frozenset({"token_count"})
_PAGE = 1000
GENESIS = "0" * 64


@dataclass(frozen=True, slots=True)
class Actor:
    """Who did it, from where, in which request."""

    principal: str
    peer: str
    request_id: str


SYSTEM = Actor("system", "", "")


def redacted(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Replace secrets by a fingerprint, short ones by stars: a fingerprint would tell them to whoever tries all."""
    shown: dict[str, Any] = {}
    for key, value in facts.items():
        if isinstance(value, str) and key not in _COUNTS and any(word in key for word in _SECRET_WORDS):
            shown[key] = f"sha256:{sha256_hex(value)[:12]}" if len(value) >= 16 else "***"
        else:
            shown[key] = value
    return shown


def append(
    connection: sa.Connection,
    actor: Actor,
    action: str,
    target: str,
    *,
    result: str = "ok",
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    """Write one record. `action` is `noun.verb`, `target` names the object, for example `device:cam-7`.

    For operations of the group writer, which take turns: two that appended at once would fork the chain.
    """
    last = connection.execute(sa.select(audit_head.c.record_id, audit_head.c.hash)).first()
    record: dict[str, Any] = {
        "id": (last.record_id if last else 0) + 1,
        "at_ms": now_ms(),
        "principal": actor.principal[:160],
        "peer": actor.peer[:64],
        "action": action,
        "object": target[:256],
        "result": result,
        "before": _canonical(redacted(before)) if before is not None else None,
        "after": _canonical(redacted(after)) if after is not None else None,
        "request_id": actor.request_id[:64],
    }
    record["hash"] = record_hash(record, last.hash if last else GENESIS)
    connection.execute(audit.insert().values(record))
    newest = {"record_id": record["id"], "hash": record["hash"]}
    if connection.execute(audit_head.update().values(newest)).rowcount == 0:
        connection.execute(audit_head.insert().values(id=1, **newest))


def record_hash(record: Mapping[str, Any], previous_hash: str) -> str:
    """Return the SHA-256, in hex, of the previous hash and the record's canonical JSON without its hash."""
    content = _canonical({key: value for key, value in record.items() if key != "hash"})
    return hashlib.sha256(f"{previous_hash}\n{content}".encode()).hexdigest()


def verify(connection: sa.Connection) -> tuple[int, int | None]:
    """Check every record; return how many are right and the id of the first bad one, None when all are right."""
    previous_hash, count = GENESIS, 0
    while True:
        page = sa.select(audit).where(audit.c.id > count).order_by(audit.c.id).limit(_PAGE)
        rows = connection.execute(page).mappings().all()
        for row in rows:
            if row["id"] != count + 1 or row["hash"] != record_hash(dict(row), previous_hash):
                return count, int(row["id"])
            previous_hash, count = row["hash"], count + 1
        if len(rows) < _PAGE:
            break
    head = connection.execute(sa.select(audit_head.c.record_id, audit_head.c.hash)).first()
    if (head.record_id, head.hash) != (count, previous_hash) if head else count:
        return count, count + 1
    return count, None


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)

"""Which deliveries are due, who sends them, and what became of them.

A delivery is claimed for a time before it is sent: two API processes never send it at once, and the claim of a process
that was killed ends by itself. So a delivery arrives at least once; its name lets receivers notice the second time.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import sqlalchemy as sa

from meetingctl.core.clock import now_ms
from meetingctl.server.audit.chain import SYSTEM, append
from meetingctl.server.db.schema import webhook_deliveries, webhooks
from meetingctl.server.webhooks.signing import choose_retry_s

LEASE_MS = 60_000  # longer than the longest deadline of an attempt
MOST_PER_WEBHOOK = 4
_GONE = 410
_SCAN = 500


@dataclass(frozen=True, slots=True)
class Claim:
    """A delivery that this process may send until `until_ms`."""

    delivery_id: int
    webhook_id: int
    url: str
    secret_sealed: str
    event: str
    body: str
    attempt: int
    created_at_ms: int
    until_ms: int

    @property
    def name(self) -> str:
        """What names the delivery for the receiver, the same at each attempt."""
        return delivery_name(self.delivery_id, self.created_at_ms)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an attempt: a status, or an error without one."""

    status: int | None
    error: str = ""

    @property
    def is_delivered(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def is_gone(self) -> bool:
        """The receiver says that it will never listen again."""
        return self.status == _GONE


def delivery_name(delivery_id: int, created_at_ms: int) -> str:
    """Name a delivery; the time keeps it apart from one of the same number before a restored backup."""
    return f"{delivery_id}-{created_at_ms}"


def _due(at_ms: int) -> tuple[sa.ColumnElement[bool], ...]:
    deliveries = webhook_deliveries.c
    return (
        deliveries.state == "waiting",
        deliveries.next_attempt_ms <= at_ms,
        sa.or_(deliveries.claimed_until_ms.is_(None), deliveries.claimed_until_ms <= at_ms),
        webhooks.c.active,
    )


def has_due(connection: sa.Connection) -> bool:
    """Say whether a delivery waits to be sent now."""
    joined = webhook_deliveries.join(webhooks)
    return (
        connection.execute(
            sa.select(webhook_deliveries.c.id).select_from(joined).where(*_due(now_ms())).limit(1)
        ).first()
        is not None
    )


def claim(connection: sa.Connection, most: int, busy: Collection[int] = ()) -> list[Claim]:
    """Take up to `most` deliveries that are due, few of each webhook; `busy` names the webhooks being served now."""
    at_ms = now_ms()
    load: dict[int, int] = {}
    for webhook_id in busy:
        load[webhook_id] = load.get(webhook_id, 0) + 1
    full = [webhook_id for webhook_id, count in load.items() if count >= MOST_PER_WEBHOOK]
    columns = (webhook_deliveries, webhooks.c.url, webhooks.c.secret_sealed)
    query = sa.select(*columns).join(webhooks).where(*_due(at_ms), webhooks.c.id.not_in(full))
    query = query.order_by(webhook_deliveries.c.next_attempt_ms, webhook_deliveries.c.id).limit(_SCAN)
    claims: list[Claim] = []
    for row in connection.execute(query).mappings():
        webhook_id = row["webhook_id"]
        if len(claims) == most or load.get(webhook_id, 0) >= MOST_PER_WEBHOOK:
            continue
        load[webhook_id] = load.get(webhook_id, 0) + 1
        claims.append(_claim_of(row, at_ms + LEASE_MS))
    if claims:
        chosen = webhook_deliveries.c.id.in_([item.delivery_id for item in claims])
        values = {"claimed_until_ms": at_ms + LEASE_MS, "attempts": webhook_deliveries.c.attempts + 1}
        connection.execute(webhook_deliveries.update().where(chosen).values(values))
    return claims


def _claim_of(row: sa.RowMapping, until_ms: int) -> Claim:
    return Claim(
        delivery_id=row["id"],
        webhook_id=row["webhook_id"],
        url=row["url"],
        secret_sealed=row["secret_sealed"],
        event=row["event"],
        body=row["body"],
        attempt=row["attempts"] + 1,
        created_at_ms=row["created_at_ms"],
        until_ms=until_ms,
    )


def finish(connection: sa.Connection, claimed: Claim, outcome: Outcome, *, attempts: int, retry_s: float) -> None:
    """Write what became of an attempt, unless the claim ended meanwhile and is another's."""
    at_ms = now_ms()
    values = {"claimed_until_ms": None, "last_status": outcome.status, "last_error": outcome.error[:300] or None}
    if outcome.is_delivered:
        values |= {"state": "delivered", "next_attempt_ms": None, "finished_at_ms": at_ms}
    elif outcome.is_gone or claimed.attempt >= attempts:
        values |= {"state": "dead", "next_attempt_ms": None, "finished_at_ms": at_ms}
    else:
        values |= {"next_attempt_ms": at_ms + int(choose_retry_s(claimed.attempt, retry_s) * 1000)}
    still_ours = (
        webhook_deliveries.c.id == claimed.delivery_id,
        webhook_deliveries.c.claimed_until_ms == claimed.until_ms,
    )
    wrote = connection.execute(webhook_deliveries.update().where(*still_ours).values(values)).rowcount
    if wrote and outcome.is_gone:
        _turn_off(connection, claimed.webhook_id)


def _turn_off(connection: sa.Connection, webhook_id: int) -> None:
    statement = webhooks.update().where(webhooks.c.id == webhook_id, webhooks.c.active).values(active=False)
    if connection.execute(statement).rowcount:
        append(connection, SYSTEM, "webhook.off", f"webhook:{webhook_id}", after={"reason": "the receiver answers 410"})

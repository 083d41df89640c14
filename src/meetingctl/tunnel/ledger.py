"""What happened at a proxy: records waiting for the registry, and totals for Prometheus. All of it bounded."""

from __future__ import annotations

from collections import Counter, deque

from meetingctl.core.clock import now_ms
from meetingctl.core.limits import TokenBucket
from meetingctl.tunnel.directory import AgentLink, Event, Report, Visit
from meetingctl.tunnel.rules import ProxyLimits


class Ledger:
    """Keep visits and events until a report carried them; the oldest go first when nobody fetches them."""

    def __init__(self, limits: ProxyLimits) -> None:
        self._limits = limits
        self._visits: deque[Visit] = deque(maxlen=limits.visits_kept)
        self._events: deque[Event] = deque(maxlen=limits.events_kept)
        self._refused = TokenBucket(interval_s=1 / limits.refused_visits_per_s, burst=int(limits.refused_visits_per_s))
        self.visits: Counter[tuple[str, str, str]] = Counter()
        self.kills: Counter[str] = Counter()
        self.port_totals: dict[int, list[int]] = {}

    def note_visit(self, visit: Visit, now_s: float) -> None:
        """Count a visit and keep its record; refused ones are recorded at a bounded rate per tunnel."""
        self.visits[visit.service, visit.outcome, visit.reason] += 1
        totals = self.port_totals.setdefault(visit.port, [0, 0, 0])
        for index, amount in enumerate((1, visit.bytes_in, visit.bytes_out)):
            totals[index] += amount
        if visit.outcome == "reset" and visit.reason.startswith("slow "):
            self.kills["slow_visitor"] += 1
        if visit.outcome != "refused" or self._refused.allow(visit.port, now_s):
            self._visits.append(visit)

    def note_event(self, device_key: str, kind: str, detail: str = "") -> None:
        """Keep an event."""
        self._events.append(Event(now_ms(), device_key, kind, detail[:256]))

    def forget_port(self, port: int) -> None:
        """Drop the totals of a tunnel that is gone."""
        self.port_totals.pop(port, None)

    @property
    def is_large(self) -> bool:
        """Say whether more waits than one report carries."""
        limits = self._limits
        return len(self._visits) >= limits.visits_per_report or len(self._events) >= limits.events_per_report

    def report(self, proxy: str, agents: tuple[AgentLink, ...]) -> Report:
        """Return the next report; its records stay until `confirm`."""
        visits = tuple(self._visits[i] for i in range(min(len(self._visits), self._limits.visits_per_report)))
        events = tuple(self._events[i] for i in range(min(len(self._events), self._limits.events_per_report)))
        return Report(proxy, agents, visits, events)

    def confirm(self, report: Report) -> None:
        """Forget the records that the registry has; some may have been pushed out meanwhile."""
        _drop_head(self._visits, report.visits)
        _drop_head(self._events, report.events)


def _drop_head(kept: deque[Visit] | deque[Event], sent: tuple[Visit, ...] | tuple[Event, ...]) -> None:
    known = {id(record) for record in sent}
    while kept and id(kept[0]) in known:
        kept.popleft()

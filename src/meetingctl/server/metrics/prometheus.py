"""Prometheus figures. Labels are bounded: route templates, methods and status classes, never a device key."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from meetingctl.server.metrics.counts import TableCounts
from meetingctl.server.metrics.host import HostFigures
from meetingctl.server.metrics.recent import RecentLog

# name -> label values -> count, as the proxy gives them.
TunnelTotals = Mapping[str, Mapping[tuple[str, ...], int]]
_TUNNEL_LABELS = {
    "visits": ("service", "outcome", "reason"),
    "handshakes": ("outcome",),
    "kills": ("reason",),
    "bytes": ("direction",),
}

# The states that are shown although the table holds none: a graph that begins at 0 shows the first failure.
_STATES = {
    "builder_jobs": ("queued", "running", "done", "failed"),
    "rollouts": ("preparing", "running", "paused", "finished", "aborted"),
    "webhook_deliveries": ("waiting", "delivered", "dead"),
}
_TITLES = {
    "devices": "Devices in the registry",
    "tunnels": "Reserved public ports",
    "builder_jobs": "Packaging jobs by state",
    "rollouts": "Rollouts by state",
    "webhook_deliveries": "Webhook deliveries by state",
}
_REFUSALS = {401: "credential", 403: "rights", 413: "size", 429: "rate", 503: "busy", 507: "storage"}

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Metrics:
    """The figures of one server, in a registry of their own so that tests may run several servers."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "meetingctl_http_requests", "Requests", ["route", "method", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "meetingctl_http_request_seconds", "Time to answer", ["route"], registry=self.registry, buckets=_SECONDS
        )
        heartbeats = Counter("meetingctl_heartbeats", "Heartbeats by outcome", ["outcome"], registry=self.registry)
        self._heartbeats = {
            outcome: heartbeats.labels(outcome) for outcome in ("accepted", "unauthenticated", "refused", "unknown")
        }
        self._batch = Histogram(
            "meetingctl_commit_batch_size", "Pieces of work in a commit", registry=self.registry, buckets=_SIZES
        )
        self._commit = Histogram(
            "meetingctl_commit_seconds", "Time of a commit", registry=self.registry, buckets=_SECONDS
        )
        self._pending = Gauge("meetingctl_writer_pending", "Work waiting for a commit", registry=self.registry)
        self._refused = Counter("meetingctl_credentials_refused", "Refused credentials", registry=self.registry)
        refusals = Counter("meetingctl_refusals", "Refused requests by reason", ["reason"], registry=self.registry)
        self._refusals = {status: refusals.labels(reason) for status, reason in _REFUSALS.items()}
        self._tables = {
            name: Gauge(f"meetingctl_{name}", title, ["state"], registry=self.registry)
            for name, title in _TITLES.items()
        }
        self.tables, self.host, self.recent = TableCounts(), HostFigures(), RecentLog()
        self._bound: dict[tuple[str, str, int], Counter] = {}
        self._bound_seconds: dict[str, Histogram] = {}

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one request. `route` is a template such as `/api/devices/{device_key}`."""
        key = (route, method, status // 100)
        counter = self._bound.get(key)
        if counter is None:
            counter = self._bound[key] = self._requests.labels(route, method, f"{status // 100}xx")
            self._bound_seconds.setdefault(route, self._seconds.labels(route))
        counter.inc()
        self._bound_seconds[route].observe(seconds)
        if status >= 400 and (refusal := self._refusals.get(status)) is not None:
            refusal.inc()

    def heartbeat(self, outcome: str) -> None:
        self._heartbeats[outcome].inc()

    def observe_commit(self, size: int, seconds: float) -> None:
        self._batch.observe(size)
        self._commit.observe(seconds)

    def refused_credential(self) -> None:
        self._refused.inc()

    def watch_writer(self, pending: Callable[[], int]) -> None:
        self._pending.set_function(pending)

    def watch_tunnels(self, totals: Callable[[], TunnelTotals]) -> None:
        """Read the counters of a tunnel proxy in this process whenever somebody scrapes."""
        self.registry.register(TunnelFigures(totals))

    def text(self, counts: Mapping[str, Mapping[str, int]]) -> bytes:
        """Return the exposition format; `counts` is what the tables hold: figure -> state -> count."""
        for name, found in counts.items():
            for state in {*_STATES.get(name, ()), *found}:
                self._tables[name].labels(state).set(found.get(state, 0))
        return generate_latest(self.registry)


class TunnelFigures(Collector):
    """The proxy's running totals as Prometheus counters."""

    def __init__(self, totals: Callable[[], TunnelTotals]) -> None:
        self._totals = totals

    def collect(self) -> Iterable[Metric]:
        for name, values in self._totals().items():
            labels = _TUNNEL_LABELS[name]
            family = CounterMetricFamily(
                f"meetingctl_tunnel_{name}", f"Tunnel {name} by {', '.join(labels)}", labels=labels
            )
            for label_values, count in values.items():
                family.add_metric(label_values, count)
            yield family

    def describe(self) -> Iterable[Metric]:
        return ()

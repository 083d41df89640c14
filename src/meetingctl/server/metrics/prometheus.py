"""Prometheus figures. Labels are bounded: route templates, methods and status classes, never a device key."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

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

    def heartbeat(self, outcome: str) -> None:
        self._heartbeats[outcome].inc()

    def observe_commit(self, size: int, seconds: float) -> None:
        self._batch.observe(size)
        self._commit.observe(seconds)

    def refused_credential(self) -> None:
        self._refused.inc()

    def watch_writer(self, pending: Callable[[], int]) -> None:
        self._pending.set_function(pending)

    def watch_tunnels(self, figures: Callable[[], Mapping[str, object]]) -> None:
        """Read the tunnel proxy's counters whenever somebody scrapes."""
        self.registry.register(TunnelFigures(figures))

    def text(self) -> bytes:
        """Return the exposition format."""
        return generate_latest(self.registry)


class TunnelFigures(Collector):
    """The proxy in the same process: gauges, and counters keyed by tuples of label values."""

    def __init__(self, figures: Callable[[], Mapping[str, object]]) -> None:
        self._figures = figures

    def collect(self) -> Iterable[Metric]:
        for name, value in self._figures().items():
            if isinstance(value, Mapping):
                yield _labelled(name, value)
            elif isinstance(value, (int, float)):
                yield GaugeMetricFamily(f"meetingctl_tunnel_{name}", name.replace("_", " "), value=value)

    def describe(self) -> Iterable[Metric]:
        return ()


def _labelled(name: str, values: Mapping[object, object]) -> Metric:
    """Turn `{("ssh", "ok"): 3}` or `{"accepted": 3}` into a counter with labels `a`, `b` ..."""
    rows = [(key if isinstance(key, tuple) else (key,), value) for key, value in values.items()]
    width = max((len(key) for key, _ in rows), default=1)
    family = CounterMetricFamily(
        f"meetingctl_tunnel_{name}", name.replace("_", " "), labels=["kind", "outcome", "reason"][:width]
    )
    for key, value in rows:
        if isinstance(value, (int, float)):
            family.add_metric([str(part) for part in key] + [""] * (width - len(key)), value)
    return family

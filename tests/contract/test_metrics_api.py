"""The contract's endpoints about the server itself: keys of the replies, each documented error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cases import Slice, check_reply, matching
from planes import Fleet

from meetingctl.server.metrics.host import HostFigures

GET, LOGS = "GET /api/metrics?action=get", "GET /api/metrics?action=logs"
SLICE = Slice(matching("/api/metrics"))
KEYS = {"cpu", "memory", "disk", "uptime_sec", "temperature_c", "users_logged_in", "network", "db_metrics", "timestamp"}


@pytest.fixture
def logging_fleet(fleet: Fleet) -> Iterator[Fleet]:
    with fleet.state.metrics.recent.attached():
        yield fleet


@pytest.mark.parametrize("endpoint", SLICE.endpoints)
def test_reply_has_the_documented_keys(logging_fleet: Fleet, endpoint: str) -> None:
    answer = logging_fleet.call(*endpoint.split(" "), key=logging_fleet.admin)
    check_reply(endpoint, answer)
    if endpoint == GET:
        assert answer.json()["metrics"].keys() == KEYS | {"process", "runtime", "php_version"}


@pytest.mark.parametrize(("endpoint", "status", "text"), SLICE.errors())
def test_documented_error(fleet: Fleet, tmp_path: Path, endpoint: str, status: int, text: str) -> None:
    if text == "Unknown action":
        endpoint = "GET /api/metrics?action=drop"
    if text == "Metrics unavailable":
        fleet.state.metrics.host = HostFigures(proc=tmp_path / "nothing")
    answer = fleet.call(*endpoint.split(" "), key=fleet.admin)
    assert (answer.status_code, answer.json()) == (status, {"error": text})

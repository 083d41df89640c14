"""Figures of the machine, of the tables and of the log, for people and for Prometheus."""

from __future__ import annotations

import logging
import re
import shutil
import struct
from pathlib import Path

import httpx
import pytest
from planes import CODE, Fleet, Live, MakeFleet
from prometheus_client.parser import text_string_to_metric_families

from meetingctl.core.clock import now_ms
from meetingctl.server.db.schema import rollouts, webhook_deliveries, webhooks
from meetingctl.server.metrics.host import HostFigures
from meetingctl.server.metrics.recent import KEPT_LINES, RecentLog, redact

STATES = {
    "meetingctl_builder_jobs": {"queued", "running", "done", "failed"},
    "meetingctl_rollouts": {"preparing", "running", "paused", "finished", "aborted"},
    "meetingctl_webhook_deliveries": {"waiting", "delivered", "dead"},
}


def figures(fleet: Fleet, path: str = "/metrics") -> dict[str, dict[tuple[str, ...], float]]:
    answer = fleet.call("GET", path, key=fleet.key("viewer"))
    assert answer.status_code == 200
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


def test_real_figures_of_the_machine(any_fleet: Fleet) -> None:
    any_fleet.device()
    shown = any_fleet.call("GET", "/api/metrics", key=any_fleet.key("viewer")).json()["metrics"]
    total_kib = int(re.search(r"MemTotal: +(\d+)", Path("/proc/meminfo").read_text())[1])
    assert shown["memory"]["total_bytes"] == total_kib * 1024
    assert 0 < shown["memory"]["used_bytes"] < shown["memory"]["total_bytes"]
    assert shown["disk"]["total_bytes"] == shutil.disk_usage(any_fleet.data_dir).total
    assert 0 <= shown["cpu"]["percent"] <= 100
    assert abs(shown["uptime_sec"] - float(Path("/proc/uptime").read_text().split()[0])) < 30
    assert shown["network"]["lo"]["rx_bytes"] >= 0
    assert shown["process"]["rss_bytes"] > 10_000_000
    assert shown["db_metrics"]["engine"] == any_fleet.database.dialect
    assert shown["db_metrics"]["size_bytes"] > 10_000
    assert shown["db_metrics"]["devices"] == {"known": 1}
    assert str(any_fleet.data_dir) not in str(shown), "no paths of the server"


def test_readings_of_a_machine_of_files(tmp_path: Path) -> None:
    proc, sensors = tmp_path / "proc", tmp_path / "sys" / "class" / "thermal"
    shutil.copytree("/proc/net", proc / "net", ignore=lambda _, names: [name for name in names if name != "dev"])
    for name in ("loadavg", "meminfo", "uptime"):
        (proc / name).write_text(Path("/proc", name).read_text())
    (proc / "self" / "fd").mkdir(parents=True)
    for name in ("stat", "statm"):
        (proc / "self" / name).write_text(Path("/proc/self", name).read_text())
    (proc / "stat").write_text("cpu  10 0 10 70 10 0 0 0 0 0\ncpu0 1\n")
    for number, text in enumerate(("41000\n", "53500\n", "broken\n")):
        (sensors / f"thermal_zone{number}").mkdir(parents=True)
        (sensors / f"thermal_zone{number}" / "temp").write_text(text)
    record = struct.Struct("hi32s4s32s256shhiii4i20s")
    rows = [record.pack(kind, 1, b"", b"", b"", b"", 0, 0, 0, 0, 0, 0, 0, 0, 0, b"") for kind in (7, 2, 7)]
    (tmp_path / "utmp").write_bytes(b"".join(rows) + b"half")
    shown = HostFigures(proc, tmp_path / "sys", tmp_path / "utmp").read(tmp_path)
    assert shown["cpu"]["percent"] == 20.0
    assert shown["temperature_c"] == 53.5
    assert shown["users_logged_in"] == 2
    bare = HostFigures(proc, tmp_path / "none", tmp_path / "none").read(tmp_path)
    assert (bare["temperature_c"], bare["users_logged_in"]) == (None, 0)


def test_prometheus_shows_what_matters(any_fleet: Fleet) -> None:
    any_fleet.device()
    any_fleet.call("POST", "/api/devices/cam-1/online", code=CODE)
    any_fleet.call("POST", "/api/devices/cam-1/online", code="FFFFFF")
    any_fleet.call("POST", "/api/devices/cam-1/service", key=any_fleet.admin, json={"service": "ssh"})
    any_fleet.call("PUT", "/api/devices/cam-1/authorize", key=any_fleet.key("viewer"), json={"authorized": 1})
    any_fleet.write(lambda connection: connection.execute(rollouts.insert().values(ROLLOUT)))
    any_fleet.write(lambda connection: connection.execute(webhooks.insert().values(HOOK)))
    any_fleet.write(lambda connection: connection.execute(webhook_deliveries.insert().values(DELIVERY)))
    found = figures(any_fleet)
    assert found["meetingctl_heartbeats_total"][("accepted",)] == 1
    assert found["meetingctl_heartbeats_total"][("refused",)] == 1
    assert found["meetingctl_commit_batch_size_count"][()] >= 3
    assert found["meetingctl_tunnels"] == {("open",): 1}
    assert found["meetingctl_devices"] == {("known",): 1}
    assert found["meetingctl_refusals_total"][("credential",)] == 1
    assert found["meetingctl_refusals_total"][("rights",)] == 1
    assert found["meetingctl_rollouts"][("paused",)] == 1
    assert found["meetingctl_webhook_deliveries"][("dead",)] == 1
    for name, states in STATES.items():
        assert {labels[0] for labels in found[name]} == states
    assert found.keys() == figures(any_fleet, "/api/metrics?action=prometheus").keys()


ROLLOUT = {
    "device_type": "rpi",
    "distribution": "d1",
    "channel": "default",
    "version": "1.0",
    "selector": {},
    "plan": {},
    "state": "paused",
    "wave": 0,
    "reason": "",
    "created_by": "x",
    "created_at_ms": 1,
    "updated_at_ms": 1,
}
HOOK = {
    "url": "http://192.0.2.1/",
    "events": ["*"],
    "secret_sealed": "x",
    "active": True,
    "created_by": "x",
    "created_at_ms": 1,
}
DELIVERY = {
    "webhook_id": 1,
    "event": "ping",
    "body": "{}",
    "state": "dead",
    "attempts": 1,
    "created_at_ms": now_ms(),
}


def test_no_label_grows_with_the_fleet(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(heartbeat_interval_s=0.001)
    before = 0
    for round_number in range(3):
        for number in range(5):
            fleet.device(f"cam-{round_number}-{number}")
            fleet.call("POST", f"/api/devices/cam-{round_number}-{number}/online", code=CODE)
            fleet.call("GET", f"/api/devices/cam-{round_number}-{number}", key=fleet.admin)
            fleet.call("GET", f"/nothing/{round_number}-{number}", key=fleet.admin)
        samples = sum(len(values) for values in figures(fleet).values())
        if round_number == 2:  # the first looks have brought the series of the looking itself
            assert samples == before
        before = samples


@pytest.mark.parametrize(
    ("line", "secret"),
    [
        ("login with mk_12_abcDEF failed", "abcDEF"),
        ("Authorization: Bearer abc.def-ghi", "abc.def-ghi"),
        ('{"token_code": "A1B2C3"}', "A1B2C3"),
        ("token_code=A1B2C3 device=cam-1", "A1B2C3"),
        ("postgresql://user:hunter2@db/fleet", "hunter2"),
        ("password: hunter2", "hunter2"),
        ("got eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiIxIn0.c2ln", "eyJzdWIiOiIxIn0"),
        ("hook whsec_0a1b2c is wrong", "0a1b2c"),
    ],
)
def test_lines_are_redacted(line: str, secret: str) -> None:
    assert secret not in redact(line)
    assert redact(f"{line} device=cam-1").endswith("device=cam-1")


def test_the_log_is_bounded_and_for_administrators(fleet: Fleet) -> None:
    recent: RecentLog = fleet.state.metrics.recent
    with recent.attached():
        for number in range(KEPT_LINES + 10):
            logging.getLogger("meetingctl.test").warning("line %d", number, extra={"token_code": "A1B2C3"})
        answer = fleet.call("GET", "/api/metrics?action=logs&lines=2", key=fleet.admin)
        assert [re.search(r"line \d+", line)[0] for line in answer.json()["log"]] == ["line 1008", "line 1009"]
        assert "A1B2C3" not in answer.text
        most = fleet.call("GET", "/api/metrics?action=logs&lines=5000", key=fleet.admin)
        assert len(most.json()["log"]) == KEPT_LINES
        assert fleet.call("GET", "/api/metrics?action=logs", key=fleet.key("operator")).status_code == 403
        assert fleet.call("GET", "/api/metrics?action=logs&lines=x", key=fleet.admin).status_code == 400
    logging.getLogger("meetingctl.test").warning("after")
    assert "after" not in str(recent.lines(5))


def test_a_server_that_runs_keeps_its_log(tmp_path: Path) -> None:
    with Live(tmp_path) as live:
        logging.getLogger("meetingctl.test").warning("a line to find")
        headers = {"authorization": f"Bearer {live.plane.first_key}"}
        answer = httpx.get(f"{live.url}/api/metrics?action=logs", headers=headers, trust_env=False).json()
    assert any("a line to find" in line for line in answer["log"])

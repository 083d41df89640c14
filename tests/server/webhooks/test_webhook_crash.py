"""Kill a server in the middle of a delivery, and watch it tell what it has to tell once."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from planes import ServerProcess, wait_for

KEY = "mk_" + "5" * 60
CODE = "A1B2C3"


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], ServerProcess]:
    settings = {
        "BOOTSTRAP_TOKEN": KEY,
        "ALERT_OFFLINE_AFTER_S": "2",
        "WEBHOOK_NETWORKS": "127.0.0.0/8",
        "HEARTBEAT_INTERVAL_S": "0.01",
        "WEBHOOK_TIMEOUT_S": "30",
    }
    for name, value in settings.items():
        monkeypatch.setenv(f"MEETINGCTL_{name}", value)
    return lambda: ServerProcess(tmp_path)


def call(server: ServerProcess, path: str, body: dict[str, Any]) -> None:
    headers = {"authorization": f"Bearer {KEY}"}
    httpx.post(server.url + path, json=body, headers=headers, timeout=30, trust_env=False).raise_for_status()


def beat_and_look(server: ServerProcess, folder: Path) -> bool:
    """Send a heartbeat; say whether the device was noted as online."""
    call(server, "/api/devices/cam-1/online", {})
    connection = sqlite3.connect(folder / "meetingctl.db")
    try:
        return connection.execute("SELECT online FROM presence_reports").fetchone() == (1,)
    finally:
        connection.close()


def end_claims(folder: Path) -> None:
    """Bring the end of all claims forward, for nobody wants to wait a minute; the server is dead."""
    with sqlite3.connect(folder / "meetingctl.db") as connection:
        changed = connection.execute("UPDATE webhook_deliveries SET claimed_until_ms = 1 WHERE state = 'waiting'")
        assert changed.rowcount == 1
    connection.close()


@pytest.mark.real
def test_a_kill_loses_no_alert_and_makes_no_new_one(
    start: Callable[[], ServerProcess], tmp_path: Path, receiver: Any
) -> None:
    receiver.answers["/in"] = ["hang", 200]
    server = start()
    try:
        device = {"devicekey": "cam-1", "token_code": CODE, "device_type": "rpi", "distribution": "d1"}
        call(server, "/api/devices/manual-create", device)
        call(server, "/api/webhooks", {"url": f"{receiver.url}/in", "events": ["device.offline", "device.back"]})
        wait_for(lambda: beat_and_look(server, tmp_path), "the server knows that the device is there")
        wait_for(lambda: len(receiver.at("/in")) == 1, "the silence is being told")
    finally:
        server.kill()
    end_claims(tmp_path)
    server = start()
    try:
        wait_for(lambda: len(receiver.at("/in")) == 2, "it is told again, for nobody confirmed it")
        call(server, "/api/devices/cam-1/online", {})
        wait_for(lambda: len(receiver.at("/in")) >= 3, "the return is told")
    finally:
        server.kill()
    told = receiver.at("/in")[:3]
    events = [json.loads(request.body)["event"] for request in told]
    assert events == ["device.offline", "device.offline", "device.back"]
    assert told[0].headers["x-meetingctl-delivery"] == told[1].headers["x-meetingctl-delivery"]
    assert [request.headers["x-meetingctl-attempt"] for request in told] == ["1", "2", "1"]

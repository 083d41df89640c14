"""Webhooks and events against a real server."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from .runner import Cli

WAIT_S = 30.0


@pytest.fixture
def hook(admin: Cli, own_name: str) -> Iterator[str]:
    """Add a webhook that leads nowhere; return its number."""
    made = admin(
        "fleet", "webhooks", "add", f"https://{own_name}.invalid/in", "--event", "rollout.paused", "--json"
    ).json
    yield str(made["id"])
    admin("fleet", "webhooks", "rm", str(made["id"]), "--yes")


def test_the_secret_is_the_only_output(admin: Cli, own_name: str, tmp_path: Path) -> None:
    made = admin("fleet", "webhooks", "add", f"https://{own_name}.invalid/")
    assert (made.code, made.out[:6], made.out.count("\n")) == (0, "whsec_", 1)
    number = made.err.split()[1].rstrip(";")
    again = admin("fleet", "webhooks", "update", number, "--new-secret")
    assert again.out.startswith("whsec_")
    assert again.out != made.out
    own = tmp_path / "secret"
    own.write_text("a secret of my own\n")
    assert "a secret" not in admin("fleet", "webhooks", "update", number, "--secret-file", str(own), "--dry-run").err
    assert admin("fleet", "webhooks", "update", number, "--secret-file", str(own)).code == 0
    assert admin("fleet", "webhooks", "rm", number, "--yes").code == 0


def test_a_webhook_is_changed_and_removed(admin: Cli, hook: str) -> None:
    assert admin("fleet", "webhooks", "update", hook).code == 2
    changed = admin("fleet", "webhooks", "update", hook, "--off", "--event", "device.back", "--json").json
    assert (changed["active"], changed["events"]) == (False, ["device.back"])
    assert "secret" not in changed
    refused = admin("fleet", "webhooks", "ping", hook)
    assert (refused.code, "is off" in refused.err) == (1, True)
    assert admin("fleet", "webhooks", "rm", hook).code == 2, "it asks first"
    assert admin("fleet", "webhooks", "rm", hook, "--dry-run").code == 0
    assert admin("fleet", "webhooks", "rm", hook, "x", "--yes").code == 2
    assert admin("fleet", "webhooks", "show", hook).code == 0
    assert admin("fleet", "webhooks", "add", "https://x.invalid/", "--event", "nothing").code == 2


def test_a_ping_tells_why_it_did_not_arrive(admin: Cli) -> None:
    receiver = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{receiver.server_address[1]}/"
    number = str(admin("fleet", "webhooks", "add", url, "--json").json["id"])
    pinged = admin("fleet", "webhooks", "ping", number, "--wait", "--json")
    assert (pinged.code, pinged.json["last_error"]) == (1, "127.0.0.1 is no public address")
    rows = admin("fleet", "webhooks", "deliveries", number, "--state", "waiting", "--json").json
    assert [(row["event"], row["attempts"]) for row in rows] == [("ping", 1)]
    assert "is no public address" in admin("fleet", "webhooks", "deliveries", number).out
    assert admin("fleet", "webhooks", "redeliver", number, str(rows[0]["id"])).code == 1, "it waits already"
    assert admin("fleet", "webhooks", "rm", number, "--yes").code == 0
    receiver.shutdown()
    receiver.server_close()


def test_events_of_a_device(admin: Cli, own_name: str) -> None:
    assert admin("fleet", "create", own_name, "--type", "rpicam", "--distribution", "d1").code == 0
    assert admin("fleet", "note", own_name, "new").code == 0
    rows = admin("fleet", "events", "--device", own_name, "--json").json
    assert [row["event"] for row in rows][-1] == "device.note"
    assert rows[0]["subject"] == f"device:{own_name}"
    newest = admin("fleet", "events", "--device", own_name, "-n", "1", "--fields", "event", "-o", "plain")
    assert newest.out == "device.note\n"


def test_events_are_followed_until_the_end(admin: Cli, own_name: str) -> None:
    assert admin("fleet", "create", own_name, "--type", "rpicam", "--distribution", "d1").code == 0
    argv = [sys.executable, "-m", "meetingctl", "fleet", "events", "-f", "--device", own_name, "-o", "ndjson"]
    with subprocess.Popen(argv, env=admin.environment(), stdout=subprocess.PIPE, text=True) as following:
        lines: list[str] = []
        reader = threading.Thread(target=lambda: lines.extend(following.stdout or ()), daemon=True)
        reader.start()
        try:
            _until(lambda: lines, "the first events")
            assert admin("fleet", "note", own_name, "new").code == 0
            _until(lambda: any("device.note" in line for line in lines), "the new one")
        finally:
            following.send_signal(2)
        assert following.wait(WAIT_S) in (0, 130)
        reader.join(WAIT_S)
    events = [json.loads(line)["event"] for line in lines]
    assert events.count("device.note") == 1


def _until(condition, what: str) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.02)

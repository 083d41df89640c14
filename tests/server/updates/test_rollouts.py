"""Rollouts: the rules alone, then on a fleet."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from makers import add_channel, publish
from planes import CODE, Fleet

from meetingctl.core.clock import now_ms
from meetingctl.core.errors import InvalidInput
from meetingctl.server.db.schema import audit, devices, rollout_devices, update_channels
from meetingctl.server.updates.rollout_plan import Plan, WaveCounts, decide, draw_waves, plan_of
from meetingctl.server.updates.rollouts import step_rollouts

PLAN = Plan((10, 100), soak_s=60, max_delay_s=40, max_failed_percent=20, min_success_percent=50)
ROLLOUTS = "/api/admin/rollouts"


@pytest.mark.parametrize(
    ("wave", "counts", "after_s", "kind"),
    [
        (-1, [(10, 0, 0), (90, 0, 0)], 0, "start"),
        (0, [(10, 0, 0), (90, 0, 0)], 0, "wait"),
        (0, [(10, 10, 0), (90, 0, 0)], 99, "wait"),
        (0, [(10, 5, 0), (90, 0, 0)], 100, "advance"),
        (0, [(10, 4, 0), (90, 0, 0)], 9999, "wait"),
        (0, [(10, 0, 2), (90, 0, 0)], 0, "wait"),
        (0, [(10, 7, 3), (90, 0, 0)], 0, "pause"),
        (0, [(0, 0, 0), (90, 0, 0)], 0, "advance"),
        (1, [(10, 10, 0), (90, 90, 0)], 0, "finish"),
        (1, [(10, 10, 0), (90, 1, 0)], 99, "wait"),
        (1, [(10, 10, 0), (90, 1, 0)], 100, "finish"),
        (1, [(10, 9, 1), (90, 60, 20)], 100, "pause"),
    ],
)
def test_decisions(wave: int, counts: list[tuple[int, int, int]], after_s: int, kind: str) -> None:
    assert decide(PLAN, wave, 0, [WaveCounts(*count) for count in counts], after_s * 1000).kind == kind


@given(st.integers(0, 500), st.lists(st.integers(1, 99), unique=True, max_size=5), st.integers(0, 100))
def test_every_device_is_drawn_once_and_the_first_wave_is_never_empty(
    count: int, percents: list[int], delay_s: int
) -> None:
    plan = Plan((*sorted(percents), 100), max_delay_s=delay_s)
    drawn = draw_waves(count, plan, random.Random(1))
    sizes = Counter(wave for wave, _ in drawn)
    assert len(drawn) == count
    assert all(0 <= delay <= delay_s for _, delay in drawn)
    if count:
        assert sizes[0] == -(-count * plan.waves_percent[0] // 100) > 0


@pytest.mark.parametrize(
    "facts",
    [
        {"waves_percent": [5, 25]},
        {"waves_percent": [25, 5, 100]},
        {"waves_percent": []},
        {"waves_percent": [True, 100]},
        {"waves_percent": "5"},
        {"soak_s": -1},
        {"soak_s": 1.5},
        {"max_failed_percent": 101},
    ],
)
def test_bad_plans_are_refused(facts: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        plan_of(facts)


class Scene:
    """A fleet of cameras at 1.0.0, releases 1.0.0 and 2.0.0, and a clock that tests move."""

    def __init__(self, fleet: Fleet, count: int = 20) -> None:
        self.fleet = fleet
        self.ahead_ms = 0
        publish(fleet, "1.0.0")
        publish(fleet, "2.0.0")
        add_channel(fleet, "1.0.0")
        self.keys = [f"cam-{number:02}" for number in range(count)]
        for key in self.keys:
            fleet.device(key, device_type="rpi", distribution="trixie")
            fleet.call("POST", f"/api/devices/{key}/online", code=CODE, json={"installed_version": "1.0.0"})

    def start(self, **body: Any) -> Any:
        plan = {"waves_percent": [5, 25, 100], "soak_s": 100, "max_delay_s": 50}
        given_plan = plan | body.pop("plan", {})
        named = {"device_type": "rpi", "distribution": "trixie", "version": "2.0.0", "plan": given_plan}
        return self.call("POST", "", json=named | body)

    def call(self, method: str, tail: str, **rest: Any) -> Any:
        return self.fleet.call(method, f"{ROLLOUTS}{tail}", key=self.fleet.admin, **rest)

    def step(self, after_s: int = 0) -> None:
        """Let the time pass, then step until nothing changes."""
        self.ahead_ms += after_s * 1000
        while step_rollouts(self.fleet.state, now_ms() + self.ahead_ms):
            pass

    def show(self, rollout_id: int = 1) -> Any:
        return self.call("GET", f"/{rollout_id}").json()["item"]

    def offered(self) -> list[str]:
        return [key for key in self.keys if self.target(key) == "2.0.0"]

    def target(self, key: str) -> str:
        return self.fleet.call("GET", f"/api/devices/{key}/update", code=CODE).json()["target_version"]

    def report(self, keys: list[str], status: str) -> None:
        for key in keys:
            body = {"to_version": "2.0.0", "status": status}
            assert self.fleet.call("POST", f"/api/devices/{key}/update-status", code=CODE, json=body).status_code == 200

    def channel(self) -> str:
        return str(self.fleet.rows(sa.select(update_channels))[0]["target_version"])

    def computed(self) -> list[str]:
        items = self.fleet.call("GET", "/api/admin/device-updates", key=self.fleet.admin).json()["items"]
        return [item["device_key"] for item in items if item["target_version"] == "2.0.0"]


def test_a_rollout_goes_through_its_waves_to_the_end(any_fleet: Fleet) -> None:
    scene = Scene(any_fleet)
    assert scene.start().status_code == 200
    assert scene.offered() == []
    scene.step()
    assert len(scene.offered()) == 1
    assert scene.offered() == scene.computed()
    scene.step(1000)
    assert len(scene.offered()) == 1  # nobody has reported success
    scene.report(scene.offered(), "success")
    scene.step()
    assert len(scene.offered()) == 5
    assert scene.channel() == "1.0.0"
    for key in scene.offered():  # these only send heartbeats
        any_fleet.call("POST", f"/api/devices/{key}/online", code=CODE, json={"installed_version": "2.0.0"})
    scene.step(120)  # real time passes too
    assert scene.show()["wave"] == 2
    scene.step(30)
    assert scene.show()["wave"] == 3
    assert scene.channel() == "2.0.0"
    assert len(scene.offered()) == 20
    scene.report(scene.keys, "success")
    scene.step()
    shown = scene.show()
    assert (shown["state"], shown["success"], shown["devices"]) == ("finished", 20, 20)
    actions = [row["action"] for row in any_fleet.rows(sa.select(audit)) if row["action"].startswith("rollout.")]
    assert actions == ["rollout.start", "rollout.wave", "rollout.wave", "rollout.wave", "rollout.finish"]


def test_failures_pause_it_and_return_the_channel(any_fleet: Fleet) -> None:
    scene = Scene(any_fleet)
    scene.start(plan={"waves_percent": [100]})
    scene.step()
    assert scene.channel() == "2.0.0"
    scene.report(scene.keys[:1], "success")
    scene.report(scene.keys[1:3], "failed")
    scene.step()
    assert scene.show()["state"] == "running"  # two of twenty is what the plan allows
    scene.report(scene.keys[3:4], "failed")
    scene.step()
    shown = scene.show()
    assert shown["state"] == "paused"
    assert shown["reason"].startswith("3 of 20 devices failed")
    assert scene.channel() == "1.0.0"
    assert scene.offered() == scene.computed() == scene.keys[:1]
    assert scene.call("POST", "/1/resume").json()["item"]["state"] == "running"
    scene.step()
    assert scene.offered() == scene.keys
    assert scene.channel() == "2.0.0"
    assert scene.call("POST", "/1/abort").json()["item"]["state"] == "aborted"
    assert (scene.offered(), scene.channel()) == ([], "1.0.0")


def test_a_selector_leaves_the_channel_alone(fleet: Fleet) -> None:
    scene = Scene(fleet)
    chosen = scene.keys[3:7]
    scene.start(selector={"keys": chosen}, plan={"waves_percent": [100]})
    scene.step()
    assert scene.offered() == scene.computed() == chosen
    scene.report(chosen, "success")
    scene.step()
    assert scene.show()["state"] == "finished"
    assert scene.offered() == scene.computed() == chosen
    assert scene.channel() == "1.0.0"


def test_a_percentage_is_drawn_once(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meetingctl.server.updates.rollouts.CHUNK", 4)
    scene = Scene(fleet)
    scene.start(selector={"percent": 50}, plan={"waves_percent": [100]})
    scene.step()
    assert len(scene.offered()) == 10
    assert scene.show()["selector"] == {"percent": 50}


def test_each_device_waits_its_own_time(fleet: Fleet) -> None:
    scene = Scene(fleet)
    scene.start(plan={"waves_percent": [100], "max_delay_s": 100_000})
    scene.step()
    waits = [fleet.call("GET", f"/api/devices/{key}/update", code=CODE).json()["start_after_s"] for key in scene.keys]
    assert len(set(waits)) > 10
    assert all(0 <= wait <= 100_000 for wait in waits)


def test_one_rollout_at_a_time_and_the_channel_is_its(fleet: Fleet) -> None:
    scene = Scene(fleet, count=1)
    assert scene.start(version="9").status_code == 404
    scene.start()
    assert scene.start().status_code == 409
    change = fleet.call("PUT", "/api/admin/update-channels/1", key=fleet.admin, json={"target_version": "9"})
    assert (change.status_code, change.json()["error"]) == (409, "CONFLICT")
    assert fleet.call("DELETE", "/api/admin/update-channels/1", key=fleet.admin).status_code == 409
    scene.call("POST", "/1/abort")
    assert scene.start().status_code == 200
    assert [item["state"] for item in scene.call("GET", "").json()["items"]] == ["preparing", "aborted"]
    assert len(scene.call("GET", "?state=live").json()["items"]) == 1
    assert scene.call("POST", "/1/resume").status_code == 409
    assert scene.call("GET", "/99").json()["error"] == "NOT_FOUND"
    assert scene.call("GET", "/x").json()["error"] == "VALIDATION_FAILED"


def test_a_first_version_appears_with_the_last_wave(fleet: Fleet) -> None:
    scene = Scene(fleet, count=4)
    scene.start(channel="beta")
    fleet.write(lambda connection: connection.execute(devices.update().values(update_channel="beta")))
    scene.step()
    assert len(scene.offered()) == 1
    scene.call("POST", "/1/abort")
    assert scene.target("cam-00") is None


def test_a_step_of_another_process_is_not_done_twice(fleet: Fleet) -> None:
    from meetingctl.server.updates.rollout_plan import Action
    from meetingctl.server.updates.rollouts import _act, get_rollout

    scene = Scene(fleet, count=2)
    scene.start()
    step_rollouts(fleet.state)
    step_rollouts(fleet.state)
    with fleet.database.read() as connection:
        row = get_rollout(connection, 1)
    assert row["state"] == "running"
    for expected in (True, False):
        assert fleet.write(lambda connection: _act(connection, row, Action("start"), now_ms())) is expected
    assert scene.show()["wave"] == 1
    assert len(fleet.rows(sa.select(rollout_devices))) == 2


def test_a_rollout_to_nobody_is_refused(fleet: Fleet) -> None:
    publish(fleet, "1.0.0")
    body = {"device_type": "rpi", "distribution": "trixie", "version": "1.0.0", "selector": {"tag": "nosuch"}}
    answer = fleet.call("POST", "/api/admin/rollouts", key=fleet.admin, json=body)
    assert (answer.status_code, answer.json()["message"]) == (400, "No device is chosen")

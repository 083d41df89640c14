from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meetingctl.device.units import Unit
from meetingctl.device.watchdog import Decision, Facts, Memory, Probe, Progress, Rules, decide
from meetingctl.device.watchdog.decide import plan_probe
from meetingctl.device.watchdog.rules import CALM_S, FIRST_WAIT_S, LONGEST_WAIT_S, RECORDER_STALL_S

from .scenes import ANSWERS, IDLE, RECORDING, RULES, SILENT, STALLED, VIEWED, facts, unit

HOUR_S = 3600.0
MOST_RESTARTS_AN_HOUR = 5


def finding(rules: Rules = RULES, memory: Memory | None = None, **changes: Any) -> tuple[str, str]:
    found = decide(memory or Memory(), facts(**changes), rules).stream
    return found.state, found.reason


def run_checks(
    scenes: Iterable[Facts], rules: Rules = RULES, memory: Memory | None = None
) -> tuple[list[Decision], Memory]:
    memory, decisions = memory or Memory(), []
    for scene in scenes:
        decisions.append(decide(memory, scene, rules))
        memory = decisions[-1].memory
    return decisions, memory


class TestStream:
    @pytest.mark.parametrize(
        ("expected", "changes"),
        [
            (("healthy", "ok"), {}),
            (("healthy", "ok"), {"status": IDLE}),
            # The stream daemon of others tells no figures; RTSP is what counts.
            (("healthy", "no-status"), {"status": None}),
            (("failing", "rtsp-unreachable"), {"status": None, "probe": SILENT}),
            (("failing", "stalled"), {"status": STALLED}),
            (("healthy", "ok"), {"status": STALLED._replace(clients=0)}),
            (("healthy", "ok"), {"status": VIEWED._replace(last_buffer_age_s=None)}),
            (("failing", "rtsp-refused"), {"probe": Probe("DESCRIBE", "refused")}),
            (("failing", "rtsp-missing"), {"probe": Probe("DESCRIBE", "missing")}),
            (("failing", "rtsp-unavailable"), {"probe": Probe("DESCRIBE", "unavailable")}),
            (("failing", "rtsp-wrong"), {"probe": Probe("OPTIONS", "wrong")}),
            (("failing", "unit-failed"), {"unit": unit("failed", result="signal")}),
            (("waiting", "config-invalid"), {"unit": unit("failed", exit_status=78)}),
            (("waiting", "stopped"), {"unit": unit("inactive")}),
            (("waiting", "starting"), {"unit": unit("activating", sub="auto-restart")}),
            (("waiting", "starting"), {"unit": unit("active", active_since_s=995.0), "probe": SILENT}),
            (("waiting", "camera-absent"), {"camera_present": False, "unit": unit("failed")}),
            # Where systemd cannot be asked the other facts still count.
            (("failing", "rtsp-unreachable"), {"unit": Unit("rpi-av-rtsp-recorder"), "probe": SILENT}),
            (("urgent", "audio-lost"), {"alsa_errors": 50}),
            (("healthy", "ok"), {"alsa_errors": 49}),
        ],
    )
    def test_what_facts_mean(self, expected: tuple[str, str], changes: dict[str, Any]) -> None:
        assert finding(**changes) == expected

    @pytest.mark.parametrize("mode", ["rtsp", "mjpeg", "screen"])
    def test_a_dead_origin_is_waited_for(self, mode: str) -> None:
        rules = replace(RULES, source_mode=mode)
        assert finding(rules, probe=Probe("DESCRIBE", "unavailable")) == ("waiting", "origin-down")
        assert finding(rules, probe=SILENT)[0] == "failing"

    @pytest.mark.parametrize("mode", ["rtsp", "mjpeg", "screen", "test"])
    def test_a_source_that_is_no_camera_needs_no_device(self, mode: str) -> None:
        assert finding(replace(RULES, source_mode=mode), camera_present=False) == ("healthy", "ok")

    def test_a_csi_camera_has_no_device_to_look_for(self) -> None:
        assert finding(replace(RULES, camera_type="csi"), camera_present=False) == ("healthy", "ok")

    def test_auto_looks_for_the_device_once_it_was_there(self) -> None:
        rules = replace(RULES, camera_type="auto")
        assert finding(rules, camera_present=False)[0] == "healthy"
        _, memory = run_checks([facts()], rules)
        assert finding(rules, memory, camera_present=False) == ("waiting", "camera-absent")

    def test_what_auto_means_the_stream_daemon_tells(self) -> None:
        rules = replace(RULES, camera_type="auto")
        csi, usb = IDLE._replace(source="csi"), IDLE._replace(source="usb")
        assert finding(rules, status=usb, camera_present=False) == ("waiting", "camera-absent")
        assert finding(rules, status=csi, camera_present=False) == ("healthy", "ok")
        # A CSI camera may show a video device of its own, which comes and goes.
        _, memory = run_checks([facts(status=csi)], rules)
        assert finding(rules, memory, status=None, camera_present=False)[0] == "healthy"

    @pytest.mark.parametrize("rules", [replace(RULES, has_audio=False), replace(RULES, alsa_threshold=0)])
    def test_sound_errors_can_be_no_matter(self, rules: Rules) -> None:
        assert finding(rules, alsa_errors=100)[0] == "healthy"


class TestRestart:
    def test_three_failures_restart_stream_and_recorder(self) -> None:
        decisions, memory = run_checks(facts(1000 + 30 * n, probe=SILENT) for n in range(3))
        assert [decision.actions for decision in decisions] == [(), (), ("restart-stream", "restart-recorder")]
        assert (memory.failures, memory.stream.restarts) == (0, 1)

    def test_without_recording_only_the_stream(self) -> None:
        rules = replace(RULES, is_recording=False, max_failures=1)
        assert decide(Memory(), facts(probe=SILENT), rules).actions == ("restart-stream",)

    def test_a_good_check_between_starts_the_count_again(self) -> None:
        probes = [SILENT, SILENT, ANSWERS, SILENT, SILENT]
        decisions, memory = run_checks(facts(1000 + 30 * n, probe=probe) for n, probe in enumerate(probes))
        assert not any(decision.actions for decision in decisions)
        assert memory.failures == 2

    def test_a_unit_that_dies_again_and_again_is_counted_although_it_is_seen_starting(self) -> None:
        starting = unit("activating", sub="auto-restart")
        scenes = [{"probe": SILENT}, {"unit": starting}, {"probe": SILENT}, {"unit": starting}, {"probe": SILENT}]
        decisions, _ = run_checks(facts(1000 + 30 * n, **changes) for n, changes in enumerate(scenes))
        assert [bool(decision.actions) for decision in decisions] == [False, False, False, False, True]

    def test_a_failure_that_stays_is_tried_at_growing_distances(self) -> None:
        decisions, _ = run_checks(facts(1000 + 30 * n, probe=SILENT) for n in range(1000))
        times = [30 * n for n, decision in enumerate(decisions) if decision.actions]
        gaps = [later - earlier for earlier, later in pairwise(times)]
        assert gaps[:6] == [120, 240, 480, 960, 1920, 3600]
        assert set(gaps[6:]) == {LONGEST_WAIT_S}

    def test_a_restart_that_has_to_wait_says_until_when(self) -> None:
        decisions, _ = run_checks(facts(1000 + 30 * n, probe=SILENT) for n in range(6))
        assert decisions[2].held_until_s is None
        assert decisions[5].held_until_s == 1060 + FIRST_WAIT_S

    def test_an_hour_of_health_brings_back_the_first_wait(self) -> None:
        broken = [facts(1000 + 30 * n, probe=SILENT) for n in range(60)]
        _, memory = run_checks(broken)
        assert memory.stream.step > 2
        _, memory = run_checks((facts(3000 + 30 * n) for n in range(int(CALM_S / 30) + 1)), memory=memory)
        assert memory.stream.step == 0

    def test_sound_is_judged_by_what_was_logged_after_the_restart(self) -> None:
        decision = decide(Memory(), facts(alsa_errors=80, log_bytes=4711), RULES)
        assert decision.actions[0] == "restart-stream"
        assert decision.memory.log_mark_bytes == 4711


class TestCamera:
    def test_unplugged_for_hours_restarts_nothing(self) -> None:
        decisions, memory = run_checks(
            facts(1000 + 30 * n, camera_present=False, probe=None, status=IDLE) for n in range(500)
        )
        assert not any(decision.actions for decision in decisions)
        assert memory.failures == 0

    def test_plugged_in_again_restarts_once_after_the_wait(self) -> None:
        scenes = [facts(1000, camera_present=False, status=IDLE)]
        scenes += [facts(1000 + 5 * n, status=IDLE) for n in range(1, 10)]
        decisions, _ = run_checks(scenes)
        assert [decision.stream.reason for decision in decisions[1:3]] == ["camera-returning"] * 2
        acted = [scene.at_s for scene, decision in zip(scenes, decisions, strict=True) if decision.actions]
        assert acted == [1005 + RULES.camera_wait_s]

    @pytest.mark.parametrize(
        "changes",
        [{"unit": unit("active", active_since_s=1003.0), "status": IDLE}, {"status": VIEWED}],
        ids=["udev was faster", "the picture is back"],
    )
    def test_no_second_restart_when_the_stream_came_back_by_itself(self, changes: dict[str, Any]) -> None:
        scenes = [facts(1000, camera_present=False, status=IDLE), facts(1005, status=IDLE)]
        scenes += [facts(1020 + 30 * n, **changes) for n in range(5)]
        decisions, _ = run_checks(scenes)
        assert not any(decision.actions for decision in decisions)
        assert decisions[-1].stream.state == "healthy"

    def test_a_loose_cable_makes_no_storm(self) -> None:
        scenes = [facts(1000 + 15 * n, camera_present=n % 2 == 0, status=IDLE) for n in range(960)]
        decisions, _ = run_checks(scenes, replace(RULES, camera_wait_s=0.0))
        assert 1 <= sum(bool(decision.actions) for decision in decisions) <= 4 * MOST_RESTARTS_AN_HOUR


class TestRecorder:
    def test_progress_is_healthy(self) -> None:
        decisions, _ = run_checks(facts(1000 + 30 * n) for n in range(50))
        assert {decision.recorder.reason for decision in decisions} == {"ok"}

    def test_no_progress_restarts_the_recorder_alone(self) -> None:
        stuck = facts().progress
        decisions, memory = run_checks(facts(1000 + 30 * n, progress=stuck) for n in range(20))
        acted = [n for n, decision in enumerate(decisions) if decision.actions]
        assert {decisions[n].actions for n in acted} == {("restart-recorder",)}
        assert acted[0] == RECORDER_STALL_S / 30 + 3
        assert memory.stream.restarts == 0

    def test_without_a_stream_the_recorder_is_not_blamed(self) -> None:
        rules = replace(RULES, source_mode="rtsp")
        stuck, down = facts().progress, Probe("DESCRIBE", "unavailable")
        decisions, memory = run_checks((facts(1000 + 30 * n, progress=stuck, probe=down) for n in range(100)), rules)
        assert {decision.recorder.reason for decision in decisions} == {"no-stream"}
        # And when the stream is back the recorder gets its full time.
        decisions, _ = run_checks((facts(4000 + 30 * n, progress=stuck) for n in range(3)), rules, memory)
        assert not any(decision.actions for decision in decisions)

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"recorder": replace(RECORDING, active="inactive")}, "stopped"),
            ({"recorder": replace(RECORDING, active="failed", exit_status=78)}, "config-invalid"),
            ({"recorder": replace(RECORDING, active="activating")}, "starting"),
            ({"recorder": Unit("rtsp-recorder", "not-found", "inactive")}, "not-installed"),
            ({"recorder": None}, "not-installed"),
        ],
    )
    def test_what_is_not_for_the_watchdog_to_change(self, changes: dict[str, Any], reason: str) -> None:
        decisions, _ = run_checks(facts(1000 + 30 * n, progress=None, **changes) for n in range(30))
        assert {decision.recorder.reason for decision in decisions} == {reason}
        assert not any(decision.actions for decision in decisions)

    def test_a_failed_recorder_is_started_again(self) -> None:
        failed = replace(RECORDING, active="failed", result="signal")
        decisions, _ = run_checks(facts(1000 + 30 * n, recorder=failed) for n in range(3))
        assert decisions[-1].actions == ("restart-recorder",)

    @pytest.mark.parametrize("state", ["disk_full", "folder_error"])
    def test_a_full_disk_is_not_cured_by_a_restart(self, state: str) -> None:
        stuck = Progress(state, "", 0)
        decisions, _ = run_checks(facts(1000 + 30 * n, progress=stuck) for n in range(30))
        assert {decision.recorder.reason for decision in decisions} == {state.replace("_", "-")}
        assert not any(decision.actions for decision in decisions)

    def test_a_recorder_that_finds_no_source_although_the_stream_answers_is_restarted(self) -> None:
        stuck = Progress("waiting", "", 0)
        decisions, _ = run_checks(facts(1000 + 30 * n, progress=stuck) for n in range(30))
        assert ("restart-recorder",) in {decision.actions for decision in decisions}


class TestProbe:
    def plan(self, memory: Memory | None = None, at_s: float = 1000.0, **changes: Any) -> str | None:
        scene = facts(at_s, **changes)
        return plan_probe(
            memory or Memory(),
            scene.unit,
            scene.status,
            camera_present=scene.camera_present,
            rules=RULES,
            at_s=at_s,
        )

    def test_viewers_prove_the_source(self) -> None:
        assert self.plan() == "OPTIONS"

    def test_an_idle_camera_is_opened_every_ten_minutes(self) -> None:
        assert self.plan(status=IDLE) == "DESCRIBE"
        described = Memory(described_at_s=1000.0)
        assert self.plan(described, 1599.0, status=IDLE) == "OPTIONS"
        assert self.plan(described, 1600.0, status=IDLE) == "DESCRIBE"

    def test_a_failure_is_looked_at_again_at_once(self) -> None:
        assert self.plan(Memory(described_at_s=1000.0, has_probe_failed=True), 1030.0, status=IDLE) == "DESCRIBE"

    @pytest.mark.parametrize(
        "changes",
        [
            {"unit": unit("inactive")},
            {"unit": unit("activating")},
            {"unit": unit("failed")},
            {"camera_present": False, "status": IDLE},
        ],
    )
    def test_no_question_whose_answer_would_not_count(self, changes: dict[str, Any]) -> None:
        assert self.plan(**changes) is None

    def test_after_a_restart_the_next_question_is_a_real_one(self) -> None:
        _, memory = run_checks(facts(1000 + 30 * n, probe=SILENT) for n in range(3))
        assert self.plan(memory, 1100.0, status=IDLE) == "DESCRIBE"


SCENES: dict[str, dict[str, Any]] = {
    "healthy": {},
    "idle": {"status": IDLE},
    "silent": {"probe": SILENT},
    "stalled": {"status": STALLED},
    "no source": {"status": IDLE, "probe": Probe("DESCRIBE", "unavailable")},
    "unplugged": {"camera_present": False, "status": IDLE, "probe": None},
    "stopped": {"unit": unit("inactive"), "status": None, "probe": None},
    "starting": {"unit": unit("activating"), "status": None, "probe": None},
    "failed": {"unit": unit("failed"), "status": None, "probe": None},
    "misconfigured": {"unit": unit("failed", exit_status=78), "status": None, "probe": None},
    "sound lost": {"alsa_errors": 99},
    "recorder stuck": {"progress": None},
    "recorder failed": {"recorder": replace(RECORDING, active="failed")},
}
hours = st.lists(
    st.tuples(st.sampled_from(sorted(SCENES)), st.integers(1, 40), st.sampled_from([5.0, 30.0, 97.0])),
    min_size=1,
    max_size=10,
)


def play(story: list[tuple[str, int, float]], rules: Rules, chance: float) -> list[tuple[Facts, Decision, str]]:
    """Live through a story of (scene, number of checks, seconds between them); a new watchdog takes over each scene."""
    memory, at_s, seen = Memory(), 100.0, []
    for scene, checks, step_s in story:
        for _ in range(checks):
            now = replace(facts(at_s, **SCENES[scene]), chance=chance)
            decision = decide(memory, now, rules)
            seen.append((now, decision, scene))
            memory = decision.memory
            at_s += step_s
        memory = Memory.from_json(json.loads(json.dumps(memory.to_json())))
        assert memory == seen[-1][1].memory
    return seen


@settings(deadline=None, max_examples=50)
@given(hours, st.integers(1, 5), st.floats(0, 0.99), st.sampled_from([0.0, 10.0]))
def test_hours_of_anything_make_no_storm(
    story: list[tuple[str, int, float]], max_failures: int, chance: float, camera_wait_s: float
) -> None:
    rules = replace(RULES, max_failures=max_failures, camera_wait_s=camera_wait_s)
    played = play(story, rules, chance)
    for first in ("restart-stream", "restart-recorder"):
        times = [now.at_s for now, decision, _ in played if decision.actions[:1] == (first,)]
        for start in times:
            assert sum(start <= at_s < start + HOUR_S for at_s in times) <= MOST_RESTARTS_AN_HOUR
        assert all(later - earlier >= FIRST_WAIT_S for earlier, later in pairwise(times))


@settings(deadline=None, max_examples=50)
@given(hours, st.integers(1, 5))
def test_a_restart_always_has_its_reasons(story: list[tuple[str, int, float]], max_failures: int) -> None:
    """The unit failed so often in a row, or something urgent was found; never in a state that one only waits for."""
    streak = 0
    for _, decision, _ in play(story, replace(RULES, max_failures=max_failures), 0.0):
        state = decision.stream.state
        if state == "healthy" or (state == "waiting" and decision.stream.reason != "starting"):
            streak = 0
        elif state in {"failing", "urgent"}:
            streak += 1
        if decision.actions[:1] == ("restart-stream",):
            assert state == "urgent" or streak >= max_failures
            streak = 0
        if state in {"healthy"} or decision.stream.reason in {"stopped", "config-invalid", "camera-absent"}:
            assert "restart-stream" not in decision.actions


@settings(deadline=None, max_examples=50)
@given(hours, st.sampled_from(["silent", "stalled", "failed", "no source"]), st.floats(0, 0.99))
def test_whatever_happened_before_a_failure_that_stays_is_dealt_with(
    story: list[tuple[str, int, float]], scene: str, chance: float
) -> None:
    """Back-off must not turn into giving up."""
    checks = int(LONGEST_WAIT_S * 1.2 / 30) + 4
    played = play([*story, (scene, checks, 30.0)], RULES, chance)
    assert any("restart-stream" in decision.actions for _, decision, _ in played[-checks:])


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: st.dictionaries(st.sampled_from(["failures", "stream", "recorder", "step"]), inner),
    )
)
def test_a_damaged_memory_is_a_fresh_one(value: Any) -> None:
    assert Memory.from_json(value) == Memory()


def test_a_memory_with_a_wrong_type_is_a_fresh_one() -> None:
    good = Memory(failures=2).to_json()
    assert Memory.from_json(good) == Memory(failures=2)
    for key, wrong in [("failures", "2"), ("failures", True), ("healthy_since_s", "x"), ("progress_key", None)]:
        assert Memory.from_json({**good, key: wrong}) == Memory()
    assert Memory.from_json({**good, "stream": {**good["stream"], "step": 1e300}}) == Memory()

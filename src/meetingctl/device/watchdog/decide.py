"""What the watchdog makes of the facts: pure functions, no clock, no files, no programs.

A finding is one of four states. `healthy` and `failing` count; `waiting` is a state that a restart cannot improve;
`urgent` needs a restart at once. Every restart, urgent or not, passes the back-off of its unit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from meetingctl.device.daemon import EXIT_CONFIG
from meetingctl.device.units import Unit
from meetingctl.device.watchdog.facts import Facts, StreamStatus
from meetingctl.device.watchdog.memory import Backoff, Memory
from meetingctl.device.watchdog.rules import (
    DESCRIBE_EVERY_S,
    RECORDER_STALL_S,
    STALL_LIMIT_S,
    START_GRACE_S,
    Rules,
)

State = Literal["healthy", "waiting", "failing", "urgent"]
Action = Literal["restart-stream", "restart-recorder"]
ProbeMethod = Literal["OPTIONS", "DESCRIBE"]

# Sources whose failure ends with the source: the stream daemon opens them again by itself.
_REMOTE_SOURCES = frozenset({"rtsp", "mjpeg", "screen"})
# States of the recorder that another start of it cannot end.
_FULL_OR_FORBIDDEN = frozenset({"disk_full", "folder_error"})


@dataclass(frozen=True, slots=True)
class Finding:
    """What is the matter: `reason` is a stable slug, `detail` a text for people."""

    state: State
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """What to remember, what was found, and what to do about it, in this order.

    `held_until_s` is set when a restart is due and has to wait for the back-off.
    """

    memory: Memory
    stream: Finding
    recorder: Finding
    actions: tuple[Action, ...] = ()
    held_until_s: float | None = None


def is_camera_watched(memory: Memory, rules: Rules) -> bool:
    """Say whether a missing video device explains a missing stream.

    It does for USB. What `auto` means the stream daemon tells; of one that tells nothing it is known once the device
    was there.
    """
    if rules.source_mode != "camera" or rules.camera_type == "csi":
        return False
    if rules.camera_type == "usb" or memory.camera_source:
        return rules.camera_type == "usb" or memory.camera_source == "usb"
    return memory.has_seen_camera


def plan_probe(
    memory: Memory, unit: Unit, status: StreamStatus | None, *, camera_present: bool, rules: Rules, at_s: float
) -> ProbeMethod | None:
    """Choose the question to the RTSP server; None when the answer could not change the finding."""
    if unit.is_stopped or unit.is_changing or unit.active == "failed":
        return None
    if not camera_present and is_camera_watched(memory, rules):
        return None
    if status is not None and status.clients > 0:
        return "OPTIONS"
    is_due = memory.described_at_s is None or at_s - memory.described_at_s >= DESCRIBE_EVERY_S
    return "DESCRIBE" if is_due or memory.has_probe_failed else "OPTIONS"


def decide(memory: Memory, facts: Facts, rules: Rules) -> Decision:
    """Judge one set of facts."""
    memory = _note_camera(memory, facts, rules)
    stream = judge_stream(memory, facts, rules)
    memory = _count_stream(_note_probe(memory, facts), stream, facts.at_s)
    memory = _note_progress(memory, facts, stream)
    recorder = judge_recorder(memory, facts, rules, stream)
    memory = _count_recorder(memory, recorder, facts.at_s)

    is_stream_due = stream.state == "urgent" or memory.failures >= rules.max_failures
    if is_stream_due and memory.stream.may_act(facts.at_s):
        actions: tuple[Action, ...] = (
            ("restart-stream", "restart-recorder") if rules.is_recording else ("restart-stream",)
        )
        return Decision(_after_stream_restart(memory, facts), stream, recorder, actions)
    is_recorder_due = memory.recorder_failures >= rules.max_failures
    if is_recorder_due and memory.recorder.may_act(facts.at_s):
        return Decision(_after_recorder_restart(memory, facts), stream, recorder, ("restart-recorder",))
    held = [memory.stream] * is_stream_due + [memory.recorder] * is_recorder_due
    return Decision(memory, stream, recorder, held_until_s=min((one.allowed_at_s for one in held), default=None))


def judge_stream(memory: Memory, facts: Facts, rules: Rules) -> Finding:
    """Judge the stream; the first thing that is wrong from the bottom up counts."""
    return (
        _judge_unit(facts.unit)
        or _judge_camera(memory, facts, rules)
        or _judge_start(facts)
        or _judge_buffers(facts.status)
        or _judge_probe(facts, rules)
        or _judge_audio(facts, rules)
        or _describe_health(facts)
    )


def judge_recorder(memory: Memory, facts: Facts, rules: Rules, stream: Finding) -> Finding:
    """Judge the recorder, which can only work while the stream does. Expects progress noted in `memory`."""
    unit = facts.recorder
    if not rules.is_recording:
        return Finding("waiting", "off", "RECORD_ENABLE is no")
    if unit is None or (unit.load and not unit.is_known):
        return Finding("waiting", "not-installed", f"{rules.recorder_unit}: no such unit")
    if (found := _judge_unit(unit)) is not None:
        return found
    if unit.active == "failed":
        return Finding("failing", "unit-failed", f"{unit.name} failed: {unit.result}")
    if stream.state != "healthy":
        return Finding("waiting", "no-stream", "there is nothing to record")
    if facts.progress is not None and facts.progress.state in _FULL_OR_FORBIDDEN:
        return Finding("waiting", facts.progress.state.replace("_", "-"), "meetingctl device record status")
    since_s = max(memory.progress_since_s or facts.at_s, unit.active_since_s or 0.0)
    if facts.at_s - since_s > RECORDER_STALL_S:
        return Finding("failing", "no-progress", f"nothing written for {facts.at_s - since_s:.0f} s")
    return Finding("healthy", "ok")


def _judge_unit(unit: Unit) -> Finding | None:
    """Find states of a unit that are not for the watchdog to change."""
    if unit.is_stopped:
        return Finding("waiting", "stopped", f"{unit.name} was stopped; start it with systemctl start {unit.name}")
    if unit.active == "failed" and unit.exit_status == EXIT_CONFIG:
        return Finding(
            "waiting", "config-invalid", f"{unit.name} refuses its configuration: meetingctl device config check"
        )
    if unit.is_changing:
        return Finding("waiting", "starting", f"{unit.name} is {unit.active} ({unit.sub})")
    return None


def _judge_camera(memory: Memory, facts: Facts, rules: Rules) -> Finding | None:
    if not is_camera_watched(memory, rules):
        return None
    if not facts.camera_present:
        return Finding("waiting", "camera-absent", f"{rules.camera_device} is not there")
    if memory.absent_at_s is None or memory.back_at_s is None:
        return None
    if facts.at_s - memory.back_at_s < rules.camera_wait_s:
        return Finding("waiting", "camera-returning", f"{rules.camera_device} is back")
    return Finding("urgent", "camera-returned", f"{rules.camera_device} is back")


def _judge_start(facts: Facts) -> Finding | None:
    unit = facts.unit
    if unit.active == "failed":
        return Finding("failing", "unit-failed", f"{unit.name} failed: {unit.result}")
    if unit.active_since_s is not None and facts.at_s - unit.active_since_s < START_GRACE_S:
        return Finding("waiting", "starting", f"{unit.name} has just started")
    return None


def _judge_buffers(status: StreamStatus | None) -> Finding | None:
    if status is None or status.last_buffer_age_s is None:
        return None
    if status.clients > 0 and status.last_buffer_age_s > STALL_LIMIT_S:
        age_s = status.last_buffer_age_s
        return Finding("failing", "stalled", f"{status.clients} viewers, and no picture for {age_s:.0f} s")
    return None


def _judge_probe(facts: Facts, rules: Rules) -> Finding | None:
    probe = facts.probe
    if probe is None or probe.outcome == "ok":
        return None
    if probe.outcome == "unavailable" and rules.source_mode in _REMOTE_SOURCES:
        return Finding("waiting", "origin-down", probe.detail)
    return Finding("failing", f"rtsp-{probe.outcome}", probe.detail)


def _judge_audio(facts: Facts, rules: Rules) -> Finding | None:
    if not rules.has_audio or not rules.alsa_threshold or facts.alsa_errors < rules.alsa_threshold:
        return None
    return Finding("urgent", "audio-lost", f"{facts.alsa_errors} sound errors in the log of the stream")


def _describe_health(facts: Facts) -> Finding:
    if facts.status is None:
        # A daemon that hangs answers no RTSP either; viewers must not lose their picture for missing figures.
        return Finding("healthy", "no-status", "RTSP answers, but the stream daemon does not tell its figures")
    return Finding("healthy", "ok", f"{facts.status.clients} viewers")


def _note_camera(memory: Memory, facts: Facts, rules: Rules) -> Memory:
    """Remember that the camera went and came; forget both once the stream started or ran after the return."""
    if facts.camera_present and not memory.has_seen_camera:
        memory = replace(memory, has_seen_camera=True)
    if facts.status is not None and facts.status.source != memory.camera_source:
        memory = replace(memory, camera_source=facts.status.source)
    if not is_camera_watched(memory, rules):
        return replace(memory, absent_at_s=None, back_at_s=None)
    if not facts.camera_present:
        return replace(memory, absent_at_s=facts.at_s, back_at_s=None)
    if memory.absent_at_s is None:
        return memory
    # The recovery unit of udev may have been faster than this check.
    has_restarted = facts.unit.active_since_s is not None and facts.unit.active_since_s > memory.absent_at_s
    is_running = facts.status is not None and facts.status.clients > 0 and _is_fresh(facts.status)
    if has_restarted or is_running:
        return replace(memory, absent_at_s=None, back_at_s=None)
    return memory if memory.back_at_s is not None else replace(memory, back_at_s=facts.at_s)


def _is_fresh(status: StreamStatus) -> bool:
    return status.last_buffer_age_s is not None and status.last_buffer_age_s <= STALL_LIMIT_S


def _note_probe(memory: Memory, facts: Facts) -> Memory:
    if facts.probe is None:
        return memory
    described = facts.at_s if facts.probe.method == "DESCRIBE" else memory.described_at_s
    return replace(memory, described_at_s=described, has_probe_failed=facts.probe.outcome != "ok")


def _note_progress(memory: Memory, facts: Facts, stream: Finding) -> Memory:
    """Remember when the recorder last got further, by the monotonic clock: its own times jump with the wall clock."""
    key = "" if facts.progress is None else f"{facts.progress.segment} {facts.progress.bytes}"
    if key == memory.progress_key and memory.progress_since_s is not None and stream.state == "healthy":
        return memory
    return replace(memory, progress_key=key, progress_since_s=facts.at_s)


def _count_stream(memory: Memory, finding: Finding, at_s: float) -> Memory:
    failures, since_s, backoff = _count(
        memory.failures, memory.healthy_since_s, memory.stream, finding=finding, at_s=at_s
    )
    return replace(memory, failures=failures, healthy_since_s=since_s, stream=backoff)


def _count_recorder(memory: Memory, finding: Finding, at_s: float) -> Memory:
    failures, since_s, backoff = _count(
        memory.recorder_failures, memory.recorder_healthy_since_s, memory.recorder, finding=finding, at_s=at_s
    )
    return replace(memory, recorder_failures=failures, recorder_healthy_since_s=since_s, recorder=backoff)


def _count(
    failures: int, healthy_since_s: float | None, backoff: Backoff, *, finding: Finding, at_s: float
) -> tuple[int, float | None, Backoff]:
    match finding.state:
        case "healthy":
            since_s = at_s if healthy_since_s is None else healthy_since_s
            return 0, since_s, backoff.calmed(at_s - since_s)
        case "failing" | "urgent":
            return failures + 1, None, backoff
    # A unit that dies again and again is seen starting as often as failing: that must not wipe out the count.
    return (failures if finding.reason == "starting" else 0), None, backoff


def _after_stream_restart(memory: Memory, facts: Facts) -> Memory:
    return replace(
        memory,
        failures=0,
        stream=memory.stream.acted(facts.at_s, facts.chance),
        healthy_since_s=None,
        has_probe_failed=True,
        absent_at_s=None,
        back_at_s=None,
        log_mark_bytes=facts.log_bytes,
        recorder_failures=0,
        progress_since_s=facts.at_s,
    )


def _after_recorder_restart(memory: Memory, facts: Facts) -> Memory:
    return replace(
        memory,
        recorder_failures=0,
        recorder=memory.recorder.acted(facts.at_s, facts.chance),
        recorder_healthy_since_s=None,
        progress_since_s=facts.at_s,
    )

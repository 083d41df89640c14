"""The watchdog: sees that the camera streams and the recorder records, and restarts what hangs, without storms."""

from meetingctl.device.watchdog.decide import Decision, Finding, decide
from meetingctl.device.watchdog.facts import Facts, Probe, Progress, StreamStatus
from meetingctl.device.watchdog.memory import Backoff, Memory
from meetingctl.device.watchdog.rules import Rules, rules_of

__all__ = [
    "Backoff",
    "Decision",
    "Facts",
    "Finding",
    "Memory",
    "Probe",
    "Progress",
    "Rules",
    "StreamStatus",
    "decide",
    "rules_of",
]

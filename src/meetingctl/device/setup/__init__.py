"""What a camera needs beside its configuration: look, decide, put right; for a check, a repair and an update."""

from meetingctl.device.setup.apply import Outcome, apply_plan
from meetingctl.device.setup.facts import Facts
from meetingctl.device.setup.look import read_facts
from meetingctl.device.setup.plan import BY_HAND, check_components, find_notes, make_plan

__all__ = [
    "BY_HAND",
    "Facts",
    "Outcome",
    "apply_plan",
    "check_components",
    "find_notes",
    "make_plan",
    "read_facts",
]

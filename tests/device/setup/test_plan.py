"""Tables of `tests/data/plan/device_check`: facts in, steps and notes out. `complete.json` holds the facts of a device
that is set up; the others say what differs, null for nothing there at all.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from meetingctl.core.errors import InvalidInput
from meetingctl.core.plan import as_rows
from meetingctl.device.setup import Facts, check_components, find_notes, make_plan

CASES = Path(__file__).parents[2] / "data" / "plan" / "device_check"
NAMES = sorted(path.stem for path in CASES.glob("*.json"))


def load(name: str) -> dict[str, Any]:
    case: dict[str, Any] = json.loads((CASES / f"{name}.json").read_text())
    return case


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        deeper = isinstance(value, dict) and value and isinstance(base.get(key), dict)
        merged[key] = merge(base[key], value) if deeper else value
    return merged


def facts_of(case: dict[str, Any]) -> Facts:
    values = merge(load("complete")["facts"], case["facts"])
    return Facts.from_json(
        {key: {} if value is None and key in {"shipped", "units"} else value for key, value in values.items()}
    )


@pytest.mark.parametrize("name", NAMES)
def test_facts_in_steps_out(name: str) -> None:
    case = load(name)
    more = {key: case[key] for key in ("components", "start") if key in case}
    facts = facts_of(case)
    assert as_rows(make_plan(facts, **more)) == case["steps"]
    assert find_notes(facts) == case["notes"]
    assert Facts.from_json(json.loads(json.dumps(facts.as_json()))) == facts


def test_components_have_an_order_and_known_names() -> None:
    assert check_components(["recorder", "rtsp"]) == ("rtsp", "recorder")
    assert "gstreamer" in check_components([])
    with pytest.raises(InvalidInput, match="no component 'rtps'"):
        check_components(["rtps"])

"""The note that outlives a power cut: a change of releases that was begun and not yet found good."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from meetingctl.core import layout
from meetingctl.core.paths import sync_folder, write_atomic
from meetingctl.device.system import System
from meetingctl.device.update.health import Health

_NAME = ".change.json"
_HEALTH_NAME = f"{layout.RELEASE_FACTS_DIR_NAME}/health.json"


@dataclass(frozen=True, slots=True)
class Change:
    """From which release to which; `settings_backup` is where the configuration was moved to."""

    origin: str
    target: str
    is_rollback: bool = False
    health: Health = Health()
    restart: tuple[str, ...] = ()
    settings_backup: str = ""


def note_change(system: System, change: Change) -> None:
    """Write the note; it is on the disk when this returns."""
    write_atomic(system.path(layout.WEB_RELEASES_DIR) / _NAME, json.dumps(asdict(change), indent=1) + "\n")


def read_change(system: System) -> Change | None:
    """Return the change that was begun; None without one."""
    try:
        facts = json.loads((system.path(layout.WEB_RELEASES_DIR) / _NAME).read_bytes())
        return Change(
            str(facts["origin"]),
            str(facts["target"]),
            bool(facts["is_rollback"]),
            _health(facts["health"]),
            tuple(facts["restart"]),
            str(facts["settings_backup"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def forget_change(system: System) -> None:
    """Remove the note: the change is finished."""
    releases = system.path(layout.WEB_RELEASES_DIR)
    (releases / _NAME).unlink(missing_ok=True)
    sync_folder(releases)


def note_health(folder: Path, health: Health) -> None:
    """Write into a release what worked with it when another took its place."""
    write_atomic(folder / _HEALTH_NAME, json.dumps(asdict(health), indent=1) + "\n")


def read_noted_health(folder: Path) -> Health:
    """Return what worked with a release; nothing when it was never noted."""
    try:
        return _health(json.loads((folder / _HEALTH_NAME).read_bytes()))
    except (OSError, ValueError, KeyError, TypeError):
        return Health()


def _health(facts: Mapping[str, Any]) -> Health:
    return Health(tuple(facts["active_units"]), bool(facts["has_stream"]), tuple(facts["enabled_units"]))

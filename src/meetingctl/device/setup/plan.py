"""Decide what a device lacks: facts in, steps out. Pure; a device that is set up gets no step."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import PurePosixPath

from meetingctl.core import layout
from meetingctl.core.errors import InvalidInput
from meetingctl.core.plan import Step
from meetingctl.device.setup import wanted
from meetingctl.device.setup.facts import Entry, Facts, UnitFact

# The verb of what no repair can do; `why` says what is to be done.
BY_HAND = "by-hand"
_NO_UNIT = UnitFact()


def check_components(names: Collection[str]) -> tuple[str, ...]:
    """Return the components in their order; none stands for all. Raises: InvalidInput."""
    if unknown := next((name for name in names if name not in wanted.COMPONENTS), None):
        raise InvalidInput(f"no component {unknown[:40]!r}", hint=f"use one of {', '.join(wanted.COMPONENTS)}")
    return tuple(name for name in wanted.COMPONENTS if not names or name in names)


def make_plan(
    facts: Facts, *, components: Collection[str] = tuple(wanted.COMPONENTS), start: bool = True
) -> list[Step]:
    """Return the steps that are missing, in their order.

    Without `start` no unit is started or restarted: the caller does that, or the device is booted anyway.
    """
    chosen = check_components(components)
    if facts.unfinished_update:
        # Which release is the current one, and so all the rest, is known afterwards.
        return [Step("settle-update", layout.WEB_RELEASES_DIR, facts.unfinished_update)]
    if not facts.has_program:
        # Not a camera yet, and perhaps not meant to be one: nothing of this machine is changed.
        return list(_plan_release(facts))
    return [
        *_plan_release(facts),
        *_plan_masks(facts),
        *_plan_packages(facts, chosen),
        *_plan_folders(facts),
        *_plan_shipped(facts, chosen),
        *_plan_cloud(facts),
        *_plan_memberships(facts),
        *_plan_config(facts),
        *_plan_units(facts, chosen, start=start),
        *_plan_elements(facts, chosen),
    ]


def find_notes(facts: Facts) -> list[str]:
    """Return what deserves a look and is no fault."""
    notes = list(facts.unreadable)
    if not facts.is_live:
        notes.append("only files were looked at: below this folder no system runs")
    elif not facts.is_booted:
        notes.append("no unit was looked at: systemd does not run this system")
    notes += [f"{name}: apt has no such package" for name, state in facts.packages.items() if state == "unavailable"]
    if facts.camera.is_looked_for and not facts.camera.kind:
        notes.append("no camera was found: connect one, or set STREAM_SOURCE_MODE")
    if facts.is_access_point:
        notes.append("the device is an access point: hostapd and dnsmasq are left alone")
    return notes


def _plan_release(facts: Facts) -> Iterator[Step]:
    if not facts.has_program:
        yield Step(BY_HAND, layout.WEB_DIR, "no release is installed: meetingctl device update apply FILE")
    elif not facts.shipped:
        yield Step(BY_HAND, wanted.PACKAGING_DIR, "the release has no units: meetingctl device update apply FILE")
    if facts.is_booted and not facts.systemd_answers:
        yield Step(BY_HAND, "systemd", "does not answer, so no unit was looked at")


def _plan_masks(facts: Facts) -> Iterator[Step]:
    """Mask the daemons of an access point, also before they are installed: a new package starts its unit at once."""
    if facts.is_access_point or not facts.systemd_answers:
        return
    for name in wanted.ACCESS_POINT_UNITS:
        unit = facts.units.get(name, _NO_UNIT)
        if unit.is_masked and unit.active != "active":
            continue
        if unit.is_installed:
            yield Step("mask-unit", name, f"is {unit.active}, {unit.enabled or 'not enabled'}; only we start it")
        elif facts.packages.get(name) == "missing":
            yield Step("mask-unit", name, "would start when its package is installed")


def _plan_packages(facts: Facts, chosen: Collection[str]) -> Iterator[Step]:
    if "gstreamer" not in chosen:
        return
    if facts.dpkg_is_broken:
        yield Step("configure-packages", "dpkg", "an earlier installation was interrupted")
    missing = [name for name, state in facts.packages.items() if state == "missing"]
    if missing:
        yield Step("refresh-packages", "apt", f"{len(missing)} packages are missing")
    for name in missing:
        yield Step("install-package", name, "not installed")


def _plan_folders(facts: Facts) -> Iterator[Step]:
    owner = _owner(facts)
    for folder, mode in wanted.FOLDERS.items():
        yield from _plan_entry("make-folder", folder, facts.folders.get(folder), mode, owner)


def _plan_entry(do: str, path: str, entry: Entry | None, mode: int, owner: str) -> Iterator[Step]:
    detail = {"mode": mode, "owner": owner}
    if entry is None:
        yield Step(do, path, "not there", detail)
    elif entry.kind not in {"folder", "link"}:
        yield Step(BY_HAND, path, f"is no folder but a {entry.kind}: move it away")
    elif entry.kind == "folder" and (wrong := _wrong_attributes(entry, mode, owner)):
        yield Step("set-attributes", path, wrong, detail)


def _wrong_attributes(entry: Entry, mode: int, owner: str) -> str:
    """Say what differs; an owner whose name is unknown differs from nothing."""
    found = []
    if entry.mode != mode:
        found.append(f"mode is {entry.mode:04o}, not {mode:04o}")
    if owner and entry.owner and entry.owner != owner:
        found.append(f"owner is {entry.owner}, not {owner}")
    return ", ".join(found)


def _owner(facts: Facts) -> str:
    if not facts.groups:
        return ""
    return f"root:{layout.WEB_GROUP if layout.WEB_GROUP in facts.groups else 'root'}"


def _plan_shipped(facts: Facts, chosen: Collection[str]) -> Iterator[Step]:
    wants = _units_of(chosen)
    has_tmpfiles = has_rules = False
    for target, found in facts.shipped.items():
        place = PurePosixPath(target)
        is_left_out = place.suffix == ".service" and place.stem in layout.UNITS and place.stem not in wants
        if found.is_same or is_left_out:
            continue
        why = "differs from that of the release" if found.is_there else "not installed"
        yield Step("install-file", target, why, {"source": found.source, "mode": found.mode})
        has_tmpfiles |= place.parent.name == "tmpfiles.d"
        has_rules |= place.parent.name == "rules.d"
    if has_tmpfiles and facts.is_live:
        yield Step("make-tmpfiles", "systemd-tmpfiles", "its file is new")
    if has_rules and facts.udev_runs:
        yield Step("reload-udev", "udev", "a rule is new")


def _plan_cloud(facts: Facts) -> Iterator[Step]:
    if facts.cloud is None:
        return
    if not facts.cloud.has_dropin:
        detail = {"text": wanted.CLOUD_DROPIN_TEXT, "mode": 0o644}
        yield Step("write-file", layout.CLOUD_DROPIN, "cloud-init would set the name of the device", detail)
    if facts.cloud.modules_on:
        why = f"{', '.join(facts.cloud.modules_on)} would set the name of the device"
        yield Step("quiet-cloud-init", layout.CLOUD_CFG, why)
    if facts.cloud.remembers_name:
        yield Step("remove-file", layout.CLOUD_HOSTNAME_MEMORY, "cloud-init compares the name with it")


def _plan_memberships(facts: Facts) -> Iterator[Step]:
    for user, groups in facts.memberships.items():
        for group in wanted.MEMBERSHIPS.get(user, ()):
            if group in facts.groups and group not in groups:
                yield Step("add-member", f"{user}:{group}", f"{user} is not in {group}")


def _plan_config(facts: Facts) -> Iterator[Step]:
    owner = _owner(facts)
    for path, (widest, mode) in wanted.CONFIG_MODES.items():
        entry = facts.files.get(path)
        if entry is None or entry.kind != "file":
            continue
        if wide := entry.mode & ~widest:
            group = "" if not owner or not mode & 0o040 else owner
            why = f"mode is {entry.mode:04o}: {'others' if wide & 0o007 else 'too many'} may read or change a secret"
            yield Step("set-attributes", path, why, {"mode": mode, "owner": group})
    if facts.files.get(layout.CONFIG_ENV) is None:
        has_older = facts.files.get(layout.RECORDER_CONF) is not None
        why = "only recorder.conf is there" if has_older else "not there"
        detail = {"mode": wanted.NEW_CONFIG_MODE, "owner": owner}
        yield Step("make-config", layout.CONFIG_ENV, why, detail)
    if facts.camera.kind:
        changes: dict[str, str] = {"CAMERA_TYPE": facts.camera.kind}
        if facts.camera.device:
            changes["VIDEOIN_DEVICE"] = facts.camera.device
        why = f"{facts.camera.device or 'a camera on the ribbon cable'} was found and no kind is set"
        yield Step("set-config", "CAMERA_TYPE", why, {"changes": changes})


def _plan_units(facts: Facts, chosen: Collection[str], *, start: bool) -> Iterator[Step]:
    if not facts.systemd_answers:
        return
    new = {
        PurePosixPath(target).stem: found
        for target, found in facts.shipped.items()
        if target.endswith(".service") and not found.is_same and PurePosixPath(target).stem in _units_of(chosen)
    }
    if new or facts.needs_reload:
        yield Step("reload-systemd", "systemd", "files of units are new" if new else "it has older files of units")
    begun = []
    yield from _plan_foreign(facts)
    for name in _units_of(chosen):
        unit, is_shipped = facts.units.get(name, _NO_UNIT), layout.unit_file_path(name) in facts.shipped
        if not is_shipped or name in wanted.NEVER_ENABLED:
            continue
        if name == layout.TUNNEL_AGENT_UNIT and facts.wants_agent is not True:
            yield from _plan_agent_off(facts, unit)
            continue
        steps = list(_plan_unit(name, unit, is_new=name in new))
        yield from (step for step in steps if not step.do.startswith(("start", "restart")))
        begun += [step for step in steps if step.do.startswith(("start", "restart"))]
    if "rtsp" in chosen:
        begun_avahi = list(_plan_avahi(facts))
        yield from begun_avahi
    if start:
        yield from begun


def _plan_foreign(facts: Facts) -> Iterator[Step]:
    """Switch off units of an older system under our names: their programs went with its folder."""
    if not facts.shipped:
        return
    for name in layout.UNITS:
        unit = facts.units.get(name, _NO_UNIT)
        if layout.unit_file_path(name) not in facts.shipped and unit.load == "loaded":
            if unit.is_enabled or unit.active not in {"inactive", "failed"}:
                yield Step("disable-unit", name, "the release does not bring it, and its program is gone")


def _plan_unit(name: str, unit: UnitFact, *, is_new: bool) -> Iterator[Step]:
    if unit.is_masked:
        yield Step("unmask-unit", name, "masked, so it can never start")
    if not unit.is_enabled:
        yield Step("enable-unit", name, f"is {unit.enabled or 'not installed'}, so it does not start at boot")
    if unit.active == "failed":
        yield Step("start-unit", name, "failed")
    elif is_new and unit.active in {"active", "activating", "reloading"}:
        yield Step("restart-unit", name, "its file is new")
    elif not unit.is_enabled and unit.active != "active":
        yield Step("start-unit", name, f"is {unit.active or 'unknown'}")


def _plan_agent_off(facts: Facts, unit: UnitFact) -> Iterator[Step]:
    """Keep the agent off on a device that is not provisioned; nothing is known without meeting.json."""
    if facts.wants_agent is False and unit.is_enabled:
        yield Step("disable-unit", layout.TUNNEL_AGENT_UNIT, "meeting.json is not switched on and provisioned")


def _plan_avahi(facts: Facts) -> Iterator[Step]:
    unit = facts.units.get(wanted.AVAHI_UNIT, _NO_UNIT)
    if unit.is_installed and not unit.is_masked and not unit.is_enabled:
        yield Step("enable-unit", wanted.AVAHI_UNIT, f"is {unit.enabled}, so nobody finds the device by its name")


def _plan_elements(facts: Facts, chosen: Collection[str]) -> Iterator[Step]:
    """Name elements that are absent although all packages are there; a package that is still to come may bring them."""
    if "gstreamer" not in chosen or "missing" in facts.packages.values():
        return
    from meetingctl.device.stream.gstreamer import package_of

    for name, is_there in facts.elements.items():
        if not is_there:
            yield Step(BY_HAND, name, f"GStreamer lacks it: apt-get install {package_of(name)}")


def _units_of(chosen: Collection[str]) -> tuple[str, ...]:
    return tuple(unit for name, units in wanted.COMPONENTS.items() if name in chosen for unit in units)

"""The jobs: apply a package, go back, and settle what an interrupted job left. One at a time on a device."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from meetingctl.core import layout
from meetingctl.core.clock import iso_text
from meetingctl.core.errors import Busy, Forbidden, MeetingctlError, NotFound, StorageFull
from meetingctl.device import apt
from meetingctl.device.system import System
from meetingctl.device.update import build, change, health, journal, releases, replaced
from meetingctl.device.update.check import Verdict, judge_package
from meetingctl.device.update.journal import Change
from meetingctl.device.update.status import Report

REBOOT_DELAY_S = 5
_REBOOT_TIMEOUT_S = 20.0

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """How a package is applied; `health_s` is the time that the new release has to show that it works."""

    force: bool = False
    restart: bool = True
    reboot: bool = True
    reset_settings: bool = False
    health_s: float = health.HEALTH_TIMEOUT_S


def apply_package(system: System, path: Path, options: Options, tell: Tell) -> dict[str, Any]:
    """Apply a package and watch the device; what does not work is taken back.

    Raises: Busy while another job runs, Forbidden, InvalidInput for a package that is refused, StorageFull, and
    MeetingctlError when the former version runs again, or when nothing could be put right.
    """
    with _only_job(system):
        report = Report(system, tell)
        report.go("starting", 5, f"update from {path.name}")
        folder: Path | None = None
        try:
            _settle(system, report, options.health_s)
            report.go("validating", 15, "checking the package")
            verdict = judge_package(system, path, force=options.force)
            report.details = {"from": releases.installed_version(system), "check": verdict.as_record()}
            verdict.findings.refuse_errors(path.name)
            for line in verdict.warnings:
                report.say(f"warning: {line}")
            build.check_space(system, verdict.package)
            verdict, has_new_packages = _install_dependencies(system, verdict, report)
            folder = _build_release(system, verdict, report)
            outcome = _switch(system, verdict, folder, options, report)
        except BaseException as error:
            if journal.read_change(system) is None:
                _forget_unfinished(system, folder)
            report.fail(_reason(error))
            raise
        return _end(system, verdict, outcome, options, report, has_new_packages=has_new_packages)


def roll_back(
    system: System, tell: Tell, *, restart: bool = True, health_s: float = health.HEALTH_TIMEOUT_S
) -> dict[str, Any]:
    """Return to the release that ran before the current one. Raises: Busy, Forbidden, NotFound, MeetingctlError."""
    with _only_job(system):
        report = Report(system, tell)
        report.go("starting", 5, "going back to the former version")
        try:
            _settle(system, report, health_s)
            back = plan_rollback(system)
            report.go("applying", 50, f"from {back.origin} to {back.target}")
            forth = _way_back(system, back)
            fault = change.revert(system, forth, report, restart=restart, health_s=health_s)
        except BaseException as error:
            report.fail(_reason(error))
            raise
        if fault:
            report.fail(f"{back.target} is back, but {fault}")
            raise MeetingctlError(report.message, hint="meetingctl device status")
        report.go("success", 100, f"{releases.installed_version(system)} runs again")
        return {
            "state": report.state,
            "from": back.origin,
            "to": back.target,
            "version": releases.installed_version(system),
        }


def plan_rollback(system: System) -> Change:
    """Return from which release to which a rollback goes. Raises: NotFound."""
    found = releases.list_releases(system)
    current = next((release for release in found if release.state == "current"), None)
    kept = [release for release in found if release.state == "kept"]
    if current is None or not kept:
        raise NotFound("there is no former version to return to", hint="meetingctl device update list")
    target = next((release for release in kept if release.name == current.previous), kept[0])
    return Change(current.name, target.name, is_rollback=True)


def _way_back(system: System, back: Change) -> Change:
    """Return the change that a rollback undoes.

    What works now must work then, as far as the former release has it; of another program, what worked with it.
    """
    folder = releases.folder_of(system, back.target)
    if not (folder / releases.PROGRAM_NAME).is_file():
        before = journal.read_noted_health(folder)
        return Change(back.target, back.origin, health=before, restart=before.active_units)
    now = health.read_health(system)
    added = replaced.added_units(folder)
    active = tuple(name for name in now.active_units if name not in added)
    return Change(back.target, back.origin, health=health.Health(active, now.has_stream), restart=active)


def settle_device(system: System, tell: Tell, *, health_s: float = health.HEALTH_TIMEOUT_S) -> list[str]:
    """Finish or take back what an interrupted job left; returns what was done. Raises: Busy, Forbidden."""
    lines: list[str] = []

    def take(text: str) -> None:
        lines.append(text)
        tell(text)

    if find_unfinished(system):
        with _only_job(system):
            _settle(system, Report(system, take), health_s)
    return lines


def find_unfinished(system: System) -> str:
    """Say what an interrupted job left; empty without any, and while a job runs."""
    folder = system.path(layout.WEB_RELEASES_DIR)
    if not folder.is_dir():
        return ""
    try:
        with system.locked(layout.WEB_RELEASES_DIR, timeout_s=0):
            if (begun := journal.read_change(system)) is not None:
                return f"the change to {begun.target} was interrupted"
            left = releases.find_unfinished_release(system)
            return f"{left} was never finished" if left else ""
    except Busy:
        return ""


@contextmanager
def _only_job(system: System) -> Iterator[None]:
    if os.geteuid() and str(system.root) == "/":
        raise Forbidden("an update changes the system", hint="sudo meetingctl device update status")
    umask = os.umask(0o022)  # a release is for every user of the device, whoever applies it
    try:
        with system.locked(layout.WEB_RELEASES_DIR, timeout_s=0):
            yield
    except Busy as error:
        if layout.WEB_RELEASES_DIR in error.message:
            raise Busy("another update runs on this device", hint="meetingctl device update status") from None
        raise
    except OSError as error:
        raise _translate(error) from error
    finally:
        os.umask(umask)


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError):
        error = _translate(error)
    return error.message if isinstance(error, MeetingctlError) else f"stopped by {type(error).__name__}"


def _translate(error: OSError) -> MeetingctlError:
    text = f"{error.filename or 'a file'}: {error.strerror or error}"
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return StorageFull(text, hint="df -h")
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return Forbidden(text, hint="sudo meetingctl device update status")
    return MeetingctlError(text, hint="meetingctl device update status")


def _settle(system: System, report: Report, health_s: float) -> None:
    """Bring an interrupted change to an end: a new release that works stays, any other is taken back."""
    for line in releases.tidy_releases(system):
        report.say(line)
    begun = journal.read_change(system)
    if begun is None:
        return
    if releases.current_name(system) != begun.target:
        if not begun.is_rollback:
            journal.forget_change(system)  # the link was never moved
            return
        releases.point_to(system, begun.target)
    report.say(f"finishing the interrupted change to {begun.target}")
    if begun.is_rollback:
        change.return_to(system, begun, report, restart=True, health_s=health_s)
    elif fault := change.complete(system, begun, report, restart=True, health_s=health_s):
        _take_back(system, begun, fault, report, restart=True, health_s=health_s)
    else:
        change.finish(system, begun, report)


def _install_dependencies(system: System, verdict: Verdict, report: Report) -> tuple[Verdict, bool]:
    """Install what is missing; returns what is known of the packages now, and whether new ones came.

    A device without internet is updated all the same: whether it works then is looked at after the switch.
    """
    report.go("dependencies", 30, f"{len(verdict.apt.missing)} packages of the distribution are missing")
    if not system.is_live or not verdict.apt.missing:
        return verdict, False
    try:
        apt.fetch_lists(system)
    except MeetingctlError as error:
        report.say(f"warning: {error.message}, so the lists of packages may be old")
    known = verdict.warnings
    verdict = replace(verdict, apt=apt.read_state(system, verdict.package.apt_packages) or verdict.apt)
    for line in verdict.warnings:
        if line not in known:
            report.say(f"warning: {line}")
    if not verdict.apt.missing:
        return verdict, False
    report.say(f"apt-get install {' '.join(verdict.apt.missing)}")
    try:
        apt.install(system, verdict.apt.missing)
    except MeetingctlError as error:
        report.say(f"warning: {error.message}")
        return verdict, False
    return verdict, True


def _build_release(system: System, verdict: Verdict, report: Report) -> Path:
    report.go("applying", 50, f"unpacking {verdict.package.version}")
    folder = releases.start_release(system, verdict.package.version)
    build.unpack_package(verdict.package, folder)
    report.go("applying", 60, "installing the Python packages")
    build.build_environment(system, folder)
    return folder


def _switch(system: System, verdict: Verdict, folder: Path, options: Options, report: Report) -> Change:
    """Finish the release, make it the current one, and take it back when it does not work."""
    origin = releases.note_original(system) if releases.is_original(system) else releases.current_name(system)
    now = iso_text(int(system.clock.wall_s() * 1000)) or ""
    releases.write_info(folder, releases.Info(verdict.package.version, now, origin))
    before = health.read_health(system)
    wanted, brought = verdict.package.manifest.restart_services, replaced.brought_units(folder)
    stamp = time.strftime("%Y%m%d%H%M%S", time.localtime(system.clock.wall_s()))
    begun = Change(
        origin,
        folder.name,
        health=before,
        restart=tuple(name for name in wanted if name in before.active_units and name in brought),
        settings_backup=f"{layout.CONFIG_DIR}.backup_update_{stamp}" if options.reset_settings else "",
    )
    report.details = {**report.details, "switched": True}
    report.go("applying", 85, f"switching from {origin or 'nothing'} to {folder.name}")
    try:
        fault = change.activate(system, begun, report, restart=options.restart, health_s=options.health_s)
    except MeetingctlError as error:
        fault = error.message
    except OSError as error:
        fault = str(error)
    if fault:
        _take_back(system, begun, fault, report, restart=options.restart, health_s=options.health_s)
    change.finish(system, begun, report)
    return begun


def _take_back(system: System, begun: Change, fault: str, report: Report, *, restart: bool, health_s: float) -> None:
    """Go back to the former release and say so. Raises: MeetingctlError, always."""
    report.say(f"{begun.target} does not work: {fault}")
    if not begun.origin:
        journal.forget_change(system)
        raise MeetingctlError(
            f"{begun.target} is installed, but {fault}; there is no former version", hint="meetingctl device check"
        )
    left = change.revert(system, begun, report, restart=restart, health_s=health_s)
    releases.remove_release(releases.folder_of(system, begun.target))
    tail = f"{begun.origin} is back" if left else f"{begun.origin} runs again"
    raise MeetingctlError(
        f"{begun.target} does not work: {fault}; {tail}{f', but {left}' if left else ''}",
        hint="journalctl -b -u 'rpi-*' -u 'rtsp-*'",
    )


def _forget_unfinished(system: System, folder: Path | None) -> None:
    """Remove the release that did not become one; what cannot be removed now is removed by the next job."""
    with suppress(OSError):
        releases.tidy_releases(system)
        if folder is not None and folder.exists() and folder.name != releases.current_name(system):
            releases.remove_release(folder)


def _end(
    system: System, verdict: Verdict, begun: Change, options: Options, report: Report, *, has_new_packages: bool
) -> dict[str, Any]:
    version = verdict.package.version
    is_needed = verdict.package.manifest.requires_reboot or has_new_packages or options.reset_settings
    will_reboot = is_needed and options.reboot and system.is_booted
    if will_reboot:
        report.go("rebooting", 100, f"{version} is installed, the device starts again in {REBOOT_DELAY_S} s")
        _reboot_soon(system, report)
    else:
        report.go("success", 100, f"{version} is installed" + (", a reboot is needed" if is_needed else ""))
    return {
        "state": report.state,
        "version": version,
        "from": begun.origin,
        "to": begun.target,
        "restarted": list(begun.restart) if options.restart else [],
        "reboot_needed": is_needed,
        "rebooting": will_reboot,
        "warnings": list(verdict.warnings),
    }


def _reboot_soon(system: System, report: Report) -> None:
    ran = system.run(
        "systemd-run", f"--on-active={REBOOT_DELAY_S}", "--", "systemctl", "reboot", timeout_s=_REBOOT_TIMEOUT_S
    )
    if not ran.ok:
        report.say(f"the reboot could not be ordered: {' '.join(ran.err.split())[-200:]}")

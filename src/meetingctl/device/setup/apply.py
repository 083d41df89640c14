"""Carry out the steps of a plan. One that fails does not keep the others from being tried."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from meetingctl.core import layout
from meetingctl.core.errors import MeetingctlError
from meetingctl.core.plan import Step
from meetingctl.device import apt
from meetingctl.device.config import change_config
from meetingctl.device.setup import wanted
from meetingctl.device.setup.look import (
    cloud_module_line,
    read_names,
)
from meetingctl.device.setup.plan import BY_HAND
from meetingctl.device.system import System
from meetingctl.device.units import RESTART_TIMEOUT_S

_SHORT_S = 30.0
_SHOWN_ERROR = 300
_NOT_OFFERED = "apt has no such package"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a step; `error` is empty when it went well. `is_void`: nothing could be done, which is no fault."""

    step: Step
    error: str = ""
    is_void: bool = False

    @property
    def is_ok(self) -> bool:
        return not self.error


def apply_plan(
    system: System, steps: Sequence[Step], *, on_step: Callable[[Step], object] | None = None
) -> list[Outcome]:
    """Carry out the steps in their order and return what came of each; `on_step` hears of one before it begins.

    What only a person can do is an outcome with an error. Never raises for a step that fails.
    """
    outcomes: list[Outcome] = []
    to_install = [step.on for step in steps if step.do == "install-package"]
    installed: Mapping[str, str] | None = None
    for step in steps:
        if on_step is not None:
            on_step(step)
        try:
            if step.do == "install-package":
                # All in one call of apt, which orders them; the first of the steps makes it.
                installed = installed if installed is not None else _install(system, to_install)
                error = installed.get(step.on, "")
                is_void = error == _NOT_OFFERED
                outcomes.append(Outcome(step, "" if is_void else error, is_void))
                continue
            _apply(system, step)
        except MeetingctlError as exc:
            outcomes.append(Outcome(step, exc.message))
        except OSError as exc:
            outcomes.append(Outcome(step, f"{step.on}: {exc.strerror or exc}"))
        else:
            outcomes.append(Outcome(step))
    return outcomes


def _install(system: System, names: Sequence[str]) -> dict[str, str]:
    """Install what apt has, and return what is wrong with those that are still missing."""
    offered = apt.read_offered(system, names)
    wished = [name for name in names if name in offered]
    reason = "not installed after apt-get"
    if wished:
        try:
            apt.install(system, wished)
        except MeetingctlError as error:
            reason = error.message
    present = apt.read_installed(system) or set()
    return {name: reason if name in offered else _NOT_OFFERED for name in names if name not in present}


def _apply(system: System, step: Step) -> None:
    """Do one step. Raises: MeetingctlError, OSError."""
    act = _ACTIONS.get(step.do)
    if act is None:
        raise MeetingctlError(f"{step.on}: {step.why}" if step.do == BY_HAND else f"no such step: {step.do}")
    act(system, step)


def _settle_update(system: System, step: Step) -> None:
    from meetingctl.device.update.job import settle_device

    settle_device(system, lambda line: None)


def _make_folder(system: System, step: Step) -> None:
    system.path(step.on).mkdir(parents=True, exist_ok=True)
    _set_attributes(system, step)


def _set_attributes(system: System, step: Step) -> None:
    path = system.path(step.on)
    if step.detail["owner"]:
        os.chown(path, *read_names(system).ids(step.detail["owner"]))
    path.chmod(step.detail["mode"])


def _install_file(system: System, step: Step) -> None:
    system.write(step.on, system.read(step.detail["source"]), mode=step.detail["mode"])


def _write_file(system: System, step: Step) -> None:
    system.write(step.on, step.detail["text"], mode=step.detail["mode"])


def _remove_file(system: System, step: Step) -> None:
    system.path(step.on).unlink(missing_ok=True)


def _quiet_cloud_init(system: System, step: Step) -> None:
    """Comment the modules out; the file as it was stays beside it."""
    text = system.read(step.on)
    if not system.path(f"{step.on}.orig").exists():
        system.write(f"{step.on}.orig", text)
    system.write(step.on, quiet_cloud_cfg(text))


def quiet_cloud_cfg(text: str) -> str:
    """Return cloud.cfg with the modules that name the device commented out. Pure; a second time changes nothing."""
    for name in wanted.CLOUD_MODULES:
        text = cloud_module_line(name).sub(r"\g<indent># \g<item>", text)
    return text


def _make_config(system: System, step: Step) -> None:
    """Begin config.env, with what recorder.conf says where that is there."""
    path = system.path(layout.RECORDER_CONF)
    text = system.read(layout.RECORDER_CONF) if path.exists() else wanted.NEW_CONFIG_TEXT
    system.write(step.on, text, mode=step.detail["mode"])
    _set_attributes(system, step)


def _set_config(system: System, step: Step) -> None:
    change_config(system, step.detail["changes"])


def _add_member(system: System, step: Step) -> None:
    user, _, group = step.on.partition(":")
    _run(system, "gpasswd", "--add", user, group)


def _configure_packages(system: System, step: Step) -> None:
    apt.finish_interrupted(system)


def _refresh_packages(system: System, step: Step) -> None:
    apt.fetch_lists(system)


def _make_tmpfiles(system: System, step: Step) -> None:
    _run(system, "systemd-tmpfiles", "--create", "rpi-cam.conf")


def _reload_udev(system: System, step: Step) -> None:
    _run(system, "udevadm", "control", "--reload")


def _reload_systemd(system: System, step: Step) -> None:
    _run(system, "systemctl", "daemon-reload", timeout_s=RESTART_TIMEOUT_S)


def _call_systemctl(*words: str) -> Callable[[System, Step], None]:
    def act(system: System, step: Step) -> None:
        _run(system, "systemctl", *words, "--", f"{step.on}.service", timeout_s=RESTART_TIMEOUT_S)

    return act


def _begin_unit(verb: str) -> Callable[[System, Step], None]:
    """Start or restart without waiting until it is ready: a camera that is absent holds up nobody."""

    def act(system: System, step: Step) -> None:
        # A unit that used up its start limit refuses until its counter is reset.
        system.run("systemctl", "reset-failed", "--", f"{step.on}.service", timeout_s=_SHORT_S)
        _run(system, "systemctl", verb, "--no-block", "--", f"{step.on}.service", timeout_s=RESTART_TIMEOUT_S)

    return act


def _run(system: System, *argv: str, timeout_s: float = _SHORT_S) -> None:
    """Run a program that must go well. Raises: MeetingctlError with its last word."""
    ran = system.run(*argv, timeout_s=timeout_s)
    if not ran.ok:
        reason = "no answer in time" if ran.timed_out else _last_line(ran.err or ran.out) or f"code {ran.code}"
        raise MeetingctlError(f"{' '.join(argv)}: {reason}")


def _last_line(text: str) -> str:
    return next((line.strip()[:_SHOWN_ERROR] for line in reversed(text.splitlines()) if line.strip()), "")


_ACTIONS: Mapping[str, Callable[[System, Step], None]] = {
    "settle-update": _settle_update,
    "make-folder": _make_folder,
    "set-attributes": _set_attributes,
    "install-file": _install_file,
    "write-file": _write_file,
    "remove-file": _remove_file,
    "quiet-cloud-init": _quiet_cloud_init,
    "make-config": _make_config,
    "set-config": _set_config,
    "add-member": _add_member,
    "configure-packages": _configure_packages,
    "refresh-packages": _refresh_packages,
    "make-tmpfiles": _make_tmpfiles,
    "reload-udev": _reload_udev,
    "reload-systemd": _reload_systemd,
    "mask-unit": _call_systemctl("mask", "--now"),
    "unmask-unit": _call_systemctl("unmask"),
    "enable-unit": _call_systemctl("enable"),
    "disable-unit": _call_systemctl("disable", "--now"),
    "start-unit": _begin_unit("start"),
    "restart-unit": _begin_unit("try-restart"),
}

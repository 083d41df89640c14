"""Look at a package with the eyes of this device: what speaks against it, and what applying it would do."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meetingctl.core import layout
from meetingctl.core.plan import Step
from meetingctl.core.update_package import (
    PROGRAM_PREFIX,
    VERSION_PATH,
    WHEELS_PREFIX,
    Findings,
    Package,
    check_package,
    cut_remarks,
    find_loose_requirements,
    read_package,
)
from meetingctl.device.apt import AptState, read_state
from meetingctl.device.system import System
from meetingctl.device.update import releases
from meetingctl.device.update.build import choose_python
from meetingctl.device.update.signature import find_wrong_signature

# What `uname -m` says for the architectures of Debian that packages are built for.
_MACHINES = {"arm64": ("aarch64",), "amd64": ("x86_64",), "armhf": ("armv7l", "armv6l", "aarch64")}
_ASK_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """A package, what was found about it, and what apt lacks."""

    package: Package
    findings: Findings
    apt: AptState

    @property
    def warnings(self) -> tuple[str, ...]:
        """What does not speak against the package, and what apt lacks."""
        return cut_remarks((*self.findings.warnings, *_apt_remarks(self.apt)))

    def as_record(self) -> dict[str, Any]:
        """Return what the web page shows before it applies a package."""
        manifest = self.package.manifest
        return {
            "ok": not self.findings.errors,
            "version": manifest.version,
            "created_at": manifest.created_at,
            "files_count": len(manifest.files),
            "restart_services": list(manifest.restart_services),
            "required_packages": list(self.package.apt_packages),
            "missing_packages": list(self.apt.missing),
            "missing_apt_packages": list(self.apt.missing),
            "missing_pip_packages": missing_wheels(self.package),
            "python_requirements_file": self.package.dependencies.requirements_file,
            "requires_reboot": manifest.requires_reboot or bool(self.apt.missing),
            "same_version": self.findings.same_version,
            "reapply_allowed": self.findings.reapply_allowed,
            "errors": list(self.findings.errors),
            "warnings": list(self.warnings),
        }


def judge_package(system: System, path: Path, *, force: bool = False) -> Verdict:
    """Read and check a package for this device. Raises: NotFound, InvalidInput, TooLarge."""
    package = read_package(path)
    is_foreign = _runs_foreign_program(system)
    version = releases.installed_version(system)
    findings = check_package(package, "" if is_foreign else version, force=force)
    errors, warnings = list(findings.errors), list(findings.warnings)
    if is_foreign:
        warnings.append(f"takes the place of another program, version {version or 'unknown'}, which is kept")
    if not package.has_program:
        errors.append("no meetingctl in the package: wheels/meetingctl-*.whl and requirements.txt are needed")
    else:
        errors += find_loose_requirements(package)
        if VERSION_PATH not in {file.path for file in package.manifest.files}:
            errors.append(f"no {VERSION_PATH} in the package")
    if target := releases.find_foreign_link(system):
        errors.append(
            f"{layout.WEB_DIR} is a link to {target}, which is no release: move that folder in its place first"
        )
    errors += _wrong_machine(system, package)
    if wrong := find_wrong_signature(system, package):
        errors.append(wrong)
    return Verdict(
        package,
        Findings(cut_remarks(errors), tuple(warnings), findings.same_version, findings.reapply_allowed),
        read_state(system, package.apt_packages) or AptState(),
    )


def _apt_remarks(state: AptState) -> list[str]:
    """Say what a person should know of packages that are not installed; what apt brings needs no word."""
    remarks = [f"apt has no package {name}" for name in state.unavailable]
    if state.missing and state.lists != "read":
        why = ", and apt cannot say whether it has them: its lists were never fetched"
        remarks.append(f"not installed: {', '.join(state.missing)}{why if state.lists == 'absent' else ''}")
    return remarks


def missing_wheels(package: Package) -> list[str]:
    """Return the Python packages that are asked for by name and not in the package."""
    names = {_wheel_project(file.path) for file in package.manifest.files if file.path.startswith(WHEELS_PREFIX)}
    return [name for name in package.dependencies.pip_packages if _normal(name) not in names]


def plan_update(system: System, verdict: Verdict, *, restart: bool, reboot: bool, reset_settings: bool) -> list[Step]:
    """Return what applying would do, in its order."""
    package = verdict.package
    origin = releases.installed_version(system)
    steps = []
    if system.is_live:
        steps += [Step("install-package", name, "not installed") for name in verdict.apt.missing]
    size = f"{len(package.manifest.files)} files, {package.total_bytes >> 20} MiB"
    steps.append(Step("add-release", f"{layout.WEB_RELEASES_DIR}/{package.version}", size))
    for file in package.manifest.files:
        if not file.path.startswith(f"{PROGRAM_PREFIX}/"):
            steps.append(Step("write-file", f"/{file.path}", "in the package"))
    if reset_settings:
        steps.append(Step("move-settings", layout.CONFIG_DIR, "--reset-settings"))
    steps.append(Step("switch-release", layout.WEB_DIR, f"{origin or 'nothing'} becomes {package.version}"))
    steps.append(Step("repair-setup", "units, rules, folders", "as the new release has them"))
    if restart and system.is_booted:
        steps += [Step("restart-unit", name, "when it runs") for name in package.manifest.restart_services]
    if reboot and system.is_booted:
        steps.append(Step("reboot", "the device", "the package asks for it, or a dependency was installed"))
    return steps


def _runs_foreign_program(system: System) -> bool:
    """Say whether the folder of another program, whose versions count differently, is in the place of the releases."""
    web = system.path(layout.WEB_DIR)
    return web.is_dir() and not (web / releases.PROGRAM_NAME).is_file()


def _wrong_machine(system: System, package: Package) -> list[str]:
    """Compare the device with what the package was built for, where it says so."""
    errors = []
    built = package.dependencies.built_for
    machine = platform.machine()
    if (architecture := built.get("architecture")) and machine not in _MACHINES.get(architecture, (machine,)):
        errors.append(f"built for {architecture}, this device is {machine}")
    if python := built.get("python"):
        ran = system.run(
            choose_python(system), "-c", "import sys; print('%d.%d' % sys.version_info[:2])", timeout_s=_ASK_TIMEOUT_S
        )
        if ran.ok and ran.out.strip() != python:
            errors.append(f"built for Python {python}, this device has {ran.out.strip()}")
    return errors


def _wheel_project(path: str) -> str:
    return _normal(path.removeprefix(WHEELS_PREFIX).split("-")[0])


def _normal(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")

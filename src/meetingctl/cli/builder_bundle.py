"""`builder bundle`: the program and all it needs on a camera, in one file."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meetingctl.cli.invocation import of
from meetingctl.cli.options import DryRun

if TYPE_CHECKING:
    from meetingctl.remote.bundle import Platform, Recipe

DEFAULT_PYTHON = "3.13"
DEFAULT_OUT = Path("dist/updates")


class Architecture(StrEnum):
    """The architectures of Debian that cameras have."""

    arm64 = "arm64"
    armhf = "armhf"
    amd64 = "amd64"


def bundle_package(
    ctx: typer.Context,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="folder of the package")] = DEFAULT_OUT,
    version: Annotated[
        str, typer.Option("--release-version", metavar="V", help="its version; default: that of this program")
    ] = "",
    python: Annotated[str, typer.Option("--python", metavar="X.Y", help="Python of the device")] = DEFAULT_PYTHON,
    arch: Annotated[Architecture, typer.Option("--arch", help="architecture of the device")] = Architecture.arm64,
    packages: Annotated[
        list[str], typer.Option("--require-package", metavar="P", help="apt package that it needs too; repeatable")
    ] = [],  # noqa: B006 - Typer reads the default and copies it
    units: Annotated[
        list[str], typer.Option("--restart", metavar="UNIT", help="restart only this unit; repeatable")
    ] = [],  # noqa: B006
    reboot: Annotated[bool, typer.Option("--reboot", help="the device reboots after it")] = False,
    allow_reapply: Annotated[bool, typer.Option("--allow-reapply", help="it may be applied twice")] = False,
    wheel: Annotated[
        Path | None, typer.Option("--wheel", metavar="FILE", help="take this wheel of meetingctl instead of making one")
    ] = None,
    sign: Annotated[
        Path | None, typer.Option("--sign", metavar="KEY", help="sign it with this ed25519 private key, a PEM file")
    ] = None,
    links: Annotated[
        list[str], typer.Option("--find-links", metavar="DIR", help="also look for wheels here; repeatable")
    ] = [],  # noqa: B006
    no_index: Annotated[bool, typer.Option("--no-index", help="look for wheels only there")] = False,
    dry_run: DryRun = False,
) -> None:
    """Build the update package of a camera: the program, its Python packages, units and rules.

    It installs without a network. The same file serves the first installation, updates over SSH, updates from a file
    on the camera, and the releases of the fleet. Wheels come from where pip of this machine looks for them.
    SOURCE_DATE_EPOCH sets the time in it; the same sources, wheels and time make the same bytes.

    Examples:
      meetingctl builder bundle
      meetingctl builder bundle --release-version 1.4.0 --arch armhf --out /srv/packages
      meetingctl builder bundle --arch amd64 --python 3.11 --require-package i2c-tools --reboot --dry-run
    """
    from meetingctl.remote.bundle import Platform, build_bundle, find_sources

    run = of(ctx)
    epoch = run.env.get("SOURCE_DATE_EPOCH", "")
    if epoch and not epoch.isdecimal():
        run.refuse(f"SOURCE_DATE_EPOCH is not seconds: {epoch[:20]!r}", hint="unset SOURCE_DATE_EPOCH")
    recipe = _recipe(version, Platform(python, arch.value), epoch, packages, units, reboot, allow_reapply)
    sources = find_sources(wheel)
    if dry_run:
        run.out.record(_plan(recipe, sources.describe(), out))
        return
    options = [f"--find-links={Path(link).resolve()}" for link in links] + (["--no-index"] if no_index else [])
    facts = build_bundle(recipe, sources, out, env=run.env, pip_options=options, key=sign, tell=run.out.note)
    run.out.record(facts)
    run.out.note(f"next: {run.line('fleet', 'publish', facts['file'], '--type', 'TYPE', '--distribution', 'NAME')}")


def _recipe(
    version: str,
    platform: Platform,
    epoch: str,
    packages: list[str],
    units: list[str],
    reboot: bool,
    allow_reapply: bool,
) -> Recipe:
    from meetingctl import __version__
    from meetingctl.remote.bundle import RESTARTED_UNITS, Recipe

    return Recipe(
        platform,
        version or __version__,
        int(epoch) if epoch else int(time.time()),
        tuple(dict.fromkeys(packages)),
        tuple(dict.fromkeys(unit.removesuffix(".service") for unit in units)) or RESTARTED_UNITS,
        reboot,
        allow_reapply,
    )


def _plan(recipe: Recipe, program: str, out: Path) -> dict[str, object]:
    return {
        "file": str(out / recipe.file_name),
        "version": recipe.version,
        "python": recipe.platform.python,
        "architecture": recipe.platform.architecture,
        "program": program,
        "required_packages": list(recipe.required_packages),
        "restart_services": list(recipe.restart_services),
        "requires_reboot": recipe.requires_reboot,
        "allow_reapply": recipe.allow_reapply,
        "dry_run": True,
    }

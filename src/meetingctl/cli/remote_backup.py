"""`meetingctl remote backup` and `remote restore`: the configuration of devices, kept here and put back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meetingctl.cli.invocation import Invocation
from meetingctl.cli.remote_device import Device, on_device
from meetingctl.cli.remote_devices import Devices, on_devices
from meetingctl.cli.remote_many import route_json
from meetingctl.cli.signals import run_async
from meetingctl.core.errors import ConfigError, NotFound

if TYPE_CHECKING:
    from meetingctl.core.device_backup import Backup
    from meetingctl.core.secret import Secret
    from meetingctl.core.target import Target
    from meetingctl.remote.access import Access
    from meetingctl.remote.fanout import Done, Report
    from meetingctl.remote.visit import Visit
    from meetingctl.remote.ways import Via

PassphraseFile = Annotated[
    Path | None, typer.Option("--passphrase-file", metavar="FILE", help="seal the archive with what this file holds")
]


@on_devices(deadline="15m")
def back_up_devices(
    ctx: typer.Context,
    devices: Devices,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="each device gets a folder of its own below it")
    ] = Path(),
    include_logs: Annotated[bool, typer.Option("--include-logs", help="the logs too")] = False,
    passphrase_file: PassphraseFile = None,
) -> int:
    """Fetch the configuration of devices as archives that `remote restore` and the web page of a device read.

    An archive holds passwords and tokens: only you may read it; --passphrase-file seals it as well. Nothing is
    needed on the device but Python, and nothing is changed there.

    Examples:
      meetingctl remote backup demo-cam
      meetingctl remote backup --all --out ./backups --passphrase-file ./phrase
    """
    passphrase = _read_passphrase(passphrase_file)
    chosen = devices.choose()

    async def work(visit: Visit) -> Done:
        from meetingctl.remote.backup import fetch_backup
        from meetingctl.remote.fanout import Done

        folder = out / re.sub(r"[^A-Za-z0-9.-]+", "_", str(visit.target)).strip("_.")
        fetched = await fetch_backup(visit, folder, include_logs=include_logs, passphrase=passphrase)
        facts = {key: fetched.manifest[key] for key in ("version", "created_at", "include_logs")}
        place = {"file": str(fetched.path), "size_bytes": fetched.size_bytes, "sealed": passphrase is not None}
        return Done(details={**place, **facts, "files": len(fetched.manifest["files"])})

    def show(reports: Sequence[Report]) -> None:
        rows = [{"target": report.target, **report.details} for report in reports if report.details]
        if rows:
            devices.run.out.rows(rows, ("target", "file", "version", "files", "size_bytes"), empty="")

    return chosen.visit(work, show)


@on_device
def restore_device(
    ctx: typer.Context,
    device: Device,
    target: Annotated[str, typer.Argument(metavar="TARGET", help="one device")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="what `remote backup` wrote")],
    passphrase_file: PassphraseFile = None,
    no_reboot: Annotated[bool, typer.Option("--no-reboot", help="leave the device running as it is")] = False,
    within: Annotated[str, typer.Option("--within", metavar="DURATION", help="how long to wait for the device")] = "5m",
    force: Annotated[bool, typer.Option("--force", help="also a configuration with faults")] = False,
) -> None:
    """Put the configuration of a backup onto a device, restart it, and wait until it is back.

    The archive is verified and its configuration checked first. The folder is replaced in one step, and the former one
    stays beside it as /etc/rpi-cam.backup_restore_TIME. Logs of an archive stay where they are. A device that is as
    the backup says is left alone.

    Examples:
      meetingctl remote restore demo-cam ./demo-cam/rpi-cam-backup_20260117_143025.tar.gz --dry-run
      meetingctl remote restore demo-cam ./backup.tar.gz --no-reboot --yes
    """
    from meetingctl.core.duration import parse_duration_s
    from meetingctl.core.target import parse_target

    run = device.run
    backup = _open(file, _read_passphrase(passphrase_file))
    _check_config(run, file, backup, force=force)
    within_s = parse_duration_s(within)
    place = parse_target(target)
    with device.open(place) as access:

        async def plan(visit: Visit) -> dict[str, Any]:
            from meetingctl.remote.backup import look, plan_restore

            steps = plan_restore(backup, await look(visit, backup), reboot=not no_reboot)
            return {"steps": steps, "route": route_json(visit.route)}

        planned = run_async(access.visit(place, plan, via=device.via))
        steps = planned["steps"]
        facts = {"target": str(place), "file": str(file), "version": backup.version, "route": planned["route"]}
        if not steps or device.dry_run:
            _show(run, {**facts, "kept": None, "boot_id_after": None}, steps, dry_run=device.dry_run, changed=False)
            return
        run.confirm(f"replace the configuration of {place} by that of {file.name}?")
        done = run_async(_restore(access, place, backup, device.via, None if no_reboot else within_s))
    _show(run, {**facts, **done}, steps, dry_run=False, changed=True)


async def _restore(access: Access, place: Target, backup: Backup, via: Via, within_s: float | None) -> dict[str, Any]:
    from meetingctl.remote.backup import put_back
    from meetingctl.remote.reboot import begin_power_change, read_boot_id, wait_for_boot

    async def change(visit: Visit) -> tuple[str | None, str]:
        kept = await put_back(visit, backup)
        return kept, "" if within_s is None else await begin_power_change(visit, "reboot")

    kept, before = await access.visit(place, change, via=via)
    if within_s is None:
        return {"kept": kept, "boot_id_after": None}

    async def ask() -> str:
        return await access.visit(place, read_boot_id, via=via)

    back = await wait_for_boot(before, ask, within_s=within_s, target=str(place))
    return {"kept": kept, "boot_id_after": back.boot_id_after}


def _open(file: Path, passphrase: Secret | None) -> Backup:
    from meetingctl.remote.backup import open_backup

    try:
        return open_backup(file, passphrase)
    except FileNotFoundError:
        raise NotFound(f"{file}: no such file", hint=f"ls {file.parent}") from None


def _read_passphrase(file: Path | None) -> Secret | None:
    from meetingctl.core.paths import read_small_text
    from meetingctl.core.secret import Secret
    from meetingctl.remote.sealed import check_passphrase

    if file is None:
        return None
    try:
        return check_passphrase(Secret(read_small_text(file).strip("\r\n")))
    except FileNotFoundError:
        raise NotFound(f"{file}: no such file", hint=f"ls {file.parent}") from None


def _check_config(run: Invocation, file: Path, backup: Backup, *, force: bool) -> None:
    """Check every file of a backup as the device would read it. Raises: ConfigError."""
    from meetingctl.core.layout import CONFIG_ENV
    from meetingctl.device.config import load_config
    from meetingctl.device.config.envfile import parse_env
    from meetingctl.device.config.jsonfiles import find_faults, is_json_file

    faults = [f"config.env: {fault.text()}" for fault in load_config(parse_env(backup.text(CONFIG_ENV) or "")).faults()]
    for item in backup.config:
        if is_json_file(item.name):
            faults += find_faults(item.name, backup.text(f"/{item.name}") or "")
    if faults and not force:
        more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
        raise ConfigError(f"{file.name}: {faults[0]}{more}", hint="restore it as it is with --force")
    for fault in faults:
        run.out.warn(fault)


def _show(run: Invocation, facts: dict[str, Any], steps: Sequence[Any], *, dry_run: bool, changed: bool) -> None:
    from meetingctl.core.plan import as_rows

    rows = as_rows(steps)
    if run.out.is_json:
        run.out.value({**facts, "steps": rows, "changed": changed, "dry_run": dry_run})
        return
    run.out.rows(rows, ("do", "on", "why"), empty="the device is as the backup says")
    if facts["kept"]:
        run.out.note(f"the former configuration is {facts['kept']}")

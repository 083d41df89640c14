"""`doctor`: check this installation, its settings and its way to the server, and say what to do about each fault."""

from __future__ import annotations

import importlib.util
import platform
import sqlite3
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from meetingctl import __version__
from meetingctl.cli.invocation import Invocation, of
from meetingctl.cli.tree import verb
from meetingctl.core.errors import AuthError, MeetingctlError

PYTHON_FLOOR = (3, 11)
# Older versions can, rarely, damage a database when two connections write and checkpoint together.
SQLITE_SOUND = (3, 51, 3)
CLOCK_SKEW_LIMIT_S = 5.0

_HEAVY_MODULES = ("fastapi", "sqlalchemy", "asyncssh", "typer")
_OPTIONAL_MODULES = {"psycopg": "PostgreSQL", "uvloop": "the fast event loop"}
_PROGRAMS = {"ssh": "`remote ssh`", "scp": "copies by hand"}


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found; `hint` is there when something is to be done. `absent` parts are optional."""

    check: str
    status: Literal["ok", "absent", "warning", "failed"]
    detail: str
    hint: str | None = None


def check_python(version: tuple[int, ...]) -> Finding:
    """Compare the interpreter with the floor."""
    text = ".".join(map(str, version[:3]))
    if version[:2] < PYTHON_FLOOR:
        return Finding("python", "failed", f"{text}, too old", "install Python 3.11 or newer")
    return Finding("python", "ok", text)


def check_sqlite(version: tuple[int, ...]) -> Finding:
    """Name the versions with the WAL-reset fault (fixed in 3.51.3), which a single writing process does not meet."""
    text = ".".join(map(str, version))
    if version < SQLITE_SOUND:
        text += "; before 3.51.3 a rare fault when several processes write: the server is the only one"
    return Finding("sqlite", "ok", text)


def check_bytecode() -> Finding:
    """Say whether the big libraries are compiled; without bytecode each start takes over a second more."""
    missing = []
    for name in _HEAVY_MODULES:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.cached is not None and not Path(spec.cached).exists():
            missing.append(name)
    if missing:
        hint = f"{sys.executable} -m compileall -q {sys.prefix}"
        return Finding("bytecode", "warning", f"not compiled: {', '.join(missing)}", hint)
    return Finding("bytecode", "ok", "compiled")


def check_optional_parts() -> Iterator[Finding]:
    """List optional libraries and programs; a missing one is no fault."""
    import shutil

    for name, use in _OPTIONAL_MODULES.items():
        yield _optional(name, importlib.util.find_spec(name) is not None, use)
    for name, use in _PROGRAMS.items():
        yield _optional(name, shutil.which(name) is not None, use)


def _optional(name: str, is_there: bool, use: str) -> Finding:
    return Finding(name, "ok" if is_there else "absent", f"{'for' if is_there else 'optional, for'} {use}")


def check_settings(run: Invocation) -> Finding:
    """Read all layers."""
    try:
        changed = sorted(key for key, origin in run.resolved.origins.items() if origin != "default")
    except MeetingctlError as error:
        return Finding("settings", "failed", error.message, error.hint)
    return Finding("settings", "ok", f"valid; set: {', '.join(changed) or 'none'}")


def check_credentials(path: Path) -> Finding:
    """Look at the permissions of the credentials file."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return Finding("credentials", "ok", f"none stored in {path}")
    except OSError as error:
        return Finding("credentials", "failed", f"{path}: {error.strerror}", "meetingctl config path")
    if mode & 0o077:
        return Finding("credentials", "failed", f"{path} has mode {mode:04o}", f"chmod 600 {path}")
    return Finding("credentials", "ok", f"{path} is readable by its owner only")


def check_server(run: Invocation) -> Iterator[Finding]:
    """Ask the server for its health, compare clocks and versions, and show who we are."""
    with run.open_client() as client:
        try:
            health = client.health()
        except MeetingctlError as error:
            # Nobody has named a server yet: that none runs here is no fault.
            is_fresh = run.resolved.origins["server_url"] == "default"
            detail = f"none is named, and on this machine none answers: {error.message}" if is_fresh else error.message
            yield Finding("server", "absent" if is_fresh else "failed", detail, run.advise(error))
            return
        facts = health.facts
        state = "ok" if facts.get("status") in {"ok", "healthy"} else "warning"
        yield Finding(
            "server",
            "ok" if state == "ok" else "warning",
            f"{client.base_url}: {facts.get('status')}, version {facts.get('version')}, mode {facts.get('mode')}",
            None if state == "ok" else "look at the log of the server",
        )
        if facts.get("mode") == "compat":
            hint = "meetingctl tunnel open --help"
            yield Finding("tunnels", "ok", "mode compat: whoever reaches an open tunnel may use it", hint)
        yield check_clock(health.clock_skew_s)
        try:
            identity = client.whoami()
        except AuthError as error:
            yield Finding("identity", "warning", error.message, "meetingctl login")
        except MeetingctlError as error:
            yield Finding("identity", "failed", error.message, error.hint)
        else:
            yield Finding("identity", "ok", f"{identity.get('principal')}, role {identity.get('role')}")


def check_camera(run: Invocation) -> Iterator[Finding]:
    """Where this machine is a camera, look at the services that others use of it."""
    from meetingctl.cli.device_system import open_system
    from meetingctl.core.layout import CONFIG_DIR

    try:
        system = open_system(run)
        if not system.path(CONFIG_DIR).is_dir():
            return
    except MeetingctlError as error:
        yield Finding("camera", "absent", error.message, error.hint)
        return
    if importlib.util.find_spec("lxml") is None:
        yield Finding("onvif", "failed", "the Python library lxml is missing", "apt install python3-lxml")
        return
    from meetingctl.device.onvif.health import check_onvif

    yield from (Finding(*health) for health in check_onvif(system))


def check_clock(skew_s: float | None) -> Finding:
    """Judge how far the server's clock is from ours."""
    if skew_s is None:
        return Finding("clock", "ok", "the server tells no time")
    if abs(skew_s) > CLOCK_SKEW_LIMIT_S:
        return Finding("clock", "warning", f"the server's clock is {skew_s:+g} s from ours", "timedatectl status")
    return Finding("clock", "ok", f"within {CLOCK_SKEW_LIMIT_S:g} s of the server's")


def collect_findings(run: Invocation) -> list[Finding]:
    """Run all checks in order; those that need settings are left out when the settings are broken."""
    findings = [
        check_python(tuple(sys.version_info[:3])),
        check_sqlite(sqlite3.sqlite_version_info),
        check_bytecode(),
        check_credentials(run.places.credentials_file),
        check_settings(run),
    ]
    if findings[-1].status == "ok":
        findings += check_server(run)
    findings += check_camera(run)
    findings += check_optional_parts()
    return [replace(finding, hint=run.complete(finding.hint)) if finding.hint else finding for finding in findings]


def write_bundle(path: Path, run: Invocation, findings: list[Finding]) -> None:
    """Write one archive for a report: findings, versions and settings with every secret hidden."""
    import io
    import json
    import tarfile

    from meetingctl.cli.config import describe_settings

    texts = {
        "findings.json": [asdict(finding) for finding in findings],
        "versions.json": {"meetingctl": __version__, "python": sys.version, "platform": platform.platform()},
        "settings.json": _settings_or_error(run, describe_settings),
    }
    with tarfile.open(path, "w:gz") as archive:
        for name, value in texts.items():
            content = json.dumps(value, indent=2, default=str).encode()
            info = tarfile.TarInfo(f"meetingctl-doctor/{name}")
            info.size, info.mode = len(content), 0o600
            archive.addfile(info, io.BytesIO(content))
    path.chmod(0o600)


def _settings_or_error(run: Invocation, describe: Callable[[Invocation], list[dict[str, Any]]]) -> Any:
    try:
        return describe(run)
    except MeetingctlError as error:
        return {"error": error.message}


@verb("doctor")
def doctor(
    ctx: typer.Context,
    bundle: Annotated[
        str | None, typer.Option("--bundle", metavar="FILE", help="also write a .tar.gz to send with a report")
    ] = None,
) -> int:
    """Check this installation and its connection to the server.

    Exit code 1 when a check failed; warnings and absent parts do not count. The bundle holds no secrets.

    Examples:
      meetingctl doctor
      meetingctl doctor --json
      meetingctl doctor --bundle report.tar.gz
    """
    run = of(ctx)
    findings = collect_findings(run)
    out = run.out if findings[4].status == "ok" else run.error_out
    out.rows([asdict(finding) for finding in findings], ("check", "status", "detail"), empty="no checks")
    for finding in findings:
        if finding.hint:
            out.note(f"{finding.check}: {finding.hint}")
    if bundle is not None:
        write_bundle(Path(bundle), run, findings)
        out.note(f"wrote {bundle}")
    return 1 if any(finding.status == "failed" for finding in findings) else 0

"""Collect wheels: that of this program, and those it needs on the device, with pip as this machine is set up for it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from meetingctl.core.errors import MeetingctlError
from meetingctl.remote.bundle.closure import Closure, Wheel, find_closure, read_wheel
from meetingctl.remote.bundle.platform import Platform

PIP_TIMEOUT_S = 900.0
_MOST_ROUNDS = 8


class Pip:
    """pip of this Python. `options` go to each download: where wheels are looked for."""

    def __init__(self, env: Mapping[str, str], options: Sequence[str] = ()) -> None:
        self._env = dict(env)
        self._options = tuple(options)

    def build(self, source: Path, folder: Path) -> Path:
        """Build the wheel of a source checkout. Raises: MeetingctlError."""
        self._run("wheel", "--no-deps", "--wheel-dir", str(folder), *self._options, str(source))
        return next(folder.glob("*.whl"))

    def download(self, folder: Path, platform: Platform, wanted: Sequence[str], *, deps: bool = True) -> None:
        """Fetch wheels for another device. Raises: MeetingctlError."""
        more = () if deps else ("--no-deps",)
        hint = f"pip config set global.extra-index-url URL   (of an index with wheels for {platform.architecture})"
        words = ("download", "--dest", str(folder), *more, *platform.pip_options(), *self._options, *wanted)
        self._run(*words, hint=hint)

    def _run(self, *words: str, hint: str = "pip config list") -> None:
        argv = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *words]
        try:
            ran = subprocess.run(
                argv,
                env=self._env,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=PIP_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise MeetingctlError(f"pip {words[0]}: no end after {PIP_TIMEOUT_S:g} s", hint="pip config list") from None
        if ran.returncode:
            lines = [line for line in ran.stderr.splitlines() if line.startswith("ERROR")] or ran.stderr.splitlines()
            detail = " ".join(" ".join(lines[-3:]).split())[-400:]
            raise MeetingctlError(f"pip {words[0]} failed: {detail}", hint=hint)


def collect_wheels(
    pip: Pip, program: Path, platform: Platform, folder: Path, tell: Callable[[str], None]
) -> tuple[list[Wheel], Closure]:
    """Fetch all that the program needs on the device into `folder`, where the program's wheel is too.

    Returns the needed wheels; others that pip brought are removed. Raises: MeetingctlError.
    """
    tell(f"fetching wheels for Python {platform.python} on {platform.architecture}")
    pip.download(folder, platform, [f"{program}[device]"])
    closure = Closure()
    for _ in range(_MOST_ROUNDS):
        wheels = {wheel.project: wheel for wheel in map(read_wheel, sorted(folder.glob("*.whl")))}
        closure = find_closure(wheels, ["meetingctl[device]"], platform.markers())
        if not closure.missing:
            break
        tell(f"fetching {', '.join(closure.missing)}, which only that device needs")
        pip.download(folder, platform, closure.missing, deps=False)
    if closure.missing:
        raise MeetingctlError(f"no wheel of {', '.join(closure.missing)} for that device", hint="pip config list")
    needed = []
    for wheel in wheels.values():
        if wheel.project in closure.extras:
            needed.append(wheel)
        else:
            wheel.path.unlink()
    return needed, closure


def fetch_pip(pip: Pip, platform: Platform, folder: Path) -> None:
    """Add pip itself: the device then needs no package of the distribution for it. Raises: MeetingctlError."""
    pip.download(folder, platform, ["pip"], deps=False)

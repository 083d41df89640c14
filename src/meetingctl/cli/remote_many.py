"""What commands on several devices share: their options, the way to the devices, progress, and the summary."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meetingctl.cli.invocation import Invocation
from meetingctl.cli.signals import run_async
from meetingctl.core.errors import UsageError

if TYPE_CHECKING:
    from meetingctl.core.secret import Secret
    from meetingctl.core.target import Target
    from meetingctl.remote.access import Access
    from meetingctl.remote.fanout import Act, Limits, Report
    from meetingctl.remote.ways import Route

LINE_CAP_BYTES = 64 * 1024
SHOWN_FAILURES = 10


class Way(StrEnum):
    """Which way to take; the names are the words of `--via`."""

    auto = "auto"
    direct = "direct"
    tunnel = "tunnel"


Targets = Annotated[
    list[str] | None,
    typer.Argument(metavar="TARGET...", help="device key, user@host[:port], tag:NAME, or - for standard input"),
]
AllOption = Annotated[bool, typer.Option("--all", help="every device of the fleet")]
UserOption = Annotated[str | None, typer.Option("--user", metavar="NAME", help="user on the device")]
IdentityOption = Annotated[
    Path | None, typer.Option("--identity", "-i", metavar="FILE", help="private key; default: the agent's and yours")
]
AskPassword = Annotated[bool, typer.Option("--ask-password", help="ask for the user's password")]
PasswordFile = Annotated[
    Path | None, typer.Option("--password-file", metavar="FILE", help="read the user's password from a file")
]
ViaOption = Annotated[Way, typer.Option("--via", help="take only this way to the device")]
Parallel = Annotated[int, typer.Option("--parallel", min=1, max=1000, help="how many devices at once")]
Limit = Annotated[int | None, typer.Option("--limit", metavar="N", min=1, help="only the first N targets")]
FailFast = Annotated[bool, typer.Option("--fail-fast", help="begin no other target after a failure")]
MaxFail = Annotated[
    float | None,
    typer.Option("--max-fail", metavar="PERCENT", min=0, max=100, help="begin no other target above this share"),
]
RetryFrom = Annotated[
    Path | None, typer.Option("--retry-from", metavar="FILE", help="only what did not go well in this report")
]
Retries = Annotated[int, typer.Option("--retries", min=0, max=20, help="more tries for a device that is not reached")]
Deadline = Annotated[
    str, typer.Option("--deadline", metavar="DURATION", help="for one device, tries included; 0 for none")
]
Idle = Annotated[
    str, typer.Option("--idle", metavar="DURATION", help="give a device up that says nothing for so long; 0 for never")
]


def make_limits(
    *,
    parallel: int,
    fail_fast: bool,
    max_fail: float | None,
    retries: int,
    deadline: str,
    idle: str,
) -> Limits:
    """Gather the options. Raises: InvalidInput for a duration that is none."""
    from meetingctl.core.duration import parse_duration_s
    from meetingctl.remote.fanout import Limits

    return Limits(
        parallel=parallel,
        total_s=parse_duration_s(deadline),
        idle_s=parse_duration_s(idle),
        retries=retries,
        fail_fast=fail_fast,
        max_fail_percent=max_fail,
    )


def read_password(run: Invocation, ask: bool, file: Path | None) -> Secret | None:
    """Return the password, from the prompt or a file, else the setting's; None without any."""
    from meetingctl.core.paths import read_small_text
    from meetingctl.core.secret import Secret

    if file is not None:
        return Secret(next(iter(read_small_text(file).splitlines()), ""))
    if ask:
        return run.read_secret("Password", flag="--password-file FILE")
    return run.settings.ssh_password or None


def known_hosts(run: Invocation) -> Path:
    """Where the pinned host keys are."""
    return run.places.user_file.parent / "known_hosts"


@contextmanager
def open_access(run: Invocation, targets: Sequence[Target], password: Secret | None) -> Iterator[Access]:
    """Open what SSH to these targets needs; addresses need no fleet server."""
    from meetingctl.core.target import AddressTarget
    from meetingctl.remote.access import Access
    from meetingctl.remote.hosts import HostKeys
    from meetingctl.remote.route import RouteFinder
    from meetingctl.remote.session import Login

    settings = run.settings
    with ExitStack() as stack:
        finder = None
        if not all(isinstance(target, AddressTarget) for target in targets):
            client = stack.enter_context(run.open_client())
            finder = RouteFinder(
                client, settings.ssh_direct_s, settings.ssh_connect_s, run.out.detail, run.seen_devices
            )
        login = Login(settings.ssh_user, settings.ssh_identity, password)
        yield Access(finder, HostKeys(known_hosts(run)), login, settings.ssh_connect_s, run.out.note, run.out.detail)


def read_targets(run: Invocation, texts: Sequence[str] | None, *, everything: bool) -> list[Target]:
    """Read the TARGET arguments, selectors unexpanded. Raises: UsageError without one, InvalidInput."""
    from meetingctl.remote.selection import parse_targets

    words = [*(texts or ()), *(["--all"] if everything else [])]
    if not words:
        raise UsageError("missing TARGET", hint="name a device key, user@host, tag:NAME, or --all")
    targets = parse_targets(words, lambda: sys.stdin)
    if not targets:
        raise UsageError("missing TARGET: standard input names none", hint="write one target a line")
    return targets


def choose_targets(
    run: Invocation, targets: Sequence[Target], *, limit: int | None, retry_from: Path | None
) -> list[Target]:
    """Expand selectors, keep what a report says did not go well, cut to the limit. Raises: UsageError for none."""
    from meetingctl.core.target import AddressTarget, DeviceTarget
    from meetingctl.remote.seen import SeenDevices
    from meetingctl.remote.selection import expand_targets

    if all(isinstance(target, DeviceTarget | AddressTarget) for target in targets):
        chosen = expand_targets(targets, None)
    else:
        with run.open_client() as client:
            run.seen_devices = SeenDevices()
            chosen = expand_targets(targets, client, run.seen_devices)
    if retry_from is not None:
        again = read_failed(retry_from)
        chosen = [target for target in chosen if str(target) in again]
        if not chosen:
            raise UsageError(f"{retry_from}: none of these targets failed", hint="leave out --retry-from")
    return chosen[:limit]


def read_failed(file: Path) -> frozenset[str]:
    """Return the targets of a report that did not end well. Raises: InvalidInput for a file that is no report."""
    from meetingctl.core.errors import InvalidInput
    from meetingctl.core.paths import read_small_text

    failed = set()
    text = read_small_text(file, limit_bytes=64 * 1024 * 1024)
    try:
        parsed = json.loads(text)
        rows = parsed if isinstance(parsed, list) else [parsed]
    except ValueError:
        try:
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        except ValueError:
            raise InvalidInput(f"{file}: not a report of an earlier run") from None
    for row in rows:
        if not isinstance(row, dict) or "target" not in row or "result" not in row:
            raise InvalidInput(f"{file}: not a report of an earlier run")
        if row["result"] != "ok":
            failed.add(str(row["target"]))
    return frozenset(failed)


def run_many(
    run: Invocation,
    targets: Sequence[Target],
    act: Act,
    limits: Limits,
    *,
    again: str,
    show: Callable[[Sequence[Report]], object] = lambda reports: None,
) -> int:
    """Act on all targets; show the reports; return the exit code.

    In JSON each target is one object. Otherwise a summary that fits a screen goes to stderr, and what did not go well
    stands in a report file, named with the command that tries these targets again. `again` is the rest of that command.
    `show` writes what the reports hold, in a format for people.
    """
    from meetingctl.remote.fanout import Result, fan_out, fold_exit_code

    reports: list[Report] = []
    progress = _Progress(run, len(targets))

    def tell(report: Report) -> None:
        reports.append(report)
        progress.tell(report)
        if run.out.style == "ndjson":
            run.out.value(report.as_json())

    try:
        ordered = run_async(fan_out(targets, act, limits, tell))
    except KeyboardInterrupt:
        _show(run, reports, again)
        raise
    if run.out.style == "json":
        run.out.value([report.as_json() for report in ordered])
    elif not run.is_json and any(report.details for report in ordered):
        show(ordered)
    _show(run, ordered, again)
    if any(report.result is not Result.ok for report in ordered):
        return fold_exit_code(ordered)
    return 0


def retry_line(run: Invocation) -> str:
    """Write the command that tries the failed targets again; braces of the user's words are kept."""
    import shlex

    words = list(run.argv)
    end = words.index("--") if "--" in words else len(words)
    head, rest = words[:end], words[end:]
    kept: list[str] = []
    skip = False
    for word in head:
        if skip or word.startswith("--retry-from="):
            skip = False
        elif word == "--retry-from":
            skip = True
        else:
            kept.append(word)
    quoted = shlex.join(kept).replace("{", "{{").replace("}", "}}")
    return f"{quoted} --retry-from {{report}} {shlex.join(rest).replace('{', '{{').replace('}', '}}')}".rstrip()


def route_json(route: Route) -> dict[str, object]:
    """Return how a device was reached."""
    return {"way": route.way, "host": route.host, "port": route.port}


class _Progress:
    """One line on a terminal that is rewritten; nothing elsewhere, because output carries its own prefix."""

    def __init__(self, run: Invocation, total: int) -> None:
        self._run = run
        self._total = total
        self._counts: Counter[str] = Counter()

    def tell(self, report: Report) -> None:
        self._counts[report.result.value] += 1
        if report.error is not None and report.exit_code is None:
            self._run.out.note(f"{report.target}: {report.result.value}: {report.error.message}")


def _show(run: Invocation, reports: Sequence[Report], again: str) -> None:
    from meetingctl.remote.fanout import Result

    counts = Counter(report.result for report in reports)
    run.out.note(", ".join(f"{counts[result]} {result.value}" for result in Result if counts[result]))
    bad = [report for report in reports if report.result is not Result.ok]
    if not bad:
        return
    shown = [report for report in bad if report.exit_code is not None][:SHOWN_FAILURES]
    for report in shown:
        run.out.note(f"  {report.target}  {report.result.value}  {report.error.message if report.error else ''}")
    if path := _write_report(run, reports):
        run.out.note(f"report: {path}")
        run.out.note(f"again:  meetingctl {again.format(report=path)}")


def _write_report(run: Invocation, reports: Sequence[Report]) -> Path | None:
    """Keep the outcomes (without output) for `--retry-from`; None where the folder cannot be written."""
    from meetingctl.core.paths import write_atomic

    folder = run.places.cache_dir / "runs"
    path = folder / f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{os.getpid()}.ndjson"
    lines = []
    for report in reports:
        row = report.as_json()
        lines.append(json.dumps({key: row[key] for key in ("target", "result", "exit_code", "error", "attempts")}))
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomic(path, ("\n".join(lines) + "\n").encode(), mode=0o600)
    except OSError as exc:
        run.out.warn(f"no report of this run: cannot write {path}: {exc.strerror}")
        return None
    return path


class PrefixedLines:
    """Writes whole lines of one target with its name before each, so that the lines of many can be told apart.

    Safe from several threads that share `lock`. A line longer than the cap is broken.
    """

    def __init__(self, stream: Any, prefix: str, lock: threading.Lock, *, clean: Callable[[str], str]) -> None:
        self._stream = stream
        self._prefix = prefix
        self._lock = lock
        self._clean = clean
        self._partial = b""

    def write(self, chunk: bytes) -> None:
        *lines, self._partial = (self._partial + chunk).split(b"\n")
        while len(self._partial) > LINE_CAP_BYTES:
            lines.append(self._partial[:LINE_CAP_BYTES])
            self._partial = self._partial[LINE_CAP_BYTES:]
        if lines:
            self._emit(lines)

    def close(self) -> None:
        """Write a last line that has no end."""
        if self._partial:
            self._emit([self._partial])
            self._partial = b""

    def _emit(self, lines: Sequence[bytes]) -> None:
        text = "".join(f"{self._prefix}{self._clean(line.decode('utf-8', 'replace'))}\n" for line in lines)
        with self._lock:
            self._stream.write(text)
            self._stream.flush()

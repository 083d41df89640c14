"""One login on a device, used for several steps: commands with or without root, and what a failure means."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import asyncssh

from meetingctl.core.errors import AuthError, MeetingctlError
from meetingctl.core.target import Target
from meetingctl.remote.command import CAPTURE_BYTES, CappedOutput, Outcome, Write, run_command, wrap_sudo
from meetingctl.remote.sections import after_mark, marked_line, new_mark
from meetingctl.remote.session import Login
from meetingctl.remote.ways import Route

_SHOWN_ERROR = 300
# What a device may write beyond what is kept of an answer; more is no answer, and is not waited for.
_FLOOD_BYTES = 64 * 1024 * 1024


_MISSING_PROGRAM = re.compile(r"\b(sudo|python3): (?:command )?not found$")


class SudoRefused(AuthError):
    """The user does not become root on the device; another try would only count as another wrong password."""


class Privilege(Enum):
    """Who runs a command: the user, root where sudo allows it, or root and nobody else."""

    none = "none"
    wanted = "wanted"
    needed = "needed"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command wrote, and its exit code; `is_cut` when it wrote more than was kept."""

    exit_code: int
    stdout: str
    stderr: str
    is_cut: bool = False


class _Flood(OSError):
    """Ends a command whose output nobody wants any more, as a closed pipe does."""


class _Dam:
    """Counts what passes to both outputs of one command, and breaks it off above the limit."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._passed_bytes = 0

    def before(self, write: Write) -> Write:
        def count_and_write(chunk: bytes) -> None:
            self._passed_bytes += len(chunk)
            if self._passed_bytes > self.limit_bytes:
                raise _Flood
            write(chunk)

        return count_and_write


@dataclass(frozen=True, slots=True)
class Visit:
    """A connection to one device that is logged in; `heard` is told of each output."""

    target: Target
    route: Route
    login: Login
    connection: asyncssh.SSHClientConnection
    heard: Callable[[], object]

    async def stream(
        self, line: str, *, stdout: Write, stderr: Write, privilege: Privilege = Privilege.none, mark: str = ""
    ) -> Outcome:
        """Run a line of shell and hand its output on, after a line with the mark. Raises: what `run_command` raises."""
        stdin = b""
        if privilege is not Privilege.none:
            password = self.login.password
            is_optional = privilege is Privilege.wanted
            line = wrap_sudo(line, has_password=bool(password), is_optional=is_optional)
            stdin = f"{password.reveal()}\n".encode() if password else b""
        if mark:
            line = marked_line(line, mark)
        return await run_command(self.connection, line, stdout=stdout, stderr=stderr, stdin=stdin)

    async def answer(
        self, line: str, *, privilege: Privilege = Privilege.none, cap_bytes: int = CAPTURE_BYTES
    ) -> Answer:
        """Run a line of shell and return what it wrote, at most `cap_bytes` of each stream.

        What the start files of the login shell print before it is left out. Raises: SudoRefused for a password that is
        given and not taken, so that it is tried once; MeetingctlError for a device that does not stop writing.
        """
        mark = new_mark()
        out, err = CappedOutput(cap_bytes), CappedOutput()
        dam = _Dam(cap_bytes + _FLOOD_BYTES)
        try:
            outcome = await self.stream(
                line,
                stdout=self._hearing(dam.before(out.write)),
                stderr=self._hearing(dam.before(err.write)),
                privilege=privilege,
                mark=mark,
            )
        except _Flood:
            raise MeetingctlError(f"{self.target}: wrote over {dam.limit_bytes} bytes as an answer") from None
        answer = Answer(outcome.exit_code, after_mark(out.text, mark), err.text, out.is_cut)
        if privilege is not Privilege.none and self.login.password and answer.exit_code:
            failure = explain_failure(str(self.target), self.login.user, answer)
            if isinstance(failure, SudoRefused):
                raise failure
        return answer

    async def ask(self, line: str, *, privilege: Privilege = Privilege.none, cap_bytes: int = CAPTURE_BYTES) -> str:
        """Run a line of shell that must go well, and return its output.

        Raises: AuthError when sudo refuses, MeetingctlError for another failure.
        """
        answer = await self.answer(line, privilege=privilege, cap_bytes=cap_bytes)
        if answer.exit_code:
            raise explain_failure(str(self.target), self.login.user, answer)
        return answer.stdout

    def _hearing(self, write: Write) -> Write:
        def write_and_tell(chunk: bytes) -> None:
            write(chunk)
            self.heard()

        return write_and_tell


def explain_failure(target: str, user: str, answer: Answer) -> MeetingctlError:
    """Say why a command failed: the last line that it wrote to standard error, or its exit code. Pure."""
    lines = [line.strip() for line in answer.stderr.splitlines() if line.strip()]
    # Of several the last says most: "no password was provided" comes before "1 incorrect password attempt". A host name
    # that does not resolve is a warning of sudo, after which the command runs.
    refusals = [line for line in lines if line.startswith("sudo:") and "unable to resolve host" not in line]
    if refusals:
        reason = refusals[-1].removeprefix("sudo:").strip()
        return SudoRefused(
            f"{target}: {user} may not become root: {reason[:_SHOWN_ERROR]}",
            hint="give the password with --ask-password, or log in as another user with --user NAME",
        )
    missing = _MISSING_PROGRAM.search(lines[-1]) if lines else None
    if missing and missing[1] == "sudo":
        return SudoRefused(f"{target}: {user} may not become root: sudo is not installed", hint="--user root")
    if missing:
        return MeetingctlError(f"{target}: {missing[1]} is not installed there", hint=f"apt install {missing[1]}")
    reason = lines[-1][:_SHOWN_ERROR] if lines else f"exit code {answer.exit_code}"
    return MeetingctlError(f"{target}: {reason}")

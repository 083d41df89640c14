"""One device over a fabric connection: questions, commands with root, small files."""

from __future__ import annotations

import io
import json
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import fabric
import paramiko
from invoke.exceptions import CommandTimedOut, ThreadException

from meetingctl.core.errors import MeetingctlError, TransportLost
from meetingctl.core.target import Target
from meetingctl.remote.command import wrap_sudo
from meetingctl.remote.sections import (
    after_mark,
    marked_line,
    new_mark,
    sections_line,
    sftp_line,
    split_sections,
)
from meetingctl.remote.session import Login
from meetingctl.remote.visit import Answer, Privilege, explain_failure
from meetingctl.remote.ways import Route

ANSWER_S = 60.0
SFTP_S = 30.0
_PRINTED_BYTES = 64 * 1024
_FAR_FOLDER = "/tmp/meetingctl."  # noqa: S108 - the beginning of a name that mktemp completes on the device


@dataclass(slots=True)
class Link:
    """A connection that is logged in. Any call may raise TransportLost; the link is of no use afterwards."""

    target: Target
    route: Route
    login: Login
    connection: fabric.Connection
    _sftp: paramiko.SFTPClient | None = field(default=None, repr=False)

    def answer(self, line: str, *, privilege: Privilege = Privilege.none, within_s: float = ANSWER_S) -> Answer:
        """Run a line of shell and return what it wrote. A line that takes longer counts as a lost link.

        What the start files of the login shell print before it is left out.
        """
        stdin = ""
        if privilege is not Privilege.none:
            password = self.login.password
            is_optional = privilege is Privilege.wanted
            line = wrap_sudo(line, has_password=bool(password), is_optional=is_optional)
            stdin = f"{password.reveal()}\n" if password else ""
        mark = new_mark()
        with self._translated():
            done = self.connection.run(
                marked_line(line, mark),
                hide=True,
                warn=True,
                pty=False,
                in_stream=io.StringIO(stdin),
                timeout=within_s,
                encoding="utf-8",
            )
        if done.exited < 0:
            raise TransportLost(f"{self.target}: the connection was lost before a command ended")
        return Answer(done.exited, after_mark(done.stdout, mark), done.stderr)

    def ask(self, line: str, *, privilege: Privilege = Privilege.none, within_s: float = ANSWER_S) -> str:
        """Run a line of shell that must go well. Raises: AuthError when sudo refuses, MeetingctlError."""
        answer = self.answer(line, privilege=privilege, within_s=within_s)
        if answer.exit_code:
            raise explain_failure(str(self.target), self.login.user, answer)
        return answer.stdout

    def ask_sections(
        self, commands: Mapping[str, str], *, privilege: Privilege, command_s: int = 10, within_s: float = ANSWER_S
    ) -> dict[str, str]:
        """Ask many things in one round trip. Raises: MeetingctlError where no shell answers."""
        mark = new_mark()
        text = self.ask(sections_line(commands, mark, command_s=command_s), privilege=privilege, within_s=within_s)
        sections = split_sections(text, mark)
        if not sections:
            raise MeetingctlError(f"{self.target}: no facts: the login shell printed {text.strip()[:80]!r}")
        return sections

    def sftp(self) -> paramiko.SFTPClient:
        """Return the SFTP session of this link, opened when it is first asked for."""
        if self._sftp is None:
            with self._translated():
                try:
                    self._sftp = self.connection.sftp()
                except paramiko.SFTPError:
                    # It read what the login shell prints as a packet.
                    self._sftp = self._open_marked_sftp()
                self._sftp.get_channel().settimeout(SFTP_S)
        return self._sftp

    def _open_marked_sftp(self) -> paramiko.SFTPClient:
        """Begin an SFTP session behind what the login shell prints. Raises: MeetingctlError."""
        mark = new_mark()
        channel = self.connection.transport.open_session()
        channel.settimeout(SFTP_S)
        channel.exec_command(sftp_line(mark))
        end, seen = f"{mark}\n".encode(), bytearray()
        while not seen.endswith(end):
            byte = channel.recv(1)
            if not byte or len(seen) >= _PRINTED_BYTES:
                channel.close()
                raise MeetingctlError(f"{self.target}: no SFTP", hint="apt install openssh-sftp-server")
            seen += byte
        return paramiko.SFTPClient(channel)

    def replace_file(
        self, path: str, text: str, *, expect: str | None, mode: int | None = None, owner: str | None = None
    ) -> None:
        """Replace a file in one step as root; `expect` is the SHA-256 of the content that the text was made from.

        Without mode and owner those of the old file stay.
        Raises: MeetingctlError when somebody else has changed it since.
        """
        request = {"action": "write", "path": path, "text": text, "expect": expect, "mode": mode, "owner": owner}
        folder = self.ask(f"umask 077; mktemp -d {_FAR_FOLDER}XXXXXXXXXX").strip()
        if not folder.startswith(_FAR_FOLDER):
            raise MeetingctlError(f"{self.target}: the login shell prints more than was asked for: {folder[:80]!r}")
        quoted = shlex.quote(folder)
        far = resources.files("meetingctl.remote").joinpath("far.py").read_bytes()
        self.put(f"{folder}/far.py", far)
        self.put(f"{folder}/request.json", json.dumps(request).encode())
        line = f"python3 -I {quoted}/far.py {quoted}/request.json; code=$?; rm -rf -- {quoted}; exit $code"
        answer = _read_answer(self.ask(line, privilege=Privilege.needed))
        if "error" in answer:
            raise MeetingctlError(f"{self.target}: {str(answer['error'])[:300]}")

    def put(self, path: str, content: bytes) -> None:
        """Write a small file over SFTP."""
        with self.translated(path), self.sftp().open(path, "wb") as file:
            file.write(content)

    def close(self) -> None:
        """Leave the device; what cannot be said over a lost link is not said."""
        if (transport := self.connection.transport) is not None:
            transport.close()
        with suppress(OSError, EOFError, paramiko.SSHException):
            self.connection.close()

    @contextmanager
    def translated(self, what: str) -> Iterator[None]:
        """Turn errors of SFTP into ours."""
        try:
            yield
        except (TimeoutError, EOFError, paramiko.SSHException, ConnectionError) as exc:
            raise TransportLost(f"{self.target}: the connection was lost at {what}") from exc
        except OSError as exc:
            if exc.errno is None and "closed" in str(exc):
                raise TransportLost(f"{self.target}: the connection was lost at {what}") from exc
            raise MeetingctlError(f"{self.target}: {what}: {(exc.strerror or str(exc)).lower()}") from exc

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except CommandTimedOut as exc:
            raise TransportLost(f"{self.target}: no answer within {exc.timeout:g} s") from exc
        except ThreadException as exc:
            transport = self.connection.transport
            if transport is None or not transport.is_active():
                raise TransportLost(f"{self.target}: the connection was lost: {_first_line(exc)}") from exc
            # It closed its standard input before it had the password; there is no sudo, for example.
            raise MeetingctlError(
                f"{self.target}: a command ended before it took its input; is sudo there?",
                hint=f"meetingctl remote run {self.target} -- sudo -V",
            ) from exc
        except (OSError, EOFError, paramiko.SSHException) as exc:
            raise TransportLost(f"{self.target}: the connection was lost: {_first_line(exc)}") from exc


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _read_answer(text: str) -> dict[str, Any]:
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        return {"error": f"no answer that makes sense: {text[:80]!r}"}
    return answer if isinstance(answer, dict) else {"error": f"no answer that makes sense: {text[:80]!r}"}

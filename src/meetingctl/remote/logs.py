"""What devices have logged: the line that asks for it, and everything together in one archive."""

from __future__ import annotations

import io
import re
import shlex
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from meetingctl.core import layout
from meetingctl.core.errors import MeetingctlError
from meetingctl.core.target import Target
from meetingctl.remote.redact import find_secrets, redact
from meetingctl.remote.sections import new_mark, sections_line, split_sections
from meetingctl.remote.visit import Privilege, Visit

ARCHIVE_LINES = 500
SECTION_BYTES = 1024 * 1024
ARCHIVE_BYTES = 16 * 1024 * 1024
_SECTION_S = 30
_PLAIN_NAME = re.compile(r"(?:[A-Za-z0-9_@-][A-Za-z0-9._@-]{0,99}/)?[A-Za-z0-9_@-][A-Za-z0-9._@-]{0,99}")

_DIAGNOSTICS = {
    "date": "date -u +%FT%TZ",
    "kernel": "uname -a",
    "release": "cat /etc/os-release",
    "uptime": "uptime",
    "disks": "df -h",
    "memory": "free -m",
    "addresses": "ip addr",
    "routes": "ip route",
    "network": "nmcli device status",
    "sockets": "ss -ltunp",
    "processes": "ps -eo pid,ppid,user,pcpu,pmem,etime,args --sort=-pcpu | head -n 100",
    "failed": "systemctl --failed --no-pager",
    "errors": "journalctl -p err -n 200 --no-pager -o short-iso",
    "kernel messages": "dmesg | tail -n 200",
}


@dataclass(frozen=True, slots=True)
class Collected:
    """The texts of one device by name in the archive, and whether some did not fit."""

    texts: Mapping[str, str]
    is_cut: bool


def journal_line(
    units: Sequence[str], *, lines: int, follow: bool = False, since_s: float | None = None, grep: str = ""
) -> str:
    """Write the line that prints the journal of units; `grep` is a Perl-compatible expression.

    journalctl ends with 1 when no entry matches, which is no failure here.
    """
    words = ["journalctl", "--no-pager", "--quiet", "--output=short-iso", f"--lines={lines}"]
    words += ["--follow"] if follow else []
    words += [f"--since=-{since_s:.0f}s"] if since_s is not None else []
    words += [f"--grep={grep}"] if grep else []
    words += [f"--unit={unit}.service" for unit in units]
    line = shlex.join(words)
    return f"exec {line}" if not grep or follow else f"{line} || [ $? = 1 ]"


def collect_line(mark: str, *, since_s: float | None) -> str:
    """Write the script that prints everything that belongs into the archive of a device."""
    cap = f"tail -c {SECTION_BYTES}"
    commands = {}
    for unit in layout.UNITS:
        commands[f"journal/{unit}.log"] = f"{_journal(unit, since_s)} | {cap}"
    for name, command in _DIAGNOSTICS.items():
        commands[f"diagnostics/{name.replace(' ', '-')}.txt"] = f"{command} | {cap}"
    commands["files"] = _files_command(mark, f"{layout.LOG_DIR}/*.log", "log", f"tail -n {ARCHIVE_LINES} | {cap}")
    patterns = " ".join(f"{layout.CONFIG_DIR}/*{suffix}" for suffix in (".env", ".conf", ".json"))
    commands["more files"] = _files_command(mark, patterns, "config", cap)
    return sections_line(commands, mark, command_s=_SECTION_S)


async def collect(visit: Visit, *, since_s: float | None) -> Collected:
    """Ask a device for everything in one round trip. Raises: AuthError, MeetingctlError."""
    mark = new_mark()
    answer = await visit.answer(
        collect_line(mark, since_s=since_s), privilege=Privilege.wanted, cap_bytes=ARCHIVE_BYTES
    )
    texts = {
        name: text
        for name, text in split_sections(answer.stdout, mark).items()
        if text.strip() and _PLAIN_NAME.fullmatch(name) and "/" in name
    }
    if not texts:
        raise MeetingctlError(f"{visit.target}: nothing to collect: {answer.stderr.strip()[:200] or 'no output'}")
    return Collected(texts, answer.is_cut)


def redact_all(texts: Mapping[str, str]) -> dict[str, str]:
    """Redact all texts; a value that the configuration calls a secret is taken out of the logs too. Pure."""
    secrets = find_secrets(text for name, text in texts.items() if name.startswith("config/"))
    return {name: redact(text, secrets) for name, text in texts.items()}


def archive_name(target: Target, moment: str) -> str:
    """Return the name of a device's archive; `moment` is YYYYmmdd_HHMMSS."""
    return f"device-logs_{re.sub(r'[^A-Za-z0-9.-]+', '_', str(target)).strip('_.')}_{moment}.zip"


def pack(texts: Mapping[str, str]) -> bytes:
    """Pack the texts as a ZIP archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(texts):
            archive.writestr(name, texts[name])
    return buffer.getvalue()


def _journal(unit: str, since_s: float | None) -> str:
    return journal_line((unit,), lines=ARCHIVE_LINES, since_s=since_s).removeprefix("exec ")


def _files_command(mark: str, pattern: str, folder: str, shorten: str) -> str:
    """Write a loop that gives each file a section of its own."""
    return (
        f'for f in {pattern}; do [ -f "$f" ] || continue; '
        f'printf "\\n%s %s\\n" {mark} "{folder}/${{f##*/}}"; <"$f" {shorten}; done'
    )

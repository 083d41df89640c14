"""What a refusal of the fleet API means for the person at the command line.

The API answers with the short texts of the Meeting contract. Here they get the name of what they are about, and the
next step where there is one: ours for the texts of the contract, else the one that the server sends in a header of its
own, because the bodies of the contract have no place for it.
"""

from __future__ import annotations

import re

from meetingctl.core.errors import MeetingctlError, error_for_status

# The contract's text -> what it means, where the text alone does not say it.
_MEANINGS = {
    "Unauthorized": "no credential was presented",
    "Invalid token": "the credential is wrong, expired or revoked",
    "Forbidden": "a higher role is needed",
    "Relay port not allowed": "the relay service may not reach this port of a device",
    "Device missing token": "the device has no token code",
    "Last admin": "it is the last administrator's account that is on",
    "Last admin key": "it is the last administrator's key that works",
}
# The contract's text -> what to do. `{subject}` is what the request was about.
_HINTS = {
    "Device not found": "meetingctl fleet list",
    "Device already exists": "meetingctl fleet show {subject}",
    "Device not authorized": "meetingctl fleet authorize {subject}",
    "Device missing token": "meetingctl fleet tokens {subject} --new-code",
    "Device already registered": "meetingctl fleet tokens {subject} --new-code",
    "No tokens left": "meetingctl fleet tokens {subject} --set 1",
    "Relay port not allowed": "add the port to tunnel_relay_ports (MEETINGCTL_TUNNEL_RELAY_PORTS) of the server",
    "No available port in range": "meetingctl tunnel list",
    "Tunnel not found": "meetingctl tunnel list",
    "Key not found": "meetingctl token list",
    "Device type not found": "meetingctl fleet distributions list",
    "Device type already exists": "meetingctl fleet types list",
    "Release not found": "meetingctl fleet releases list",
    "Distribution not found": "meetingctl fleet distributions list",
    "distrib.json not found": "meetingctl fleet distributions put {subject} FILE",
    "Last admin": "meetingctl user create second-admin --role admin",
    "User not found": "meetingctl user list",
    "Username already used": "meetingctl user list",
    "Last admin key": "meetingctl token create second-admin --role admin",
}
HINT_HEADER = "x-hint"
_HINT_CHARACTERS = 200
_PLAIN = re.compile(r"[ -~]+")
# What only somebody at the server's own shell can follow: its commands there, and the options of `serve` and `db`.
_AT_THE_SERVER = re.compile(
    r"(?:ls|ss|df|chmod|chown|export|openssl) |meetingctl (?:serve|db) |.*--(?:data|db|listen)\b"
)
_STATUS_HINTS = {401: "meetingctl login", 403: "meetingctl whoami"}


def hint_for_afar(hint: str | None) -> str | None:
    """Return a hint as a header takes it to somebody at another machine; None when it is of no use there.

    One line of at most 200 printable ASCII characters.
    """
    hint = read_hint(hint)
    return None if hint is None or _AT_THE_SERVER.match(hint) else hint


def read_hint(text: object) -> str | None:
    """Return the hint that a server sent; None when there is none, or something else."""
    is_hint = isinstance(text, str) and len(text) <= _HINT_CHARACTERS and _PLAIN.fullmatch(text)
    return text.strip() or None if isinstance(text, str) and is_hint else None


def explain_refusal(
    status: int,
    text: str,
    *,
    subject: str | None = None,
    role: str | None = None,
    hint: str | None = None,
    spare_hint: str | None = None,
) -> MeetingctlError:
    """Turn the status and text of a refusal into the error to raise.

    `subject` is what the request was about, `role` the least role that may do it, `hint` the server's own advice.
    `spare_hint` is for texts that we have none for: ours knows the subject, and which of our commands asked.
    """
    message = _MEANINGS.get(text) or lower_first(text)
    if text == "Forbidden" and role:
        message = f"needs role {role}"
    if subject is not None:
        message = f"{subject}: {_without_noun(message, subject)}"
    advice = hint or _HINTS.get(text, "").format(subject=subject or "DEVICE") or spare_hint or _STATUS_HINTS.get(status)
    return error_for_status(status, message, hint=advice)


def _without_noun(message: str, subject: str) -> str:
    """Leave out a noun that the subject says already: `tunnel 9050: not found`."""
    noun, _, rest = subject.partition(" ")
    return message.removeprefix(f"{noun} ") if rest else message


def lower_first(text: str) -> str:
    """Lower the first letter of a sentence, but not of an abbreviation."""
    return text[:1].lower() + text[1:] if text[1:2].islower() or text[1:2] == " " else text

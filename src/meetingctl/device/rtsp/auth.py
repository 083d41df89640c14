"""Logins of RTSP: read the challenges of a 401, choose the strongest, answer it. No sockets.

Source: RFC 7617 (basic), RFC 7616 (digest), RFC 2069 for servers that send no `qop`.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from meetingctl.core.secret import Secret

_PARAMETER = re.compile(r'\s*,?\s*([\w!#$%&\'*+.^`|~-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*))')
_SCHEME = re.compile(r"\s*,?\s*([\w!#$%&'*+.^`|~-]+)(?=\s|,|$)")
_HASHES = {"": "md5", "md5": "md5", "sha-256": "sha256"}


@dataclass(frozen=True, slots=True)
class Login:
    """Who asks."""

    user: str
    password: Secret


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way in that a server offers; `scheme` and the names in `parameters` are lower case."""

    scheme: str
    parameters: dict[str, str] = field(default_factory=dict)

    def get(self, name: str) -> str:
        return self.parameters.get(name, "")

    @property
    def is_stale(self) -> bool:
        """Say whether only the nonce was too old: the password may be right."""
        return self.get("stale").lower() == "true"

    @property
    def strength(self) -> int:
        """0 when it cannot be answered, then basic, digest with MD5, digest with SHA-256."""
        if self.scheme == "basic":
            return 1
        if self.scheme == "digest" and self.get("nonce") and _is_answerable_qop(self.get("qop")):
            return {"md5": 2, "sha256": 3}.get(_HASHES.get(self.get("algorithm").lower(), ""), 0)
        return 0


def parse_challenges(headers: Iterable[str]) -> list[Challenge]:
    """Read WWW-Authenticate headers; one header may hold several challenges."""
    found: list[Challenge] = []
    for text in headers:
        position = 0
        while position < len(text):
            if (match := _PARAMETER.match(text, position)) and found:
                name, quoted, plain = match.groups()
                value = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
                found[-1].parameters.setdefault(name.lower(), value)
            elif match := _SCHEME.match(text, position):
                found.append(Challenge(match[1].lower()))
            else:
                break
            position = match.end()
    return found


def choose_challenge(challenges: Iterable[Challenge]) -> Challenge | None:
    """Return the strongest challenge that can be answered, None without one."""
    best = max(challenges, key=lambda challenge: challenge.strength, default=None)
    return best if best is not None and best.strength else None


def answer_challenge(challenge: Challenge, login: Login, method: str, url: str, *, cnonce: str) -> str:
    """Return the Authorization header for the first request under a nonce."""
    if challenge.scheme == "basic":
        pair = f"{login.user}:{login.password.reveal()}".encode()
        return f"Basic {base64.b64encode(pair).decode()}"
    return _digest(challenge, login, method, url, cnonce)


def _digest(challenge: Challenge, login: Login, method: str, url: str, cnonce: str) -> str:
    def hashed(text: str) -> str:
        return hashlib.new(
            _HASHES[challenge.get("algorithm").lower()], text.encode(), usedforsecurity=False
        ).hexdigest()

    realm, nonce = challenge.get("realm"), challenge.get("nonce")
    secret = hashed(f"{login.user}:{realm}:{login.password.reveal()}")
    request = hashed(f"{method}:{url}")
    quoted = {"username": login.user, "realm": realm, "nonce": nonce, "uri": url}
    plain = {}
    if challenge.get("qop"):
        quoted["response"] = hashed(f"{secret}:{nonce}:00000001:{cnonce}:auth:{request}")
        quoted["cnonce"] = cnonce
        plain = {"qop": "auth", "nc": "00000001"}
    else:
        quoted["response"] = hashed(f"{secret}:{nonce}:{request}")
    if algorithm := challenge.get("algorithm"):
        plain["algorithm"] = algorithm
    if opaque := challenge.get("opaque"):
        quoted["opaque"] = opaque
    pairs = [f'{name}="{_escape(value)}"' for name, value in quoted.items()]
    return "Digest " + ", ".join([*pairs, *(f"{name}={value}" for name, value in plain.items())])


def _is_answerable_qop(text: str) -> bool:
    return not text or "auth" in {word.strip().lower() for word in text.split(",")}


def _escape(text: str) -> str:
    return re.sub(r'(["\\])', r"\\\1", text)

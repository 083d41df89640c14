"""Who may call: WS-Security username tokens, HTTP digest and basic, replay, lock-out. No sockets, no clock.

Source: WS-Security UsernameToken Profile 1.0, RFC 7616, ONVIF Core specification 5.9.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from meetingctl.core.secret import Secret, same_secret
from meetingctl.device.onvif.fault import Fault, not_authorized
from meetingctl.device.onvif.replay import UsedCounts, UsedTokens
from meetingctl.device.onvif.soap import Element, qname

# The access classes of the ONVIF Core specification; PRE needs no authentication.
Access = Literal["PRE", "RS", "SEC", "RM", "WS", "ACT", "UNREC"]

WINDOW_S = 300.0
_MOST_ADDRESSES = 1024
_FREE_FAILURES = 5
_LONGEST_LOCK_S = 60.0
_FORGET_S = 900.0
_LONGEST_HEADER = 2048
_PARAMETER = re.compile(r'\s*([A-Za-z0-9*-]{1,20})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))\s*(?:,|$)')
REALM = "ONVIF"


@dataclass(frozen=True, slots=True)
class Credentials:
    """The login that ONVIF, RTSP and snapshots share."""

    user: str
    password: Secret

    @property
    def is_closed(self) -> bool:
        """Say whether nobody can log in, because a login is meant that cannot be used."""
        return not self.user


@dataclass(frozen=True, slots=True)
class Token:
    """A UsernameToken as it was sent."""

    user: str
    digest: str
    nonce: str
    created: str


@dataclass(frozen=True, slots=True)
class Caller:
    """What a request brings along. `authorization` is its HTTP header."""

    address: str
    method: str
    target: str
    authorization: str = ""


class Denied(Fault):
    """Not let in: `challenge` asks for HTTP digest, `retry_after_s` tells how long an address is locked out."""

    def __init__(self, reason: str, *, challenge: bool = False, stale: bool = False, retry_after_s: int = 0) -> None:
        fault = not_authorized(reason, status=401 if challenge else 400)
        super().__init__(fault.role, fault.subcodes, reason, status=fault.status)
        self.challenge, self.stale, self.retry_after_s = challenge, stale, retry_after_s


class Gate:
    """Decides about each call; remembers nonces and failures. Times are seconds of the wall clock."""

    def __init__(self, used: UsedTokens | None = None) -> None:
        """`used` are the tokens that no longer count."""
        self._key = secrets.token_bytes(32)
        self._used = UsedTokens(WINDOW_S) if used is None else used
        self._counts = UsedCounts()
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def check_call(
        self, access: Access, login: Credentials | None, caller: Caller, header: Element | None, *, now_s: float
    ) -> bool:
        """Let a SOAP call in and say whether it was authenticated. Raises: Denied."""
        if access == "PRE":
            return False
        if login is None:
            if access == "UNREC":
                raise Denied("set a user and a password first")
            return False
        token = read_token(header)
        if not caller.authorization and token is None:
            raise Denied("no credentials", challenge=True)
        self._refuse_locked(caller.address, now_s)
        if caller.authorization:
            self._check_http(login, caller, allow_basic=False, now_s=now_s)
        else:
            self._check_token(login, token, caller.address, now_s)
        self._failures.pop(caller.address, None)
        return True

    def check_picture(self, login: Credentials | None, caller: Caller, *, allow_basic: bool, now_s: float) -> None:
        """Let a request for a picture in: digest, or basic where the stream allows it. Raises: Denied."""
        if login is None:
            return
        if not caller.authorization:
            raise Denied("no credentials", challenge=True)
        self._refuse_locked(caller.address, now_s)
        self._check_http(login, caller, allow_basic=allow_basic, now_s=now_s)
        self._failures.pop(caller.address, None)

    def challenges(self, *, stale: bool, now_s: float) -> list[str]:
        """Return the WWW-Authenticate headers; MD5 last, for clients that read only one."""
        nonce = self._make_nonce(now_s)
        ending = ', stale="true"' if stale else ""
        return [
            f'Digest realm="{REALM}", qop="auth", nonce="{nonce}", algorithm={name}{ending}'
            for name in ("MD5", "SHA-256")
        ]

    def _check_token(self, login: Credentials, token: Token | None, address: str, now_s: float) -> None:
        token = token or Token("", "", "", "")
        try:
            nonce = base64.b64decode(token.nonce, validate=True)
        except (binascii.Error, ValueError):
            nonce = b""
        material = nonce + token.created.encode() + login.password.reveal().encode("utf-8", "surrogateescape")
        expected = base64.b64encode(hashlib.sha1(material, usedforsecurity=False).digest()).decode()
        # Both comparisons are made, so that an unknown user takes as long as a wrong password.
        is_right = same_secret(expected, token.digest) & same_secret(login.user, token.user)
        if not is_right or not nonce or not token.created:
            self._note_failure(address, now_s)
            raise Denied("the sender is not authorized")
        created_s = parse_created(token.created)
        if created_s is None or abs(now_s - created_s) > WINDOW_S:
            raise Denied("the token is too old or too new: compare the clocks")
        # The digest stands for nonce and time however they are spelled: base64 has several spellings of the same bytes.
        if not self._used.take(expected, created_s, now_s):
            raise Denied("the token was used before")

    def _check_http(self, login: Credentials, caller: Caller, *, allow_basic: bool, now_s: float) -> None:
        scheme, _, rest = caller.authorization.strip().partition(" ")
        if scheme.lower() == "basic" and allow_basic:
            pair = f"{login.user}:{login.password.reveal()}".encode("utf-8", "surrogateescape")
            is_right = same_secret(base64.b64encode(pair).decode(), rest.strip())
        elif scheme.lower() == "digest":
            is_right = self._check_digest(login, caller, rest, now_s)
        else:
            is_right = False
        if not is_right:
            self._note_failure(caller.address, now_s)
            raise Denied("the sender is not authorized", challenge=True)

    def _check_digest(self, login: Credentials, caller: Caller, rest: str, now_s: float) -> bool:
        given = read_parameters(_as_utf8(rest))
        algorithm = {"": "md5", "md5": "md5", "sha-256": "sha256"}.get(given.get("algorithm", "").lower())
        count = given.get("nc", "")
        if algorithm is None or given.get("qop") != "auth" or not re.fullmatch(r"[0-9a-fA-F]{8}", count):
            return False

        def hashed(words: str) -> str:
            return hashlib.new(algorithm, words.encode("utf-8", "surrogateescape"), usedforsecurity=False).hexdigest()

        nonce, target = given.get("nonce", ""), given.get("uri", "")
        secret = hashed(f"{login.user}:{REALM}:{login.password.reveal()}")
        request = hashed(f"{caller.method}:{target}")
        expected = hashed(f"{secret}:{nonce}:{count}:{given.get('cnonce', '')}:auth:{request}")
        is_right = same_secret(expected, given.get("response", "").lower())
        is_right &= same_secret(login.user, given.get("username", "")) & (target == caller.target)
        if not is_right:
            return False
        made_s = self._made_s(nonce)
        if (
            made_s is None
            or abs(now_s - made_s) > WINDOW_S
            or not self._counts.take(nonce, made_s, int(count, 16), now_s)
        ):
            raise Denied("the nonce is too old", challenge=True, stale=True)
        return True

    def _make_nonce(self, now_s: float) -> str:
        stamp = f"{int(now_s):x}.{secrets.token_hex(6)}"
        return f"{stamp}.{self._sign(stamp)}"

    def _sign(self, stamp: str) -> str:
        return hmac.new(self._key, stamp.encode(), "sha256").hexdigest()[:32]

    def _made_s(self, nonce: str) -> float | None:
        """Return when we made a nonce, None when it is not ours."""
        stamp, _, signature = nonce.rpartition(".")
        return float(int(stamp.partition(".")[0], 16)) if same_secret(self._sign(stamp), signature) else None

    def _refuse_locked(self, address: str, now_s: float) -> None:
        failures, last_s = self._failures.get(address, (0, 0.0))
        left_s = last_s + lock_s(failures) - now_s
        # A clock that was set back must not lock anybody out for longer than the longest time.
        if 0 < left_s <= _LONGEST_LOCK_S:
            raise Denied("too many wrong passwords from this address", retry_after_s=int(left_s) + 1)

    def _note_failure(self, address: str, now_s: float) -> None:
        failures, last_s = self._failures.pop(address, (0, now_s))
        failures = 0 if now_s - last_s > _FORGET_S else failures
        if len(self._failures) >= _MOST_ADDRESSES:
            # One that is locked out must not free itself with the help of other addresses.
            free = (item for item, (count, at_s) in self._failures.items() if at_s + lock_s(count) <= now_s)
            self._failures.pop(next(free, next(iter(self._failures))))
        self._failures[address] = (failures + 1, now_s)


def _as_utf8(text: str) -> str:
    """Read a header again, whose bytes were taken for Latin-1: names of users are UTF-8 in most clients."""
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def read_parameters(rest: str) -> dict[str, str]:
    """Return the parameters of a Digest header, names in lower case; nothing when it is malformed or one comes twice.

    One pass: where a parameter does not begin, reading ends.
    """
    found: dict[str, str] = {}
    at = 0
    while len(rest) <= _LONGEST_HEADER and at < len(rest):
        match = _PARAMETER.match(rest, at)
        if match is None or match[1].lower() in found:
            return {}
        found[match[1].lower()] = match[3] if match[2] is None else re.sub(r"\\(.)", r"\1", match[2])
        at = match.end()
    return found


def lock_s(failures: int) -> float:
    """Return for how long an address is locked out after so many wrong passwords in a row: 1, 2, 4 ... 60 s."""
    if failures < _FREE_FAILURES:
        return 0.0
    return min(2.0 ** min(failures - _FREE_FAILURES, 16), _LONGEST_LOCK_S)


def read_token(header: Element | None) -> Token | None:
    """Return the UsernameToken of a header; a plain-text password counts as a wrong digest."""
    token = None if header is None else header.find(f"{qname('wsse:Security')}/{qname('wsse:UsernameToken')}")
    if token is None:
        return None

    def part(name: str) -> str:
        return (token.findtext(qname(name)) or "").strip()[:1024]

    password = token.find(qname("wsse:Password"))
    is_digest = password is not None and password.get("Type", "").endswith("#PasswordDigest")
    return Token(
        part("wsse:Username"), part("wsse:Password") if is_digest else "", part("wsse:Nonce"), part("wsu:Created")
    )


def parse_created(written: str) -> float | None:
    """Read the time of a token as seconds since 1970; without a zone it is UTC."""
    try:
        at = datetime.fromisoformat(written)
    except ValueError:
        return None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()

"""From the headers of a request to a principal: API keys, device tokens and token codes, with limits on guessing."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Callable
from dataclasses import dataclass

from meetingctl.core.errors import AuthError, ExpiredCredential, NotFound, RateLimited
from meetingctl.core.limits import FailureLimiter
from meetingctl.core.secret import same_secret, sha256_hex
from meetingctl.server.audit.chain import Actor, append
from meetingctl.server.db.engine import Database
from meetingctl.server.db.writer import GroupWriter
from meetingctl.server.devices.index import DeviceFacts, DeviceIndex, Lookups
from meetingctl.server.devices.scope import is_covered
from meetingctl.server.identity.keys import KeyRing, touch_key
from meetingctl.server.identity.principal import Principal
from meetingctl.server.identity.sessions import Signer, check_access, looks_signed

WINDOW_S = 900.0
FAILURES_PER_SUBJECT = 5
FAILURES_PER_ADDRESS = 20
GOOD_PEERS = 250_000
# Wrong in a way that tells nothing about which part was wrong.
INVALID = "Invalid token"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a request presents; empty texts when it presents nothing."""

    bearer: str = ""
    token_code: str = ""
    peer: str = ""
    request_id: str = ""

    def __bool__(self) -> bool:
        return bool(self.bearer or self.token_code)


def bearer_of(authorization: str) -> str:
    """Return the token of an `Authorization: Bearer` header, empty when there is none."""
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


class CredentialCheck:
    """Verify credentials. Success is cached where it is slow, failure never; failures are limited and audited."""

    def __init__(
        self, database: Database, writer: GroupWriter, index: DeviceIndex, ring: KeyRing, signer: Signer
    ) -> None:
        self.signer = signer
        self._database = database
        self._writer = writer
        self._index = index
        self._lookups = Lookups(index)
        self._ring = ring
        self._by_subject = FailureLimiter(limit=FAILURES_PER_SUBJECT, window_s=WINDOW_S)
        self._by_address = FailureLimiter(limit=FAILURES_PER_ADDRESS, window_s=WINDOW_S)
        self._by_pair = FailureLimiter(limit=FAILURES_PER_SUBJECT, window_s=WINDOW_S)
        self._repeats = FailureLimiter(limit=1, window_s=WINDOW_S)
        self._good_peers: dict[str, str] = {}
        self.refused: Callable[[], None] = lambda: None

    async def verify(self, given: Credentials, device_key: str | None) -> Principal:
        """Return the principal of the credentials. `device_key` is the device that the request is about.

        Raises: AuthError for a wrong credential, RateLimited after too many, NotFound for a token code of an unknown
        device.
        """
        if given.bearer:
            try:
                principal = await self._verify_bearer(given, device_key)
            except ExpiredCredential:
                self._note_failure(given, "credential")
                raise
            if principal is not None:
                return principal
        elif device_key is not None:
            facts = await self.find_device(device_key)
            if facts is None:
                self.check_limits(None, given.peer)
                self._note_failure(given, f"device:{device_key}")
                raise NotFound("Device not found")
            self.check_token_code(facts, given)
            return device_principal(facts)
        raise self.refuse(given, f"device:{device_key}" if device_key else "credential")

    async def find_device(self, device_key: str) -> DeviceFacts | None:
        """Find a device without holding up the event loop for a slow database."""
        facts = self._index.cached(device_key)
        if facts is not None:
            return facts
        if self._database.dialect == "sqlite":
            return self._index.find(device_key)
        return await self._lookups.find(device_key)

    def check_token_code(self, facts: DeviceFacts, given: Credentials) -> None:
        """Compare a token code, without regard to case and in constant time. Raises: AuthError, RateLimited."""
        if self._good_peers.get(facts.device_key) != given.peer:
            self.check_limits(f"device:{facts.device_key}", given.peer)
        if not same_secret(facts.token_code, given.token_code.upper()):
            raise self.refuse(given, f"device:{facts.device_key}")
        self._note_success(facts.device_key, given.peer)

    def check_device_token(self, facts: DeviceFacts, given: Credentials) -> bool:
        """Say whether the bearer token is the long token of this device."""
        expected = facts.device_token_sha256
        if expected is None or not same_secret(expected, sha256_hex(given.bearer)):
            return False
        self._note_success(facts.device_key, given.peer)
        return True

    def check_limits(self, subject: str | None, peer: str) -> None:
        """Raises: RateLimited when the subject or the address failed too often.

        Where a subject failed too often, an address that never failed for it still gets one try, or a guesser
        elsewhere could lock the real device out.
        """
        now_s = time.monotonic()
        peer = _network_of(peer)
        wait_s = self._by_address.retry_after_s(peer, now_s)
        if subject is not None and self._by_pair.has_failed((subject, peer), now_s):
            wait_s = max(wait_s, self._by_subject.retry_after_s(subject, now_s))
        if wait_s:
            raise RateLimited("Too many attempts", retry_after_s=wait_s)

    def refuse(self, given: Credentials, subject: str) -> AuthError:
        """Count and audit a failure; return the error to raise."""
        self._note_failure(given, subject)
        return AuthError(INVALID, hint="meetingctl login")

    async def is_within_limits(self, principal: Principal, device_key: str) -> bool:
        """Say whether a key that is limited to device types or tags may touch this device; others may touch all.

        A device that is not there is in no key's limits, so that such a key learns nothing about the others.
        """
        if not principal.is_limited:
            return True
        return await asyncio.to_thread(self._covers, principal, device_key)

    def _covers(self, principal: Principal, device_key: str) -> bool:
        with self._database.read() as connection:
            return is_covered(connection, principal, device_key)

    def _note_failure(self, given: Credentials, subject: str) -> None:
        """Count and audit once what a misconfigured client repeats: the same wrong secret from the same address."""
        self.refused()
        now_s = time.monotonic()
        attempt = (subject, given.peer, sha256_hex(given.bearer or given.token_code))
        if self._repeats.has_failed(attempt, now_s):
            return
        self._repeats.fail(attempt, now_s)
        self._by_subject.fail(subject, now_s)
        network = _network_of(given.peer)
        self._by_pair.fail((subject, network), now_s)
        self._by_address.fail(network, now_s)
        actor = Actor("anonymous", given.peer, given.request_id)
        self._writer.post(lambda connection: append(connection, actor, "credential.refuse", subject, result="refused"))

    def _note_success(self, device_key: str, peer: str) -> None:
        """Remember from where a device last succeeded: that address is exempt from the limits."""
        if self._good_peers.get(device_key) == peer:
            return
        if len(self._good_peers) >= GOOD_PEERS:
            self._good_peers.clear()
        self._good_peers[device_key] = peer

    async def _verify_bearer(self, given: Credentials, device_key: str | None) -> Principal | None:
        principal = self._ring.cached(given.bearer, time.monotonic())
        if principal is None:
            if device_key is not None:
                facts = await self.find_device(device_key)
                if facts is not None and self.check_device_token(facts, given):
                    return device_principal(facts)
            # A guess at 256 bits is hopeless: the limits only spare the database and the audit log, and other people's
            # failures behind the same address never lock out a key that is right.
            principal = await asyncio.to_thread(self._look_up, given.bearer)
            if principal is None:
                self.check_limits(None, given.peer)
        if principal is not None and principal.key_id is not None and self._ring.stale_use(principal):
            key_id = principal.key_id
            self._writer.post(lambda connection: touch_key(connection, key_id))
        return principal

    def _look_up(self, key_text: str) -> Principal | None:
        with self._database.read() as connection:
            if looks_signed(key_text) and (found := check_access(connection, self.signer, key_text)) is not None:
                self._ring.keep(key_text, found, time.monotonic())
                return found
            return self._ring.verify(connection, key_text, time.monotonic())


def _network_of(peer: str) -> str:
    """Return what counts as one guesser: an IPv4 address, or the /64 that a single IPv6 line has to choose from."""
    if ":" not in peer:
        return peer
    try:
        return str(ipaddress.IPv6Network((peer.partition("%")[0], 64), strict=False))
    except ValueError:
        return peer


def device_principal(facts: DeviceFacts) -> Principal:
    """Make the principal of a device."""
    return Principal("device", f"device:{facts.device_key}", device_key=facts.device_key)

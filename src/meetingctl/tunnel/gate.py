"""Who may try to connect as an agent: counts and limits, without I/O."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable

from meetingctl.core.limits import FailureLimiter
from meetingctl.core.site import site_of
from meetingctl.tunnel.rules import ProxyLimits

_DEVICES_KEPT = 100_000
_ATTEMPTS_KEPT = 50_000


class Gate:
    """Bound the handshakes in progress and the guesses per device and address."""

    def __init__(self, limits: ProxyLimits) -> None:
        self._limits = limits
        # In the order of arrival, all and per site; dict keeps it and deletes from the middle.
        self._pending: dict[Hashable, str] = {}
        self._sites_pending: dict[str, dict[Hashable, None]] = {}
        window_s = limits.failure_window_s
        self._devices = FailureLimiter(limit=limits.failures_per_device, window_s=window_s)
        self._sites = FailureLimiter(limit=limits.failures_per_address, window_s=window_s)
        self._noise = FailureLimiter(limit=limits.noise_per_address, window_s=window_s)
        self._pairs = FailureLimiter(limit=limits.failures_per_address, window_s=window_s)
        self._attempts: OrderedDict[Hashable, float] = OrderedDict()
        self._last_good: OrderedDict[str, str] = OrderedDict()

    def enter(self, newcomer: Hashable, address: str) -> Hashable | None:
        """Let a new connection in; return the one that must go for it, if any.

        The oldest goes: a handshake takes a moment, so a flood of silent connections pushes out itself and not the
        agents between them.
        """
        limits, site = self._limits, site_of(address)
        evicted: Hashable | None = None
        if len(neighbours := self._sites_pending.get(site, {})) >= limits.handshake_pending_per_address:
            evicted = next(iter(neighbours))
        elif len(self._pending) >= limits.handshake_pending:
            evicted = next(iter(self._pending))
        if evicted is not None:
            self.leave(evicted)
        self._pending[newcomer] = site
        self._sites_pending.setdefault(site, {})[newcomer] = None
        return evicted

    def leave(self, visitor: Hashable) -> None:
        """Forget a connection that is authenticated, gone or evicted; the second time this does nothing."""
        site = self._pending.pop(visitor, None)
        if site is None:
            return
        del self._sites_pending[site][visitor]
        if not self._sites_pending[site]:
            del self._sites_pending[site]

    @property
    def pending(self) -> int:
        """Handshakes in progress."""
        return len(self._pending)

    def may_try(self, device_key: str, address: str, now_s: float) -> bool:
        """Say whether a credential is looked at.

        The address from which the device last succeeded is exempt from what others did, to the device or behind the
        same address: otherwise anybody could lock a device out by guessing. Guesses for just this pair still count.
        """
        site = site_of(address)
        if self._last_good.get(device_key) == site:
            return not self._pairs.retry_after_s((device_key, site), now_s)
        return not (
            self._sites.retry_after_s(site, now_s)
            or self._noise.retry_after_s(site, now_s)
            or self._devices.retry_after_s(device_key, now_s)
        )

    def note_wrong_token(self, device_key: str, token: str, address: str, now_s: float) -> None:
        """Count a guess. The same one again tells nothing new: a device with an old token says it every few seconds."""
        site = site_of(address)
        if self._is_repeated((site, device_key, hash(token.upper())), now_s):
            return
        self._sites.fail(site, now_s)
        self._devices.fail(device_key, now_s)
        self._pairs.fail((device_key, site), now_s)

    def note_noise(self, text: str, address: str, now_s: float) -> None:
        """Count what was no credential, each text once."""
        site = site_of(address)
        if not self._is_repeated((site, hash(text)), now_s):
            self._noise.fail(site, now_s)

    def note_right_token(self, device_key: str, address: str) -> None:
        """Remember where the device connects from."""
        self._last_good[device_key] = site_of(address)
        self._last_good.move_to_end(device_key)
        if len(self._last_good) > _DEVICES_KEPT:
            self._last_good.popitem(last=False)

    def _is_repeated(self, attempt: Hashable, now_s: float) -> bool:
        counted_s = self._attempts.get(attempt)
        if counted_s is not None and now_s - counted_s < self._limits.failure_window_s:
            return True
        self._attempts[attempt] = now_s
        self._attempts.move_to_end(attempt)
        if len(self._attempts) > _ATTEMPTS_KEPT:
            self._attempts.popitem(last=False)
        return False


class DeviceHistory:
    """What the recent connections of one device say about it."""

    __slots__ = ("_short_lives", "_takeovers")

    def __init__(self) -> None:
        self._takeovers: deque[float] | None = None
        self._short_lives = 0

    def note_takeover(self, now_s: float, limits: ProxyLimits) -> bool:
        """Count a takeover; True when there are so many that two devices must share one key."""
        if self._takeovers is None:
            self._takeovers = deque(maxlen=limits.takeovers + 1)
        self._takeovers.append(now_s)
        is_full = len(self._takeovers) > limits.takeovers
        if is_full and now_s - self._takeovers[0] <= limits.takeover_window_s:
            self._takeovers = None
            return True
        return False

    def note_life(self, life_s: float, *, spoke: bool, limits: ProxyLimits) -> bool:
        """Count a lost connection; True when the agent seems unable to read the reply line (before 1.4.0)."""
        self._short_lives = 0 if spoke or life_s > limits.too_old_life_s else self._short_lives + 1
        return self._short_lives == limits.too_old_lives

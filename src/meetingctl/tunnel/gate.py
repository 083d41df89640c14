"""Who may try to connect as an agent: counts and limits, without I/O."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque

from meetingctl.core.limits import FailureLimiter
from meetingctl.tunnel.rules import ProxyLimits

_DEVICES_KEPT = 100_000


class Gate:
    """Bound the handshakes in progress and the guesses per device and address."""

    def __init__(self, limits: ProxyLimits) -> None:
        self._limits = limits
        self._pending: Counter[str] = Counter()
        self._pending_total = 0
        self._devices = FailureLimiter(limit=limits.failures_per_device, window_s=limits.failure_window_s)
        self._addresses = FailureLimiter(limit=limits.failures_per_address, window_s=limits.failure_window_s)
        self._last_good: OrderedDict[str, str] = OrderedDict()

    def enter(self, address: str) -> bool:
        """Count a new connection; False when there are too many unauthenticated ones."""
        limits = self._limits
        if (
            self._pending_total >= limits.handshake_pending
            or self._pending[address] >= limits.handshake_pending_per_address
        ):
            return False
        self._pending[address] += 1
        self._pending_total += 1
        return True

    def leave(self, address: str) -> None:
        """Count a connection that is authenticated or gone."""
        self._pending_total -= 1
        self._pending[address] -= 1
        if not self._pending[address]:
            del self._pending[address]

    @property
    def pending(self) -> int:
        """Handshakes in progress."""
        return self._pending_total

    def may_try(self, device_key: str, address: str, now_s: float) -> bool:
        """Say whether a credential is looked at.

        The address from which the device last succeeded is exempt from the limit per device: otherwise anybody could
        lock a device out by guessing.
        """
        if self._addresses.retry_after_s(address, now_s):
            return False
        return self._last_good.get(device_key) == address or not self._devices.retry_after_s(device_key, now_s)

    def note_failure(self, device_key: str | None, address: str, now_s: float) -> None:
        """Count a refused credential, or with no device key a line that was none."""
        self._addresses.fail(address, now_s)
        if device_key is not None:
            self._devices.fail(device_key, now_s)

    def note_success(self, device_key: str, address: str) -> None:
        """Remember where the device connects from."""
        self._last_good[device_key] = address
        self._last_good.move_to_end(device_key)
        if len(self._last_good) > _DEVICES_KEPT:
            self._last_good.popitem(last=False)


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

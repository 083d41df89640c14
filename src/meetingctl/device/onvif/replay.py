"""What was used already, tokens and counts of HTTP digest. Bounded; what was forgotten counts as used.

Times are seconds of the wall clock.
"""

from __future__ import annotations

import contextlib
import heapq
import math
import os
from collections import OrderedDict
from pathlib import Path

_MOST = 4096
_COMPACT_LINES = 4 * _MOST
_MOST_NONCES = 1024
_COUNTS_BACK = 64  # requests of one client may overtake each other by so many


class UsedTokens:
    """The digests of accepted tokens until they are too old to be accepted anyway."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._path: Path | None = None
        self._file: int | None = None
        self._lines = 0
        self._floor_s = 0.0
        self._seen: set[str] = set()
        self._by_time: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._seen)

    def take(self, digest: str, created_s: float, now_s: float) -> bool:
        """Note a right token and say whether this is its first use.

        When there are too many, the oldest are forgotten and everything made before them counts as used.
        """
        if self._floor_s > now_s + self._window_s:
            self._floor_s = 0.0  # the clock was set back
        while self._by_time and self._by_time[0][0] < now_s - self._window_s:
            self._forget_oldest()
        if digest in self._seen or created_s <= self._floor_s:
            return False
        self._note(digest, created_s)
        if len(self._seen) > _MOST:
            self._make_room(now_s)
        self._append(f"{created_s:.3f} {digest}\n")
        return True

    def _note(self, digest: str, created_s: float) -> None:
        self._seen.add(digest)
        heapq.heappush(self._by_time, (created_s, digest))

    def _forget_oldest(self) -> float:
        created_s, digest = heapq.heappop(self._by_time)
        self._seen.discard(digest)
        return created_s

    def _make_room(self, now_s: float) -> None:
        """Forget what a clock that was ahead has left, else the oldest."""
        self._by_time = [row for row in self._by_time if row[0] <= now_s + self._window_s]
        heapq.heapify(self._by_time)
        self._seen = {digest for _, digest in self._by_time}
        while len(self._seen) > _MOST:
            self._floor_s = max(self._floor_s, self._forget_oldest())

    def keep_in(self, path: Path) -> None:
        """Take over what an earlier process wrote there, and append each token: to a memory file system, for speed."""
        self._path = path
        with contextlib.suppress(OSError, UnicodeDecodeError):
            for line in path.read_text("ascii").splitlines()[-_MOST:]:
                written, _, digest = line.partition(" ")
                with contextlib.suppress(ValueError):
                    if math.isfinite(created_s := float(written)) and digest not in self._seen:
                        self._note(digest, created_s)
        self._rewrite()

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
        self._file = None

    def _append(self, line: str) -> None:
        if self._file is None:
            return
        with contextlib.suppress(OSError):
            os.write(self._file, line.encode("ascii", "replace"))
        self._lines += 1
        if self._lines > _COMPACT_LINES:
            self._rewrite()

    def _rewrite(self) -> None:
        """Write what still counts into a new file and go on appending there; without a file memory alone has to do."""
        self.close()
        if self._path is None:
            return
        new = self._path.with_suffix(".new")
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            new.unlink(missing_ok=True)
            self._file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
            os.write(self._file, "".join(f"{at_s:.3f} {digest}\n" for at_s, digest in self._by_time).encode())
            new.replace(self._path)
        self._lines = len(self._seen)


class UsedCounts:
    """The counts that came with each nonce of HTTP digest."""

    def __init__(self) -> None:
        self._nonces: OrderedDict[str, tuple[int, int]] = OrderedDict()  # the highest, and a bit for each one below
        self._made: dict[str, float] = {}
        self._floor_s = 0.0

    def __len__(self) -> int:
        return len(self._nonces)

    def take(self, nonce: str, made_s: float, count: int, now_s: float) -> bool:
        """Note a count of a nonce that was made at a moment, and say whether it is new."""
        if self._floor_s > now_s:
            self._floor_s = 0.0  # the clock was set back
        if nonce not in self._nonces and made_s <= self._floor_s:
            return False
        highest, seen = self._nonces.get(nonce, (0, 0))
        ahead = count - highest
        if ahead > 0:
            seen = ((seen << ahead) if ahead < _COUNTS_BACK else 0) & ((1 << _COUNTS_BACK) - 1) | 1
            highest = count
        elif ahead <= -_COUNTS_BACK or seen >> -ahead & 1:
            return False
        else:
            seen |= 1 << -ahead
        self._nonces[nonce], self._made[nonce] = (highest, seen), made_s
        while len(self._nonces) > _MOST_NONCES:
            self._floor_s = max(self._floor_s, self._made.pop(self._nonces.popitem(last=False)[0]))
        return True

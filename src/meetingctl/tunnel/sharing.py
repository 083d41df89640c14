"""Who gives way when all streams are taken, without I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def choose_displaced(held: Sequence[tuple[str, float]], newcomer: str, *, most: int, least_idle_s: float) -> int | None:
    """Return the index of the stream that ends for a newcomer, None when the newcomer has to go.

    `held` has the site and the seconds of silence of each live stream, `newcomer` is a site, `most` the limit. Only a
    site that holds more than half of the limit gives way to another one, with the stream that is silent for longest.
    """
    if not held:
        return None
    (largest, count) = Counter(site for site, _ in held).most_common(1)[0]
    if largest == newcomer or count * 2 <= most:
        return None
    idle_s, index = max((idle_s, -index) for index, (site, idle_s) in enumerate(held) if site == largest)
    return -index if idle_s >= least_idle_s else None

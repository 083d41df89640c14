"""One visitor's silent connections give way to others; nobody else's do."""

from __future__ import annotations

from meetingctl.tunnel.sharing import choose_displaced


def choose(held: list[tuple[str, float]], newcomer: str = "b") -> int | None:
    return choose_displaced(held, newcomer, most=4, least_idle_s=10)


def test_the_longest_silent_stream_of_the_largest_holder_gives_way() -> None:
    assert choose([("a", 11), ("c", 99), ("a", 30), ("a", 12)]) == 2


def test_of_two_equally_silent_streams_the_older_one_gives_way() -> None:
    assert choose([("a", 20), ("a", 20), ("a", 20), ("a", 20)]) == 0


def test_streams_in_use_stay() -> None:
    assert choose([("a", 9.9), ("a", 1), ("a", 2), ("a", 3)]) is None
    assert choose([("a", 10), ("a", 1), ("a", 2), ("a", 3)]) == 0


def test_nobody_gives_way_who_holds_half_or_less() -> None:
    assert choose([("a", 60), ("a", 60), ("c", 60), ("d", 60)]) is None


def test_the_largest_holder_gains_nothing_from_its_own_streams() -> None:
    assert choose([("a", 60), ("a", 60), ("a", 60), ("c", 60)], newcomer="a") is None


def test_nothing_held_is_nothing_to_give() -> None:
    assert choose([]) is None

"""The rules for visitors of agents without credits, as tables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meetingctl.tunnel.grace import GraceRules, allowed_bytes, may_resume, must_cut, must_pause

RULES = GraceRules(
    stream_bytes=100, link_bytes=400, total_bytes=1000, resume_room_bytes=10, grace_s=2.0, alone_grace_s=20.0
)


@pytest.mark.parametrize(
    ("queued", "idle_s", "is_alone", "cut"),
    [
        (99, 60.0, False, False),
        (100, 1.9, False, False),
        (100, 2.0, False, True),
        (100, 2.0, True, False),
        (100, 20.0, True, True),
        (10_000, 0.0, False, False),
    ],
)
def test_only_a_full_queue_that_does_not_move_is_cut(queued: int, idle_s: float, is_alone: bool, cut: bool) -> None:
    assert must_cut(queued, idle_s, allowed=100, is_alone=is_alone, rules=RULES) is cut


@pytest.mark.parametrize(
    ("link", "total", "queues", "pause"),
    [
        (399, 399, [399], False),
        (400, 400, [400], True),
        (150, 1001, [150], True),
        (150, 1001, [99, 51], False),
        (150, 1000, [150], False),
    ],
)
def test_reading_stops_when_the_agent_or_everybody_is_full(
    link: int, total: int, queues: list[int], pause: bool
) -> None:
    assert must_pause(link, total, queues, RULES) is pause


@pytest.mark.parametrize(
    ("queues", "is_paused", "allowed"),
    [([], False, 100), ([400], True, 100), ([399, 1], True, 100), ([50] * 8, True, 50), ([50] * 8 + [0], False, 100)],
)
def test_while_nothing_is_read_a_stream_has_its_fair_share(queues: list[int], is_paused: bool, allowed: int) -> None:
    assert allowed_bytes(queues, is_paused=is_paused, rules=RULES) == allowed


@given(st.lists(st.integers(1, 500), min_size=1, max_size=50))
def test_a_pause_always_has_somebody_to_cut(queues: list[int]) -> None:
    if must_pause(sum(queues), 0, queues, RULES):
        assert max(queues) >= allowed_bytes(queues, is_paused=True, rules=RULES)


@given(st.integers(0, 2000), st.integers(0, 4000), st.lists(st.integers(0, 500), max_size=5))
def test_a_link_that_may_resume_does_not_pause_at_once(link: int, total: int, queues: list[int]) -> None:
    if may_resume(link, total, queues, RULES):
        assert not must_pause(link + RULES.resume_room_bytes - 1, total, queues, RULES)

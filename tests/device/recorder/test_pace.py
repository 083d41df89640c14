from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meetingctl.device.recorder.pace import ClockWatch, Growth, failures_after, retry_delay_s


def test_delays_double_up_to_ten_seconds() -> None:
    assert [retry_delay_s(count, 0.0) for count in range(1, 7)] == [1, 2, 4, 8, 10, 10]


@given(st.integers(0, 10**9), st.floats(0, 1))
def test_a_delay_is_never_long_and_never_nothing(failures: int, chance: float) -> None:
    assert 0.9 <= retry_delay_s(failures, chance) <= 10


def test_a_minute_of_recording_starts_the_count_anew() -> None:
    assert failures_after(4, 59.9) == 5
    assert failures_after(4, 60.0) == 1


def test_a_segment_that_does_not_grow_is_a_stall() -> None:
    growth = Growth(0.0).seen("rec_1.ts", 100, 10.0)
    assert not growth.seen("rec_1.ts", 100, 24.9).is_stalled(24.9)
    assert growth.seen("rec_1.ts", 100, 25.0).is_stalled(25.0)
    assert not growth.seen("rec_1.ts", 101, 25.0).is_stalled(25.0)
    assert not growth.seen("rec_2.ts", 100, 25.0).is_stalled(25.0)


def test_ffmpeg_that_never_writes_is_a_stall() -> None:
    assert Growth(5.0).is_stalled(20.0)


def test_a_clock_that_is_set_is_seen_and_drift_is_not() -> None:
    watch = ClockWatch.start(1000.0, 5.0)
    assert watch.jump_s(1101.0, 105.0) == 0
    assert watch.jump_s(4700.0, 105.0) == 3600.0
    assert watch.jump_s(100.0, 105.0) == -1000.0

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meetingctl.device.stream.figures import Rates, flow_state, prometheus_text, youngest_age_s


def test_rates_are_slopes_over_the_last_seconds() -> None:
    rates = Rates()
    for tick in range(20):
        rates.sample(tick * 0.5, tick * 10, tick * 1000)
    assert rates.fps == pytest.approx(20)
    assert rates.bitrate_bps == 16_000


def test_new_media_starts_the_rates_again() -> None:
    rates = Rates()
    rates.sample(0, 1000, 5000)
    rates.sample(1, 5, 10)
    assert (rates.fps, rates.bitrate_bps) == (0, 0)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 10**6), st.integers(0, 10**9)), max_size=80))
def test_rates_are_never_negative_when_time_and_totals_grow(samples: list[tuple[float, int, int]]) -> None:
    rates = Rates()
    for now_s, frames, size in (
        zip(*(sorted(column) for column in zip(*samples, strict=True)), strict=True) if samples else ()
    ):
        rates.sample(now_s, frames, size)
    assert rates.fps >= 0
    assert rates.bitrate_bps >= 0


def test_states() -> None:
    assert flow_state(running=0, players=0, age_s=None, stall_s=3) == "idle"
    assert flow_state(running=1, players=1, age_s=0.1, stall_s=3) == "live"
    assert flow_state(running=1, players=1, age_s=9, stall_s=3) == "stalled"
    assert flow_state(running=1, players=0, age_s=9, stall_s=3) == "live"


def test_the_age_is_that_of_the_newest_frame() -> None:
    assert youngest_age_s([1.0, 4.0], 5.5) == 1.5
    assert youngest_age_s([], 5.5) is None


def test_prometheus_leaves_out_what_is_unknown_and_escapes_labels() -> None:
    text = prometheus_text({"clients": 2, "last_buffer_age_s": None, "encoder": 'x"\n'})
    assert "# TYPE meetingctl_stream_clients gauge\nmeetingctl_stream_clients 2\n" in text
    assert "last_buffer_age" not in text
    assert 'encoder="x\\" "' in text

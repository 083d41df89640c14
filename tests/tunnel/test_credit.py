"""Windows: a receiver is never sent more than it granted, and a sender never starves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meetingctl.tunnel.credit import (
    AGENT_BUDGET_BYTES,
    LARGEST_CREDIT_BYTES,
    SMALLEST_WINDOW_BYTES,
    ReceiveWindow,
    SendCredit,
    initial_window,
)

windows = st.integers(SMALLEST_WINDOW_BYTES, 4 << 20)


@given(windows, st.integers(0, 2000))
def test_new_streams_share_the_budget(window_bytes: int, open_streams: int) -> None:
    start = initial_window(window_bytes, open_streams)
    assert SMALLEST_WINDOW_BYTES <= start <= max(window_bytes, SMALLEST_WINDOW_BYTES)
    assert start == SMALLEST_WINDOW_BYTES or start * (open_streams + 1) <= AGENT_BUDGET_BYTES


@given(windows, st.integers(SMALLEST_WINDOW_BYTES, 4 << 20), st.lists(st.integers(1, 300_000), min_size=1))
def test_credit_flows_until_everything_is_delivered(granted: int, believed: int, reads: list[int]) -> None:
    """The sender may believe in a smaller window than the receiver granted: it must not wait for ever."""
    sender = SendCredit(min(believed, granted))
    receiver = ReceiveWindow(granted, smallest_window_bytes=SMALLEST_WINDOW_BYTES)
    for read in reads:
        left = read
        while left:
            part = min(left, sender.left_bytes)
            assert part > 0, "starved"
            sender.spend(part)
            assert receiver.take(part)
            receiver.deliver(part)
            assert sender.refill(receiver.credit_due())
            left -= part


@given(windows)
def test_data_beyond_the_window_is_noticed(window_bytes: int) -> None:
    window = ReceiveWindow(window_bytes)
    assert window.take(window_bytes)
    assert not window.take(1)


def test_credit_goes_back_in_halves() -> None:
    window = ReceiveWindow(100_000)
    assert window.take(100_000)
    window.deliver(49_999)
    assert window.credit_due() == 0
    window.deliver(1)
    assert window.credit_due() == 50_000
    assert window.credit_due() == 0
    assert window.take(50_000)
    assert not window.take(1)


def test_absurd_credit_is_noticed() -> None:
    credit = SendCredit(1)
    assert credit.refill(LARGEST_CREDIT_BYTES - 1)
    assert not credit.refill(1)

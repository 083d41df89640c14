"""Limits of the handshake, and what a device's recent connections tell."""

from __future__ import annotations

from meetingctl.tunnel.gate import DeviceHistory, Gate
from meetingctl.tunnel.rules import ProxyLimits

LIMITS = ProxyLimits(handshake_pending=5, handshake_pending_per_address=2)


def test_pending_handshakes_are_bounded_per_address_and_in_all() -> None:
    gate = Gate(LIMITS)
    assert [gate.enter("a") for _ in range(3)] == [True, True, False]
    assert [gate.enter(name) for name in "bbcd"] == [True, True, True, False]
    gate.leave("a")
    assert gate.enter("d")
    assert gate.pending == 5


def test_five_failures_of_a_device_close_it_for_a_quarter_of_an_hour() -> None:
    gate = Gate(ProxyLimits())
    for second in range(5):
        assert gate.may_try("K", f"10.0.0.{second}", second)
        gate.note_failure("K", f"10.0.0.{second}", second)
    assert not gate.may_try("K", "10.0.0.9", 5)
    assert gate.may_try("L", "10.0.0.9", 5)
    assert gate.may_try("K", "10.0.0.9", 901)


def test_a_guesser_cannot_lock_a_device_out_of_its_own_address() -> None:
    gate = Gate(ProxyLimits())
    gate.note_success("K", "192.0.2.7")
    for second in range(5):
        gate.note_failure("K", "203.0.113.1", second)
    assert gate.may_try("K", "192.0.2.7", 6)
    assert not gate.may_try("K", "192.0.2.8", 6)


def test_twenty_failures_close_an_address_for_every_device() -> None:
    gate = Gate(ProxyLimits())
    gate.note_success("K", "192.0.2.7")
    for second in range(20):
        gate.note_failure(None, "192.0.2.7", second)
    assert not gate.may_try("K", "192.0.2.7", 21)
    assert gate.may_try("K", "192.0.2.8", 21)


def test_the_fifth_takeover_within_a_minute_is_worth_an_event() -> None:
    history, limits = DeviceHistory(), ProxyLimits()
    assert [history.note_takeover(second, limits) for second in (0, 10, 20, 30, 40)] == [False] * 4 + [True]
    assert [history.note_takeover(100 + second, limits) for second in (0, 20, 40, 60, 80, 100)] == [False] * 6


def test_three_short_lives_in_a_row_mean_an_agent_that_is_too_old() -> None:
    history, limits = DeviceHistory(), ProxyLimits()
    lives = [(0.1, False), (0.1, False), (50.0, False), (0.1, False), (0.1, True), (0.1, False), (0.2, False)]
    assert not any(history.note_life(life_s, spoke=spoke, limits=limits) for life_s, spoke in lives)
    assert history.note_life(0.3, spoke=False, limits=limits)
    assert not history.note_life(0.3, spoke=False, limits=limits)

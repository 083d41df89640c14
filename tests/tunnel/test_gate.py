"""Limits of the handshake, and what a device's recent connections tell."""

from __future__ import annotations

from meetingctl.tunnel.gate import DeviceHistory, Gate
from meetingctl.tunnel.rules import ProxyLimits

LIMITS = ProxyLimits(handshake_pending=5, handshake_pending_per_address=2)


def test_the_oldest_pending_handshake_of_an_address_makes_room() -> None:
    gate = Gate(LIMITS)
    assert [gate.enter(number, "a") for number in (1, 2, 3, 4)] == [None, None, 1, 2]
    assert gate.pending == 2


def test_the_oldest_of_all_makes_room_when_all_is_full() -> None:
    gate = Gate(LIMITS)
    assert [gate.enter(number, name) for number, name in enumerate("abcdefg", 1)] == [None] * 5 + [1, 2]
    gate.leave(1)
    gate.leave(3)
    assert gate.enter(8, "h") is None
    assert gate.enter(9, "i") == 4
    assert gate.pending == 5


def test_pending_handshakes_of_an_ipv6_network_count_together() -> None:
    gate = Gate(LIMITS)
    assert [gate.enter(number, f"2001:db8::{number}") for number in (1, 2, 3)] == [None, None, 1]


def guess(gate: Gate, device_key: str, address: str, count: int, now_s: float = 0) -> None:
    for number in range(count):
        gate.note_wrong_token(device_key, f"BAD{number:03}", address, now_s)


def test_five_guesses_at_a_device_close_it_for_a_quarter_of_an_hour() -> None:
    gate = Gate(ProxyLimits())
    for second in range(5):
        assert gate.may_try("K", f"10.0.0.{second}", second)
        gate.note_wrong_token("K", f"BAD00{second}", f"10.0.0.{second}", second)
    assert not gate.may_try("K", "10.0.0.9", 5)
    assert gate.may_try("L", "10.0.0.9", 5)
    assert gate.may_try("K", "10.0.0.9", 901)


def test_a_guesser_cannot_lock_a_device_out_of_its_own_address() -> None:
    gate = Gate(ProxyLimits())
    gate.note_right_token("K", "192.0.2.7")
    guess(gate, "K", "203.0.113.1", 5)
    assert gate.may_try("K", "192.0.2.7", 6)
    assert not gate.may_try("K", "192.0.2.8", 6)


def test_a_device_that_repeats_its_old_token_counts_once() -> None:
    gate = Gate(ProxyLimits())
    for second in range(0, 900, 5):
        gate.note_wrong_token("OLD", "bad000" if second % 2 else "BAD000", "192.0.2.7", second)
        assert gate.may_try("OLD", "192.0.2.7", second)
        assert gate.may_try("K", "192.0.2.7", second)


def test_twenty_guesses_close_an_address_except_for_the_devices_that_succeeded_from_it() -> None:
    gate = Gate(ProxyLimits())
    gate.note_right_token("K", "192.0.2.7")
    guess(gate, "L", "192.0.2.7", 20)
    assert not gate.may_try("M", "192.0.2.7", 21)
    assert gate.may_try("M", "192.0.2.8", 21)
    assert gate.may_try("K", "192.0.2.7", 21)


def test_guesses_at_a_device_from_its_own_address_have_a_limit_too() -> None:
    gate = Gate(ProxyLimits())
    gate.note_right_token("K", "192.0.2.7")
    guess(gate, "K", "192.0.2.7", 19)
    assert gate.may_try("K", "192.0.2.7", 1)
    guess(gate, "K", "192.0.2.7", 20)
    assert not gate.may_try("K", "192.0.2.7", 1)


def test_noise_closes_an_address_only_for_newcomers_and_the_same_noise_counts_once() -> None:
    gate = Gate(ProxyLimits())
    gate.note_right_token("K", "192.0.2.7")
    for second in range(200):
        gate.note_noise("GET / HTTP/1.1", "192.0.2.7", second)
    assert gate.may_try("M", "192.0.2.7", 200)
    for number in range(100):
        gate.note_noise(f"noise {number}", "192.0.2.7", 200)
    assert not gate.may_try("M", "192.0.2.7", 201)
    assert gate.may_try("K", "192.0.2.7", 201)


def test_an_ipv6_host_cannot_guess_from_each_address_of_its_network() -> None:
    gate = Gate(ProxyLimits())
    for number in range(20):
        gate.note_wrong_token(f"K{number}", "BAD000", f"2001:db8::{number:x}", 0)
    assert not gate.may_try("M", "2001:db8::ffff:1", 1)
    assert gate.may_try("M", "2001:db8:0:1::1", 1)


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

"""A device that comes and goes all the time gets a few lines a minute, which say so."""

from __future__ import annotations

from meetingctl.tunnel.pace import EventPace


def test_a_few_events_pass_and_the_next_one_counts_the_rest() -> None:
    pace = EventPace(per_min=3)
    passed = [pace.pass_on("K", "agent up", "new", now_s) for now_s in (0, 0, 0, 1, 2)]
    assert passed == ["new", "new", "new", None, None]
    assert pace.pass_on("K", "agent up", "new", 21) == "new (+2)"
    assert pace.pass_on("K", "agent up", "new", 41) == "new"


def test_kinds_and_devices_do_not_wait_for_each_other() -> None:
    pace = EventPace(per_min=1)
    subjects = [("K", "agent up"), ("K", "agent lost"), ("L", "agent up")]
    assert [pace.pass_on(key, kind, "x", 0) for key, kind in subjects] == ["x"] * 3


def test_a_thousand_events_in_a_minute_leave_a_handful() -> None:
    pace = EventPace(per_min=5)
    written = [pace.pass_on("K", "agent up", "new", count * 0.06) for count in range(1000)]
    assert sum(detail is not None for detail in written) <= 10

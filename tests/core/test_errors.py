import re

import meetingctl.core.errors as errors
from meetingctl.core.errors import Forbidden, MeetingctlError, RateLimited, error_for_status


def _leaves() -> list[type[MeetingctlError]]:
    return [item for item in vars(errors).values() if isinstance(item, type) and issubclass(item, MeetingctlError)]


def test_the_drawing_shows_every_error_with_its_numbers() -> None:
    drawn = dict(
        (match[1], (int(match[2]), int(match[3]), match[4]))
        for match in re.finditer(r"(\w+)\s+(\d+)\s+(\d{3})\s+(\w+)", errors.__doc__ or "")
    )
    assert drawn == {e.__name__: (e.exit_code, e.http_status, e.code) for e in _leaves()}


def test_slugs_are_unique() -> None:
    slugs = [leaf.code for leaf in _leaves()]
    assert len(slugs) == len(set(slugs))


def test_a_status_becomes_the_leaf_of_the_same_status() -> None:
    for status in (400, 401, 403, 404, 409, 413, 415, 429, 503, 504, 507):
        assert error_for_status(status, "x").http_status == status
    assert type(error_for_status(403, "x")) is Forbidden
    assert type(error_for_status(599, "x")) is MeetingctlError


def test_rate_limits_say_how_long_to_wait() -> None:
    assert RateLimited("Too many requests", retry_after_s=7).retry_after_s == 7

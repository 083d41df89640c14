from hypothesis import given
from hypothesis import strategies as st

from meetingctl.core.limits import FailureLimiter, TokenBucket


def test_a_subject_waits_after_its_failures_and_not_before() -> None:
    limiter = FailureLimiter(limit=3, window_s=100)
    for at in (0.0, 10.0, 20.0):
        assert limiter.retry_after_s("a", at) == 0
        limiter.fail("a", at)
    assert limiter.retry_after_s("a", 30.0) == 70
    assert limiter.retry_after_s("b", 30.0) == 0
    assert limiter.retry_after_s("a", 100.0) == 0
    limiter.clear("a")
    assert limiter.retry_after_s("a", 30.0) == 0


def test_invented_subjects_do_not_grow_memory() -> None:
    limiter = FailureLimiter(limit=1, window_s=1e9, capacity=50)
    for number in range(500):
        limiter.fail(number, float(number))
    assert sum(limiter.retry_after_s(number, 500.0) > 0 for number in range(500)) == 50


def test_a_bucket_gives_a_burst_and_then_one_per_interval() -> None:
    bucket = TokenBucket(interval_s=5, burst=5)
    assert [bucket.allow("d", 100.0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert bucket.retry_after_s("d", 100.0) == 5
    assert not bucket.allow("d", 104.0)
    assert bucket.allow("d", 105.0)
    assert not bucket.allow("d", 105.0)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=200))
def test_a_bucket_never_gives_more_than_its_rate(times: list[float]) -> None:
    bucket = TokenBucket(interval_s=2, burst=3)
    given_at = [at for at in sorted(times) if bucket.allow("d", at)]
    assert len(given_at) <= 3 + (max(times) - min(times)) / 2 + 1


def test_a_full_bucket_table_forgets_idle_subjects() -> None:
    bucket = TokenBucket(interval_s=1, burst=1, capacity=10)
    for number in range(1000):
        assert bucket.allow(number, number * 0.01)
    assert not bucket.allow(999, 9.99)

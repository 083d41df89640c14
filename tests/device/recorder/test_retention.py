from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meetingctl.device.recorder.retention import (
    Limits,
    Recording,
    Space,
    is_over_quota,
    lacks_free_space,
    plan_pruning,
    space_level,
)


def recording(name: str, size: int = 10, at: float = 0.0) -> Recording:
    return Recording(name, size, at)


FILES = [recording("rec_c.ts", at=3), recording("rec_a.ts", at=1), recording("rec_b.ts", at=2)]


def names(plan) -> list[str]:
    return [item.name for item in plan.delete]


def test_nothing_goes_while_both_limits_hold() -> None:
    plan = plan_pruning(FILES, Space(100, 30), Limits(100, 30))
    assert names(plan) == []
    assert not plan.is_stuck


def test_the_oldest_goes_first_until_enough_is_free() -> None:
    plan = plan_pruning(FILES, Space(85, 30), Limits(min_free_bytes=100))
    assert names(plan) == ["rec_a.ts", "rec_b.ts"]
    assert plan.after == Space(105, 10)
    assert not plan.is_stuck


def test_the_quota_counts_when_the_disk_has_room() -> None:
    plan = plan_pruning(FILES, Space(10_000, 30), Limits(max_folder_bytes=25))
    assert names(plan) == ["rec_a.ts"]


def test_equal_times_go_by_name() -> None:
    files = [recording("rec_2.ts"), recording("rec_1.ts"), recording("rec_3.ts")]
    assert names(plan_pruning(files, Space(0, 30), Limits(max_folder_bytes=20))) == ["rec_1.ts"]


def test_locked_and_newest_stay_and_the_plan_says_that_it_is_stuck() -> None:
    plan = plan_pruning(FILES, Space(0, 30), Limits(min_free_bytes=100), protected={"rec_a.ts"})
    assert names(plan) == ["rec_b.ts"]
    assert plan.is_stuck


def test_a_single_recording_is_the_newest() -> None:
    plan = plan_pruning([recording("rec_a.ts")], Space(0, 10), Limits(100, 1))
    assert names(plan) == []
    assert plan.is_stuck


def test_zero_switches_a_limit_off() -> None:
    assert names(plan_pruning(FILES, Space(0, 1 << 50), Limits.of(min_free_mb=0, max_folder_mb=0))) == []


def test_levels() -> None:
    limits = Limits.of(min_free_mb=1, max_folder_mb=10)
    mib = 1 << 20
    assert space_level(Space(mib, mib), limits) == "ok"
    assert space_level(Space(mib, 9 * mib), limits) == "warning"
    assert space_level(Space(mib, 10 * mib + 1), limits) == "full"
    assert space_level(Space(mib - 1, 0), limits) == "full"


files = st.lists(
    st.builds(
        Recording,
        name=st.integers(0, 10_000).map("rec_{}.ts".format),
        size_bytes=st.integers(0, 1000),
        mtime_s=st.floats(-10, 10),
    ),
    unique_by=lambda item: item.name,
    max_size=12,
)
limits = st.builds(Limits, st.integers(0, 5000), st.integers(0, 5000))


@given(files, st.integers(0, 5000), st.integers(0, 2000), limits, st.data())
def test_what_must_never_be_deleted_is_not_and_no_more_than_needed(files, free, others, limits, data) -> None:
    protected = data.draw(st.sets(st.sampled_from([item.name for item in files]))) if files else set()
    space = Space(free, sum(item.size_bytes for item in files) + others)
    plan = plan_pruning(files, space, limits, protected=protected)
    gone = set(names(plan))
    assert not gone & protected
    if files:
        newest = max(files, key=lambda item: (item.mtime_s, item.name))
        assert newest.name not in gone
        kept = [item for item in files if item.name not in gone | protected | {newest.name}]
        # No kept file is older than a deleted one, and the last deletion was needed.
        ages = [(item.mtime_s, item.name) for item in plan.delete]
        assert all(age < (item.mtime_s, item.name) for age in ages for item in kept)
        assert plan.is_stuck <= (not kept)
    if plan.delete:
        before_last = Space(
            plan.after.free_bytes - plan.delete[-1].size_bytes, plan.after.folder_bytes + plan.delete[-1].size_bytes
        )
        assert lacks_free_space(before_last, limits) or is_over_quota(before_last, limits)
    again = plan_pruning([item for item in files if item.name not in gone], plan.after, limits, protected=protected)
    assert again.delete == ()

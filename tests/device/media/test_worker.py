from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from meetingctl.core.layout import RECORDINGS_DIR
from meetingctl.device.media.cache import MediaCache
from meetingctl.device.media.thumbnail import is_fresh, make_thumbnail, thumbnail_of
from meetingctl.device.media.worker import MediaWorker
from meetingctl.device.system import System

from .conftest import wait_until

Put = Callable[[str, bytes], str]
NAME = "rec_20260117_143025.ts"


def test_a_job_is_queued_once_and_the_queue_is_bounded(system: System) -> None:
    worker = MediaWorker(system, largest_queue=2)
    assert worker.add("/a.ts")
    assert not worker.add("/a.ts")
    assert worker.add("/b.ts")
    assert not worker.add("/c.ts")
    assert worker.status()["queue_size"] == 2
    assert worker.status()["running"] is False


@pytest.mark.real
def test_a_closed_segment_gets_facts_and_a_picture(system: System, put: Put, clip: bytes) -> None:
    worker = MediaWorker(system)
    with worker.running():
        path = put(NAME, clip)
        worker.add(path)
        wait_until(lambda: worker.status()["thumbnails_generated"] == 1 and worker.status()["queue_size"] == 0)
        with MediaCache(system) as cache:
            row = wait_until(lambda: (found := cache.get(path)) and found["thumbnail_generated"] and found)
        assert worker.status()["running"] is True
    assert row["resolution"] == "160x120"
    assert row["codec"] == "h264"
    assert row["has_audio"] == 1
    assert 2.5 < row["duration"] < 3.5
    assert row["fps"] == 10
    picture = system.path(thumbnail_of(path))
    assert picture.name == "rec_20260117_143025.jpg"
    assert picture.read_bytes()[:3] == b"\xff\xd8\xff"
    assert [item.name for item in picture.parent.iterdir()] == [picture.name]
    assert worker.status() == {
        "running": False, "queue_size": 0, "thumbnails_generated": 1, "metadata_extracted": 1, "errors": 0,
    }  # fmt: skip


@pytest.mark.real
def test_the_start_finds_what_is_missing_and_what_is_gone(system: System, put: Put, clip: bytes) -> None:
    old, new = put(NAME, clip), put("rec_2.ts", clip)
    with MediaCache(system) as cache:
        cache.note_file(old)
        gone = put("rec_3.ts", b"x")
        cache.note_file(gone)
        system.path(gone).unlink()
        worker = MediaWorker(system)
        with worker.running():
            wait_until(lambda: worker.status()["thumbnails_generated"] == 2)
        assert {row["filepath"] for row in cache.rows()} == {old, new}


@pytest.mark.real
def test_a_file_that_is_no_video_costs_an_error_and_nothing_else(system: System, put: Put, clip: bytes) -> None:
    worker = MediaWorker(system)
    with worker.running():
        broken = put("rec_1.ts", b"no video at all")
        worker.add(broken)
        worker.add(put("rec_2.ts", clip))
        wait_until(lambda: worker.status()["thumbnails_generated"] == 1)
    assert worker.status()["errors"] == 2
    assert not system.path(thumbnail_of(broken)).exists()


@pytest.mark.real
def test_a_deleted_recording_is_forgotten(system: System, put: Put, clip: bytes) -> None:
    path = put(NAME, clip)
    worker = MediaWorker(system)
    with worker.running(), MediaCache(system) as cache:
        wait_until(lambda: worker.status()["thumbnails_generated"] == 1)
        system.path(path).unlink()
        worker.forget(path)
        wait_until(lambda: cache.get(path) is None)
        wait_until(lambda: not system.path(thumbnail_of(path)).exists())


@pytest.mark.real
def test_a_thumbnail_is_old_when_its_recording_is_newer(system: System, put: Put, clip: bytes) -> None:
    path = put(NAME, clip)
    assert make_thumbnail(system, path)
    assert is_fresh(system, path)
    os.utime(system.path(path), (2e9, 2e9))
    assert not is_fresh(system, path)


@pytest.mark.real
def test_a_stop_does_not_wait_for_the_rest(system: System, put: Put, clip: bytes) -> None:
    for number in range(30):
        put(f"rec_{number:02d}.ts", clip)
    worker = MediaWorker(system)
    with worker.running():
        wait_until(lambda: worker.status()["queue_size"] > 0)
    assert worker.status()["queue_size"] > 0
    assert worker.status()["running"] is False


def test_without_its_programs_the_worker_goes_on(system: System, put: Put) -> None:
    bare = System(system.root, env={"PATH": "/nonexistent"})
    worker = MediaWorker(bare)
    with worker.running():
        path = put(NAME, b"x")
        worker.add(path)
        wait_until(lambda: worker.status()["errors"] >= 2)
        with MediaCache(bare) as cache:
            wait_until(lambda: cache.get(f"{RECORDINGS_DIR}/{NAME}"))

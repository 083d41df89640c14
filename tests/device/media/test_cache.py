from __future__ import annotations

import os
import sqlite3
import threading
from pathlib import Path

import pytest

from meetingctl.core.errors import MeetingctlError
from meetingctl.core.layout import MEDIA_CACHE_DB
from meetingctl.device.media.cache import COLUMNS, MediaCache
from meetingctl.device.media.probe import Metadata
from meetingctl.device.media.thumbnail import thumbnail_of
from meetingctl.device.system import System

METADATA = Metadata(300.5, 640, 480, "h264", 1_200_000, 15.0, True, '{"streams":[]}')


def thumbnail(system: System, device_path: str, size: int = 100) -> Path:
    path = system.path(thumbnail_of(device_path))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"j" * size)
    return path


def test_the_schema_has_the_fields_of_the_original(system: System) -> None:
    MediaCache(system).close()
    connection = sqlite3.connect(system.path(MEDIA_CACHE_DB))
    names = [row[1] for row in connection.execute("PRAGMA table_info(media_cache)")]
    assert names == list(COLUMNS)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("SELECT version FROM schema_version").fetchall() == [(1,)]
    connection.close()


def test_a_file_is_known_after_its_metadata_and_until_it_changes(system: System, put) -> None:
    path = put("rec_1.ts", b"x")
    with MediaCache(system) as cache:
        assert cache.note_file(path)
        assert not cache.is_current(path)
        assert cache.note_file(path, METADATA)
        assert cache.is_current(path)
        row = cache.get(path)
        assert row is not None
        assert (row["duration_human"], row["resolution"], row["has_audio"]) == ("0:05:00", "640x480", 1)
        os.utime(system.path(path), (2e9, 2e9))
        assert not cache.is_current(path)
        assert len(cache.rows()) == 1


def test_new_facts_of_a_file_keep_what_was_known(system: System, put) -> None:
    path = put("rec_1.ts", b"x")
    with MediaCache(system) as cache:
        cache.note_file(path, METADATA)
        first = cache.get(path)
        cache.note_file(path)
        again = cache.get(path)
    assert first is not None
    assert again is not None
    assert (again["id"], again["duration"], again["created_at"]) == (first["id"], 300.5, first["created_at"])


def test_what_is_written_is_seen_by_others(system: System, put) -> None:
    path = put("rec_1.ts", b"x")
    with MediaCache(system) as cache, MediaCache(system) as other:
        cache.note_file(path, METADATA)
        assert other.get(path) is not None


def test_a_missing_file_is_not_written(system: System) -> None:
    with MediaCache(system) as cache:
        assert not cache.note_file("/var/cache/rpi-cam/recordings/rec_9.ts", METADATA)
        assert cache.rows() == []


def test_forget_drops_row_and_thumbnail(system: System, put) -> None:
    path = put("rec_1.ts", b"x")
    picture = thumbnail(system, path)
    with MediaCache(system) as cache:
        cache.note_file(path, METADATA)
        cache.forget(path)
        assert cache.rows() == []
    assert not picture.exists()


def test_orphans_go_and_the_rest_stays(system: System, put) -> None:
    kept, gone = put("rec_1.ts", b"x"), put("rec_2.ts", b"x")
    pictures = [thumbnail(system, path) for path in (kept, gone, "/x/rec_3.ts")]
    with MediaCache(system) as cache:
        for path in (kept, gone):
            cache.note_file(path, METADATA)
        system.path(gone).unlink()
        assert cache.remove_orphans() == {"entries": 1, "thumbnails": 1}
        assert [row["filepath"] for row in cache.rows()] == [kept]
    assert [path.exists() for path in pictures] == [True, False, False]


def test_statistics_have_the_keys_and_units_of_the_original(system: System, put) -> None:
    first, second = put("rec_1.ts", b"x"), put("rec_2.ts", b"x")
    with MediaCache(system) as cache:
        thumbnail(system, first, 2048)
        cache.note_file(first, METADATA)
        cache.note_file(second, METADATA)
        figures = cache.statistics()
    size = figures.pop("database_size")
    assert size > 0
    assert figures.pop("database_size_human").endswith("Ko")
    assert figures == {
        "total_entries": 2,
        "with_thumbnails": 1,
        "missing_thumbnails": 1,
        "total_duration_seconds": 601.0,
        "total_duration_human": "0:10:01",
        "thumbnail_cache_size": 2048,
        "thumbnail_cache_size_human": "2.0 Ko",
    }


@pytest.mark.parametrize("content", [b"this is no database" * 100, None])
def test_a_damaged_or_foreign_database_is_begun_anew(system: System, put, content: bytes | None) -> None:
    database = system.path(MEDIA_CACHE_DB)
    database.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        connection = sqlite3.connect(database)
        connection.execute("CREATE TABLE media_cache (id INTEGER PRIMARY KEY, path TEXT)")
        connection.close()
    else:
        database.write_bytes(content)
    with MediaCache(system) as cache:
        assert cache.note_file(put("rec_1.ts", b"x"))
    assert database.with_name("media_cache.db.old").exists()


def test_a_folder_that_is_a_file_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "var").write_text("x")
    with pytest.raises(MeetingctlError, match="/var/cache/rpi-cam"):
        MediaCache(System(tmp_path))


def test_many_may_open_it_first(system: System) -> None:
    failures: list[BaseException] = []

    def open_and_close() -> None:
        try:
            MediaCache(system).close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=open_and_close) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == []

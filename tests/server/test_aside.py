"""Files whose row could not be written are as they were before."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from planes import Fleet

from meetingctl.server.aside import recover_files, restored_on_failure
from meetingctl.server.catalog.orphans import find_orphans
from meetingctl.server.db.schema import distribution_files

PLACE = {"devicetype": "rpi", "distribution": "d1"}


class Failing(Exception):
    pass


@pytest.mark.parametrize("before", [None, "old"])
@pytest.mark.parametrize("change", ["replace", "remove", "nothing"])
def test_a_failure_puts_the_file_back(tmp_path: Path, before: str | None, change: str) -> None:
    path, folder = tmp_path / "a", tmp_path / "aside"
    if before is not None:
        path.write_text(before)

    def fail() -> None:
        with restored_on_failure(tmp_path, path, folder, sha256=None):
            if change == "replace":
                (tmp_path / "new").write_text("new")
                (tmp_path / "new").replace(path)
            elif change == "remove":
                path.unlink(missing_ok=True)
            raise Failing

    with pytest.raises(Failing):
        fail()
    assert (path.read_text() if path.exists() else None) == before
    assert list(folder.iterdir()) == []


def test_what_goes_well_stays(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    with restored_on_failure(tmp_path, path, tmp_path / "aside", sha256="new"):
        (tmp_path / "new").write_text("new")
        (tmp_path / "new").replace(path)
    assert path.read_text() == "new"
    assert list((tmp_path / "aside").iterdir()) == []


@pytest.mark.parametrize("before", [None, "old"])
@pytest.mark.parametrize("committed", [True, False])
def test_after_a_crash_the_row_decides(tmp_path: Path, before: str | None, committed: bool) -> None:
    path, folder = tmp_path / "a", tmp_path / "aside"
    if before is not None:
        path.write_text(before)
    crash = restored_on_failure(tmp_path, path, folder, sha256="of the new one")
    crash.__enter__()
    (tmp_path / "new").write_text("new")
    (tmp_path / "new").replace(path)
    recorded = "of the new one" if committed else before
    assert recover_files(tmp_path, folder, lambda _: recorded, older_than_s=60) == [], "it may still be at work"
    assert recover_files(tmp_path, folder, lambda _: recorded, older_than_s=0) == ([] if committed else ["a"])
    assert (path.read_text() if path.exists() else None) == ("new" if committed else before)
    assert list(folder.iterdir()) == []


@pytest.fixture
def stored(fleet: Fleet) -> Fleet:
    for path in ("create-type", "create-distribution"):
        assert fleet.call("POST", f"/api/flash/{path}", key=fleet.admin, json=PLACE).status_code == 200
    fleet.device(device_type="rpi", distribution="d1")
    assert upload(fleet, b"old").status_code == 200
    assert fleet.call("PUT", "/api/devices/cam-1/distrib-json", key=fleet.admin, json={"a": 1}).status_code == 200
    return fleet


def upload(fleet: Fleet, content: bytes, name: str = "a.bin") -> Any:
    return fleet.call("POST", "/api/flash/upload", key=fleet.admin, data=PLACE, files={"file": (name, content)})


def test_a_transaction_that_fails_leaves_the_old_files(stored: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit comes after the file has changed: it must not be the point of no return."""
    run = stored.state.writer.run

    def fail_after(operation: Any) -> Any:
        def failing(connection: Any) -> Any:
            operation(connection)
            raise OSError(28, "No space left on device")

        return run(failing)

    monkeypatch.setattr(type(stored.state.writer), "run", lambda _self, operation: fail_after(operation))
    assert upload(stored, b"newer").status_code == 507
    assert stored.call("PUT", "/api/devices/cam-1/distrib-json", key=stored.admin, json={"b": 2}).status_code == 507
    assert stored.call("DELETE", "/api/flash/rpi/d1/a.bin", key=stored.admin).status_code == 507
    monkeypatch.undo()
    folder = stored.data_dir / "storage" / "rpi" / "d1"
    assert (folder / "a.bin").read_bytes() == b"old"
    assert (folder / "distrib.json").read_bytes() == b'{"a":1}'
    with stored.database.read() as connection:
        assert find_orphans(stored.data_dir, connection) == []


def test_a_record_without_its_file_can_be_deleted(stored: Fleet) -> None:
    (stored.data_dir / "storage" / "rpi" / "d1" / "a.bin").unlink()
    assert stored.call("DELETE", "/api/flash/rpi/d1/a.bin", key=stored.admin).status_code == 200
    assert [row["filename"] for row in stored.rows(distribution_files.select())] == ["distrib.json"]
    assert stored.call("DELETE", "/api/flash/rpi/d1/a.bin", key=stored.admin).status_code == 404


def test_distrib_json_is_json_whichever_way_it_comes(stored: Fleet) -> None:
    assert upload(stored, b"data", "distrib.json").json() == {"error": "Invalid JSON"}
    assert upload(stored, b"[1]", "distrib.json").status_code == 200
    assert stored.call("GET", "/api/devices/cam-1/distrib-json", key=stored.admin).json() == [1]


def test_links_in_the_place_of_folders_are_not_followed(stored: Fleet, tmp_path: Path) -> None:
    incoming, outside = stored.data_dir / "storage" / ".incoming", tmp_path / "outside"
    outside.mkdir()
    shutil.rmtree(incoming, ignore_errors=True)
    incoming.symlink_to(outside)
    assert upload(stored, b"x").status_code == 400
    assert list(outside.iterdir()) == []

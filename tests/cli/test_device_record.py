"""`device record` through `main()`, on a device in a folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from meetingctl.core.layout import CONFIG_ENV, LOCKED_RECORDINGS_JSON, RECORDINGS_DIR

from .runner import Cli


@pytest.fixture
def root(cli: Cli) -> Path:
    root = cli.home / "root"
    folder = root / RECORDINGS_DIR.lstrip("/")
    folder.mkdir(parents=True)
    for number in range(1, 5):
        path = folder / f"rec_2026011{number}_120000.ts"
        path.write_bytes(b"x" * (1 << 20))
        os.utime(path, (number, number))
    (folder / "holiday.ts").write_bytes(b"x")
    os.utime(folder / "holiday.ts", (0, 0))
    config = root / CONFIG_ENV.lstrip("/")
    config.parent.mkdir(parents=True)
    config.write_text("MIN_FREE_DISK_MB=0\n")
    return root


def left(root: Path) -> list[str]:
    return sorted(path.name for path in (root / RECORDINGS_DIR.lstrip("/")).glob("*.ts"))


def test_list_shows_rows_and_narrows_them(cli: Cli, root: Path) -> None:
    rows = cli("device", "record", "list", "--json").json
    assert [row["name"] for row in rows][:2] == ["rec_20260114_120000.ts", "rec_20260113_120000.ts"]
    assert rows[0]["size_display"] == "1.0 Mo"
    assert rows[0]["state"] == "closed"
    some = cli("device", "record", "list", "--search", "0111", "--fields", "name,size_bytes", "--json").json
    assert some == [{"name": "rec_20260111_120000.ts", "size_bytes": 1 << 20}]
    assert cli("device", "record", "list", "--only", "locked").out == ""


def test_a_wrong_filter_names_what_is_allowed(cli: Cli, root: Path) -> None:
    result = cli("device", "record", "list", "--only", "nonsense")
    assert result.code == 2
    assert "allowed is one of all, locked" in result.err


def test_prune_shows_its_plan_first_and_keeps_what_is_locked(cli: Cli, root: Path) -> None:
    assert cli("device", "record", "lock", "rec_20260111_120000.ts").code == 0
    options = ("device", "record", "prune", "--max-mb", "3", "--json")
    plan = cli(*options, "--dry-run").json
    assert plan["deleted"] == ["rec_20260112_120000.ts", "rec_20260113_120000.ts"]
    assert len(left(root)) == 5
    done = cli(*options).json
    assert done["deleted"] == plan["deleted"]
    assert left(root) == ["holiday.ts", "rec_20260111_120000.ts", "rec_20260114_120000.ts"]


def test_prune_fails_when_nothing_more_may_go(cli: Cli, root: Path) -> None:
    result = cli("device", "record", "prune", "--min-free-mb", "1000000")
    assert result.code == 1
    assert "disk full, nothing may be deleted" in result.err
    assert "hint: meetingctl device record list --only locked" in result.err
    assert left(root) == ["holiday.ts", "rec_20260114_120000.ts"]


def test_delete_asks_and_skips_locked_ones(cli: Cli, root: Path) -> None:
    name = "rec_20260111_120000.ts"
    assert cli("device", "record", "delete", name).code == 2
    cli("device", "record", "lock", name)
    result = cli("device", "record", "delete", name, "rec_20260112_120000.ts", "--yes", "--json")
    assert result.code == 0
    assert result.json == {"deleted": ["rec_20260112_120000.ts"], "skipped_locked": [name], "failed": {}}
    assert cli("device", "record", "delete", name, "--yes", "--force").code == 0
    assert json.loads((root / LOCKED_RECORDINGS_JSON.lstrip("/")).read_text()) == []
    assert cli("device", "record", "delete", "../../../etc/passwd", "--yes").code == 3


def test_unlock_also_after_the_file_is_gone(cli: Cli, root: Path) -> None:
    assert cli("device", "record", "lock", "rec_19990101_000000.ts").code == 1
    assert cli("device", "record", "lock", "rec_20260111_120000.ts", "--json").json == {
        "locked": ["rec_20260111_120000.ts"]
    }
    (root / RECORDINGS_DIR.lstrip("/") / "rec_20260111_120000.ts").unlink()
    assert cli("device", "record", "unlock", "rec_20260111_120000.ts", "--json").json == {"locked": []}


def test_export_writes_files_and_replaces_none(cli: Cli, root: Path, tmp_path: Path) -> None:
    out = tmp_path / "usb"
    out.mkdir()
    names = ("rec_20260111_120000.ts", "rec_20260112_120000.ts")
    result = cli("device", "record", "export", *names, "--out", str(out), "--json")
    assert [row["size_bytes"] for row in result.json] == [1 << 20, 1 << 20]
    assert sorted(path.name for path in out.iterdir()) == list(names)
    assert cli("device", "record", "export", names[0], "--out", str(out)).code == 1
    assert cli("device", "record", "export", names[0], "--out", str(out), "--force").code == 0
    assert cli("device", "record", "export", *names, "--out", str(tmp_path / "one.ts")).code == 2


def test_status_says_that_nothing_runs(cli: Cli, root: Path) -> None:
    result = cli("device", "record", "status", "--json")
    assert (result.code, result.json["running"], result.json["state"]) == (0, False, "stopped")
    text = cli("device", "record", "status")
    assert "systemctl start rtsp-recorder" in text.err


def test_reload_checks_the_file_first_and_needs_a_recorder(cli: Cli, root: Path) -> None:
    result = cli("device", "record", "reload")
    assert (result.code, "hint: systemctl start rtsp-recorder" in result.err) == (1, True)
    (root / CONFIG_ENV.lstrip("/")).write_text("SEGMENT_SECONDS=7\n")
    wrong = cli("device", "record", "reload")
    assert wrong.code == 78
    assert "SEGMENT_SECONDS is '7', allowed is" in wrong.err


@pytest.mark.real
def test_a_recording_without_a_picture_is_named(cli: Cli, root: Path, require_program) -> None:
    require_program("ffmpeg")
    result = cli("device", "record", "thumbnail", "rec_20260111_120000.ts", "--json")
    assert result.code == 3
    assert result.json == [{"name": "rec_20260111_120000.ts", "state": "failed", "thumbnail": None}]

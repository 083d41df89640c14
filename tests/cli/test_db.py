"""`db`: what its errors say to do, and that its dry runs look first."""

from __future__ import annotations

from pathlib import Path

import pytest

from .runner import Cli


@pytest.fixture
def data(cli: Cli, tmp_path: Path) -> str:
    """Return a data folder with a database."""
    folder = str(tmp_path / "data")
    assert cli("db", "migrate", "--data", folder).code == 0
    return folder


def test_a_migration_is_told_before_it_is_done(cli: Cli, tmp_path: Path, data: str) -> None:
    new = cli("db", "migrate", "--data", str(tmp_path / "new"), "--dry-run", "--json").json
    assert (new["dry_run"], new["would_change"], new["before"]) == (True, True, None)
    assert not (tmp_path / "new").exists()
    done = cli("db", "migrate", "--data", data, "--dry-run", "--json").json
    assert (done["would_change"], done["before"]) == (False, done["after"])


@pytest.mark.parametrize(
    ("sql", "hint"),
    [
        ("selec 1", "meetingctl db query "),
        ("select * from nope", "meetingctl db query "),
        ("delete from devices", "only one statement that reads rows is allowed"),
    ],
)
def test_a_query_that_fails_gets_its_own_hint(sql: str, hint: str, cli: Cli, data: str) -> None:
    refused = cli("db", "query", sql, "--data", data)
    assert refused.code == 2
    assert f"hint: {hint}" in refused.err


def test_the_hint_of_a_slip_can_be_pasted(cli: Cli, data: str) -> None:
    import shlex

    hint = cli("db", "query", "selec 1", "--data", data).err.split("hint: ")[1]
    assert "devices" in cli(*shlex.split(hint)[1:]).out.split()


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_backup_into_a_missing_folder_says_how_to_make_it(more: list[str], cli: Cli, data: str) -> None:
    refused = cli("db", "backup", "/nonexistent/copy.db", "--data", data, *more)
    assert (refused.code, "hint: mkdir -p /nonexistent\n" in refused.err) == (1, True)


def test_a_missing_database_is_made_in_the_same_folder(cli: Cli, tmp_path: Path) -> None:
    refused = cli("db", "status", "--data", str(tmp_path / "no"))
    assert refused.err.endswith("hint: name the server's folder with --data DIR\n")


def test_a_backup_comes_back(cli: Cli, tmp_path: Path, data: str) -> None:
    archive, there = str(tmp_path / "fleet.tar"), str(tmp_path / "there")
    assert cli("db", "backup", archive, "--data", data).code == 0
    told = cli("db", "restore", archive, "--data", there, "--dry-run", "--json").json
    assert (told["dry_run"], told["would_change"], Path(there).exists()) == (True, True, False)
    assert cli("db", "restore", archive, "--data", there).code == 0
    assert cli("db", "check", "--data", there, "--checksums").code == 0
    refused = cli("db", "restore", archive, "--data", there)
    assert (refused.code, "hint: name an empty folder with --data\n" in refused.err) == (1, True)


def test_a_backup_that_lacks_files_says_so_in_its_exit_code(cli: Cli, tmp_path: Path, data: str) -> None:
    import sqlite3

    with sqlite3.connect(Path(data) / "meetingctl.db") as database:
        columns = "device_type, distribution, filename, size_bytes, sha256, uploaded_by, uploaded_at_ms"
        database.execute(f"INSERT INTO distribution_files ({columns}) VALUES ('rpi', 'd', 'a.bin', 1, 'x', 'me', 1)")
    database.close()
    made = cli("db", "backup", str(tmp_path / "fleet.tar"), "--data", data, "--json")
    assert (made.code, made.json["problems"]) == (1, ["storage/rpi/d/a.bin: No such file or directory"])


def test_an_import_is_told_before_it_is_done(cli: Cli, tmp_path: Path, data: str) -> None:
    dump = tmp_path / "meeting.sql"
    dump.write_text("INSERT INTO devices (device_key, token_code) VALUES ('cam-9', '3FA9C1'), ('no key', '');")
    told = cli("db", "import-mysql", str(dump), "--data", data, "--dry-run", "--json").json
    assert (told["action"], told["would_change"], told["tables"][0]["taken"]) == ("import", True, 1)
    done = cli("db", "import-mysql", str(dump), "--data", data)
    assert done.code == 0
    assert "devices no key: skipped: not a device key, or a reserved word\n" in done.err
    assert done.out.splitlines()[0].split() == ["devices", "2", "1", "0", "1"]
    again = cli("db", "import-mysql", str(dump), "--data", data, "--dry-run")
    assert f"nothing to import: {dump}\n" in again.err
    refused = cli("db", "import-mysql", str(tmp_path / "no.sql"), "--data", data)
    assert (refused.code, "hint: name a file of mysqldump\n" in refused.err) == (1, True)


def test_a_copy_is_told_before_it_is_done(cli: Cli, tmp_path: Path, data: str) -> None:
    source, target = f"{data}/meetingctl.db", str(tmp_path / "copy.db")
    told = cli("db", "copy", source, target, "--dry-run", "--json").json
    assert (told["action"], told["would_change"], Path(target).exists()) == ("copy", True, False)
    done = cli("db", "copy", source, target)
    assert done.code == 0
    assert "devices" in done.out

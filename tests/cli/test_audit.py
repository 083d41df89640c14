"""`audit list` and `audit export` against a server with more records than one page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .runner import Cli


@pytest.fixture
def noted(admin: Cli) -> Cli:
    """Leave some records."""
    if admin("fleet", "show", "audited").code:
        admin("fleet", "create", "audited", "--type", "rpicam", "--distribution", "trixie")
    for number in range(3):
        admin("fleet", "note", "audited", f"note {number}")
    return admin


def test_export_writes_every_record_as_a_line(noted: Cli) -> None:
    total = noted("audit", "verify", "--json").json["records"]
    rows = [json.loads(line) for line in noted("audit", "export").out.splitlines()]
    assert len(rows) == total
    ids = [row["id"] for row in rows]
    assert ids == sorted(ids, reverse=True)
    assert rows[0].keys() >= {"time", "principal", "action", "object", "result", "before", "after"}
    assert rows[0]["time"].endswith("Z")


def test_export_reads_on_page_after_page(noted: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from meetingctl import client

    whole = noted("audit", "export").out
    monkeypatch.setattr(client, "AUDIT_PAGE_ROWS", 2)
    assert noted("audit", "export").out == whole


def test_export_of_what_is_new(noted: Cli) -> None:
    ids = [json.loads(line)["id"] for line in noted("audit", "export").out.splitlines()]
    newer = noted("audit", "export", "--after", str(ids[2])).out.splitlines()
    assert [json.loads(line)["id"] for line in newer] == ids[:2]
    about = noted("audit", "export", "--object", "device:audited").out.splitlines()
    assert {json.loads(line)["object"] for line in about} == {"device:audited"}


def test_export_to_a_file_that_is_private_and_new(noted: Cli, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    done = noted("audit", "export", "--out", str(path), "--json").json
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert (done["records"], done["newest_id"]) == (len(rows), rows[0]["id"])
    assert path.stat().st_mode & 0o777 == 0o600
    assert [item.name for item in tmp_path.glob("*audit*")] == ["audit.jsonl"]
    again = noted("audit", "export", "--out", str(path))
    assert (again.code, f"{path} exists" in again.err) == (1, True)


def test_a_list_says_when_there_are_more(noted: Cli) -> None:
    cut = noted("audit", "list", "--limit", "2")
    last = cut.out.splitlines()[-1].split("\t")[0]
    assert len(cut.out.splitlines()) == 2
    assert f"older ones: --before {last}\n" in cut.err
    assert noted("audit", "list", "--limit", "2", "--json").err == ""
    whole = noted("audit", "list", "--limit", "100000")
    assert "older" not in whole.err

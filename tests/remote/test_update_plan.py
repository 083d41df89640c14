"""What an update consists of: facts and a package in, steps or a refusal out, as tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from meetingctl.core.errors import MeetingctlError
from meetingctl.core.plan import as_rows
from meetingctl.core.update_package import Dependencies, ListedFile, Package, UpdateManifest
from meetingctl.remote.update.plan import Wish, find_regressions, parse_damaged, parse_facts, plan_update
from meetingctl.remote.update.source import Source, SourceFile

CASES = sorted((Path(__file__).parents[1] / "data/plan/remote_update").glob("*.json"))


def source_of(facts: dict) -> Source:
    """A package of which nothing but names and sizes matter."""
    listed = tuple(ListedFile(name, size, f"sha256 of {name}") for name, size in facts["files"].items())
    manifest = UpdateManifest(facts["version"], listed)
    package = Package(Path("package"), manifest, b"", Dependencies(), sum(facts["files"].values()))
    files = {file.path: SourceFile(file.path, file.size_bytes, file.sha256, 0o644, Path("x")) for file in listed}
    return Source(package, files, "digest")


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_the_plan_is_that_of_the_table(path):
    case = json.loads(path.read_text())
    facts = parse_facts("cam-1", {"boot_id": "boot", **case["facts"]})
    if "error" in case:
        with pytest.raises(MeetingctlError) as refused:
            plan_update("cam-1", facts, source_of(case["package"]), Wish(**case["wish"]))
        assert refused.value.code == case["error"]
        assert refused.value.hint
        return
    assert as_rows(plan_update("cam-1", facts, source_of(case["package"]), Wish(**case["wish"]))) == case["steps"]


def test_there_are_tables():
    assert len(CASES) > 10


def test_only_what_worked_before_counts_as_worse():
    before = [{"check": "units", "ok": True}, {"check": "rtsp", "ok": False}, {"check": "agent", "ok": None}]
    after = [{"check": "units", "ok": False}, {"check": "rtsp", "ok": False}, {"check": "agent", "ok": False}]
    assert find_regressions(before, after) == ["units"]
    assert find_regressions([], after) == []


@pytest.mark.parametrize("answer", [{}, {"python": "3.13"}, {"python": [3]}])
def test_an_answer_that_makes_no_sense_is_an_error(answer):
    with pytest.raises(MeetingctlError, match="makes no sense"):
        parse_facts("cam-1", answer)


@pytest.mark.parametrize("answer", [{}, {"damaged": "x"}])
def test_an_answer_about_staging_that_makes_no_sense_is_an_error(answer):
    with pytest.raises(MeetingctlError, match="makes no sense"):
        parse_damaged("cam-1", answer)

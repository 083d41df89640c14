"""The builder against a real server, as a person uses it."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from .runner import Cli


@pytest.fixture
def place(own_name: str) -> str:
    return f"{own_name}/d1"


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    for name in ("a.txt", "b.sh"):
        (tmp_path / name).write_text(name)
    return [str(tmp_path / "a.txt"), str(tmp_path / "b.sh")]


def test_from_files_to_a_release(admin: Cli, place: str, files: list[str], tmp_path: Path) -> None:
    build = admin("builder", "start", place).out.strip()
    empty = admin("builder", "package", build)
    assert (empty.code, "manifest not valid" in empty.err.lower()) == (2, True)
    assert admin("builder", "upload", build, *files).code == 0
    made = admin("builder", "package", build, "--wait", "--json").json
    assert (made["state"], made["progress"]) == ("done", 100)
    job, out = made["job_id"], tmp_path / "out.tar.gz"
    assert admin("builder", "download", job, "--out", str(out)).code == 0
    assert tarfile.open(out).getnames() == ["a.txt", "b.sh", "manifest.json"]
    assert admin("builder", "commit", job, "--dry-run").code == 0
    assert admin("builder", "history", place, "--json").json == []
    assert admin("builder", "commit", job, "--notes", "first").out == f"{place}/1.0.0\n"
    assert admin("builder", "duplicate", f"{place}/1.0.0", "1.1.0").code == 0
    assert admin("builder", "rollback", f"{place}/1.0.0").code == 2, "asks first"
    assert admin("builder", "rollback", f"{place}/1.0.0", "--yes").code == 0
    shown = admin("builder", "history", place, "--json").json
    assert [row["action"] for row in shown] == ["rollback", "duplicate", "commit"]
    assert admin("builder", "start", place, "--dry-run", "--json").json["manifest"]["version"] == "1.1.1"


def test_a_manifest_from_a_file(admin: Cli, place: str, files: list[str], tmp_path: Path) -> None:
    manifest = tmp_path / "build.json"
    manifest.write_text(json.dumps({"files": ["a.txt"], "notes": "n"}))
    build = admin("builder", "start", place, "--version", "3", "--manifest", str(manifest), "--json").json["build_id"]
    assert admin("builder", "manifest", build, "--json").json["missing"] == ["file:a.txt"]
    assert admin("builder", "upload", build, files[0], "/nowhere").code == 3
    assert admin("builder", "manifest", build, "--json").json["valid"] is True
    manifest.write_text("[]")
    assert admin("builder", "manifest", build, str(manifest)).code == 2
    assert admin("builder", "manifest", "0" * 32).code == 1


def test_a_job_that_has_ended_is_not_cancelled(admin: Cli, place: str, files: list[str]) -> None:
    build = admin("builder", "start", place).out.strip()
    admin("builder", "upload", build, *files)
    job = admin("builder", "package", build, "--format", "zip", "--wait", "--json").json["job_id"]
    ended = admin("builder", "cancel", job)
    assert (ended.code, "has ended" in ended.err.lower()) == (1, True)
    assert admin("builder", "status", "0" * 32).code == 1

"""`device update` through `main()`, and the same verbs straight from the source with the standard library only."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cli.runner import Cli, Result
from meetingctl.core import layout

from .conftest import Camera

SOURCE = Path(__file__).parents[3] / "src"
EMPTY_STATUS = {"state": "idle", "message": "", "progress": 0, "log": [], "details": {}, "updated_at": None}


@pytest.fixture
def cli(camera: Camera, tmp_path: Path) -> Cli:
    return Cli(tmp_path, camera.environment())


def update(cli: Cli, *words: str) -> Result:
    return cli("device", "update", *words, "--json")


def bare(camera: Camera, *words: str) -> tuple[int, Any]:
    """Run it as the wheel in a package does, without any other library."""
    start = f"import sys, runpy; sys.path.insert(0, {str(SOURCE)!r}); runpy.run_module('meetingctl.device.update', "
    ran = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            "-c",
            f"{start}run_name='__main__')",
            *words,
            "--root",
            str(camera.root),
            "--json",
        ],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ran.stderr == ""
    return ran.returncode, json.loads(ran.stdout)


def test_nothing_is_installed(cli: Cli, camera: Camera) -> None:
    assert (update(cli, "list").json, update(cli, "status").json) == ([], EMPTY_STATUS)
    back = update(cli, "rollback")
    assert (back.code, back.json["error"]["code"]) == (1, "not_found")
    assert update(cli, "apply", "none.tar.gz").code == 1
    assert update(cli, "status").code == 1
    assert bare(camera, "list") == (0, [])
    assert bare(camera, "rollback", "--dry-run")[0] == 1


def test_a_package_is_judged_and_planned(cli: Cli, camera: Camera) -> None:
    camera.install("1.0.0")
    path = str(camera.package("1.1.0", requires_reboot=True))
    judged = update(cli, "check", path)
    assert judged.code == 0
    assert judged.json | {"created_at": "TIME", "restart_services": []} == {
        "ok": True,
        "version": "1.1.0",
        "created_at": "TIME",
        "files_count": 7,
        "restart_services": [],
        "required_packages": [],
        "missing_packages": [],
        "missing_apt_packages": [],
        "missing_pip_packages": [],
        "python_requirements_file": "requirements.txt",
        "requires_reboot": True,
        "same_version": False,
        "reapply_allowed": False,
        "errors": [],
        "warnings": [],
    }
    assert bare(camera, "check", path) == (0, judged.json)
    plan = update(cli, "apply", path, "--dry-run").json
    assert [row["do"] for row in plan[:4]] == ["add-release", "write-file", "switch-release", "repair-setup"]
    assert plan[-1]["do"] == "reboot"
    assert [row["do"] for row in bare(camera, "apply", path, "--dry-run", "--no-restart", "--no-reboot")[1]] == [
        row["do"] for row in plan[:4]
    ]
    assert update(cli, "list").json[0]["name"] == "1.0.0"


def test_an_older_package_is_refused_in_one_look(cli: Cli, camera: Camera) -> None:
    camera.install("2.0.0")
    path = str(camera.package("1.1.0"))
    judged = update(cli, "check", path, "--force")
    assert (judged.code, judged.json["errors"]) == (1, ["version 1.1.0 is older than the installed 2.0.0"])
    refused = update(cli, "apply", path)
    assert (refused.code, refused.json["error"]["code"]) == (2, "invalid_input")
    assert update(cli, "status").json["message"] == refused.json["error"]["message"]


def test_a_named_risk_must_be_accepted(cli: Cli, camera: Camera) -> None:
    refused = cli("device", "update", "apply", str(camera.package("1.0.0")), "--reset-settings", "--yes")
    assert (refused.code, "--accept-risk erase-config" in refused.err) == (2, True)
    assert camera.path(layout.CONFIG_ENV).exists()


def test_going_back_through_the_command(cli: Cli, camera: Camera) -> None:
    camera.install("1.0.0")
    camera.install("1.1.0", previous="1.0.0")
    camera.set_unit(layout.STREAM_UNIT, "inactive")
    assert update(cli, "rollback", "--dry-run").json == {"from": "1.1.0", "to": "1.0.0", "dry_run": True}
    (camera.root / "run/systemd/system").rmdir()  # no program of this machine is called
    assert bare(camera, "rollback") == (0, {"state": "success", "from": "1.1.0", "to": "1.0.0", "version": "1.0.0"})
    watched = cli("device", "update", "status", "--watch")
    assert (watched.code, "1.0.0 runs again" in watched.err) == (0, True)

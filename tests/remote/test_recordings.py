"""Recordings of a device: what is chosen, and the commands against a real SSH server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from meetingctl.core.errors import Conflict, NotFound
from meetingctl.remote.recordings import choose_recordings, plan_get, plan_remove

from .conftest import Device
from .machine import Machine, reports_of

ONE = {"name": "rec_1.ts", "size_bytes": 5, "size_display": "5 o", "state": "closed", "locked": False}
ONE |= {"modified": 1800000000.9, "modified_iso": "2027-01-15T09:00:00"}
KEPT = {**ONE, "name": "rec_2.ts", "locked": True}
LIVE = {**ONE, "name": "rec_3.ts", "state": "recording", "modified": 1e300}


def test_what_is_chosen() -> None:
    rows = choose_recordings([ONE, KEPT, LIVE], ["rec_2.ts", "rec_1.ts", "rec_2.ts"], "cam")
    assert rows == [KEPT, ONE]
    assert [str(step) for step in plan_get(rows, {"rec_1.ts": 5})] == ["fetch rec_2.ts: not here"]
    assert [str(step) for step in plan_get([ONE], {"rec_1.ts": 4})] == ["fetch rec_1.ts: another size here"]
    assert [step.on for step in plan_remove(rows, force=False)] == ["rec_1.ts"]
    assert [step.on for step in plan_remove(rows, force=True)] == ["rec_2.ts", "rec_1.ts"]
    with pytest.raises(Conflict, match="is being written"):
        choose_recordings([LIVE], ["rec_3.ts"], "cam")
    with pytest.raises(NotFound, match=r"no recording '\.\./x'"):
        choose_recordings([ONE], ["../x"], "cam")


@pytest.fixture
def folder(machine: Machine, tmp_path: Path) -> Path:
    """Return the device's folder of recordings; its program is a stand-in that answers from a file."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    rows = [{**row, "path": str(folder / row["name"])} for row in (ONE, KEPT, LIVE)]
    for row in rows:
        Path(row["path"]).write_text("video")
    (machine.state / "rows").write_text(json.dumps(rows))
    done = json.dumps({"deleted": ["rec_1.ts"], "skipped_locked": [], "failed": {}})
    machine.program(
        "meetingctl",
        f"""
echo "$*" >>{machine.state}/asked
case "$*" in
*"--only nonsense"*) echo '{{"ok": false, "error": {{"message": "no kind nonsense", "hint": "use all"}}}}'; exit 2 ;;
"device record list"*) cat {machine.state}/rows ;;
"device record delete"*) echo '{done}' ;;
esac""",
    )
    return folder


def test_list_get_and_remove(here, camera: Device, machine: Machine, folder: Path, tmp_path: Path) -> None:
    target, common, out = camera.target, ("-i", str(camera.identity), "--json"), tmp_path / "out"
    (listed,) = reports_of(here("remote", "recordings", "list", target, *common).out)
    assert [row["name"] for row in listed["recordings"]] == ["rec_1.ts", "rec_2.ts", "rec_3.ts"]
    assert [row["modified_iso"] for row in listed["recordings"]] == ["2027-01-15T08:00:00Z"] * 2 + [None]
    shown = here("remote", "recordings", "list", target, *common[:2]).out
    assert "2027-01-15T08:00:00Z" in shown
    assert "5 o" not in shown
    (refused,) = reports_of(here("remote", "recordings", "list", target, *common, "--only", "nonsense").out)
    assert "no kind nonsense" in json.dumps(refused)

    words = ("remote", "recordings", "get", target, "rec_1.ts", "rec_2.ts", *common, "--out", str(out))
    assert len(here(*words, "--dry-run").json["steps"]) == 2
    assert not out.exists()
    assert here(*words).json["files"] == [str(out / "rec_1.ts"), str(out / "rec_2.ts")]
    assert (out / "rec_2.ts").read_text() == "video"
    assert here(*words).json["steps"] == []
    live = here("remote", "recordings", "get", target, "rec_3.ts", *common)
    assert (live.code, "is being written" in live.out) == (1, True)

    words = ("remote", "recordings", "rm", target, "rec_1.ts", "rec_2.ts", *common)
    assert here(*words).code == 2
    assert "delete" not in (machine.state / "asked").read_text()
    gone = here(*words, "--yes").json
    assert (gone["deleted"], gone["skipped_locked"]) == (["rec_1.ts"], ["rec_2.ts"])
    assert (machine.state / "asked").read_text().splitlines()[-1] == "device record delete --yes rec_1.ts --json"


def test_a_device_without_the_program(here, camera: Device, machine: Machine) -> None:
    machine.program("meetingctl", "exit 127")
    done = here("remote", "recordings", "get", camera.target, "x.ts", "-i", str(camera.identity))
    assert (done.code, "has no meetingctl" in done.err) == (1, True)


def test_a_device_that_names_another_place_is_not_believed(
    here, camera: Device, machine: Machine, folder: Path, tmp_path: Path
) -> None:
    (machine.state / "rows").write_text(json.dumps([{**ONE, "path": "/etc/shadow"}]))
    done = here("remote", "recordings", "get", camera.target, "rec_1.ts", "-i", str(camera.identity))
    assert (done.code, "is no place of a recording" in done.err) == (1, True)

"""Files onto devices and back: the plan as a table, and the commands against a real SSH server."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from meetingctl.core.errors import Conflict, InvalidInput, MeetingctlError, NotFound, UsageError
from meetingctl.core.target import parse_target
from meetingctl.remote import far
from meetingctl.remote.copy import Place, _own_name, parse_place
from meetingctl.remote.deploy import (
    Found,
    Source,
    Wish,
    list_sources,
    parse_found,
    parse_mode,
    parse_owner,
    plan_deploy,
    split_sources,
)
from meetingctl.remote.staging import privilege_for
from meetingctl.remote.visit import Privilege

from .machine import reports_of

ONE, TWO = "1" * 64, "2" * 64


def source(name: str, sha256: str = ONE) -> Source:
    return Source(Path(name), name, sha256, is_executable=False)


@pytest.mark.parametrize(
    ("found", "wish", "steps"),
    [
        ({}, {}, [("a", "send", "missing")]),
        ({"a": Found(0o644, "root:root", ONE)}, {}, []),
        ({"a": Found(0o644, "root:root", TWO)}, {}, [("a", "send", "differs")]),
        ({"a": Found(0o777, "root:root", None)}, {}, [("a", "send", "is no plain file")]),
        ({"a": Found(0o644, "root:root", ONE)}, {"mode": 0o640}, [("a", "attributes", "mode is 644, not 640")]),
        ({"a": Found(0o640, "root:root", ONE)}, {"mode": 0o640, "owner": "root:root"}, []),
        ({"a": Found(0o640, "root:root", ONE)}, {"owner": "root"}, []),
        (
            {"a": Found(0o640, "root:root", ONE)},
            {"owner": "root:www-data"},
            [("a", "attributes", "owner is root:root, not root:www-data")],
        ),
        ({"a": Found(0o644, "r:r", ONE), "b": Found(0o644, "r:r", ONE)}, {}, []),
        (
            {"a": Found(0o644, "r:r", ONE), "b": Found(0o644, "r:r", ONE)},
            {"is_mirror": True},
            [("b", "delete", "not among the sources")],
        ),
    ],
)
def test_the_plan(found, wish, steps) -> None:
    planned = plan_deploy([source("a")], found, Wish("/x", **wish))
    assert [(step.name, step.verb, step.reason) for step in planned] == steps


@pytest.mark.parametrize("answer", [{}, {"files": 5}, {"files": {"a": 5}}, {"files": {"a": {"mode": "x"}}}])
def test_an_answer_that_is_none_is_an_error(answer) -> None:
    with pytest.raises(MeetingctlError, match="makes no sense"):
        parse_found("cam", answer)


@pytest.mark.parametrize(
    ("words", "targets", "sources"),
    [
        (["cam-1", "tag:x", "./a", "b/c"], ["cam-1", "tag:x"], ["./a", "b/c"]),
        (["pi@10.0.0.7:2222", "-", "."], ["pi@10.0.0.7:2222", "-"], ["."]),
        (["cam-1", "name with spaces"], ["cam-1"], ["name with spaces"]),
    ],
)
def test_words_are_targets_or_paths(words, targets, sources) -> None:
    assert split_sources(words, exists=lambda word: False) == (targets, sources)


def test_a_word_that_is_both_is_refused() -> None:
    with pytest.raises(UsageError, match="a target, or the file here"):
        split_sources(["app.py"], exists=lambda word: True)


def test_sources_are_listed_without_caches(tmp_path: Path) -> None:
    (tmp_path / "web/__pycache__").mkdir(parents=True)
    (tmp_path / "web/__pycache__/a.cpython.pyc").write_text("x")
    (tmp_path / "web/b.pyc").write_text("x")
    (tmp_path / "web/sub").mkdir()
    (tmp_path / "web/sub/run.sh").write_text("x")
    (tmp_path / "web/sub/run.sh").chmod(0o755)
    (tmp_path / "one").write_text("y")
    found = list_sources([tmp_path / "web", tmp_path / "one"])
    assert [(item.name, item.is_executable) for item in found] == [("one", False), ("sub/run.sh", True)]
    assert found[0].sha256 == hashlib.sha256(b"y").hexdigest()
    with pytest.raises(Conflict):
        list_sources([tmp_path / "one", tmp_path / "one"])
    with pytest.raises(NotFound):
        list_sources([tmp_path / "none"])
    (tmp_path / "web/link").symlink_to("/etc/passwd")
    with pytest.raises(InvalidInput, match="only plain files"):
        list_sources([tmp_path / "web"])


@pytest.mark.parametrize(
    ("path", "privilege"),
    [
        ("/etc/motd", Privilege.needed),
        ("/home/pi/x", Privilege.none),
        ("/home/pix", Privilege.needed),
        ("~/x", Privilege.none),
        ("/tmp/x", Privilege.none),
        ("/tmpx", Privilege.needed),
    ],
)
def test_who_changes_a_path(path, privilege) -> None:
    assert privilege_for(path, "pi") is privilege


@pytest.mark.parametrize("path", ["relative", "", "/home/pi/../root", "/x\0y"])
def test_other_paths_are_refused(path) -> None:
    with pytest.raises(InvalidInput):
        privilege_for(path, "pi")


def test_options_of_a_deploy() -> None:
    assert (parse_mode(""), parse_mode("640"), parse_mode("0755")) == (None, 0o640, 0o755)
    assert (parse_owner(""), parse_owner("root:www-data")) == (None, "root:www-data")
    for parse, text in ((parse_mode, "8"), (parse_mode, "1777"), (parse_owner, "a b"), (parse_owner, "x;y")):
        with pytest.raises(InvalidInput):
            parse(text)


@pytest.mark.parametrize(
    ("text", "target", "path"),
    [
        ("./a:b", None, "./a:b"),
        ("/x", None, "/x"),
        ("cam-7:/tmp/x", "cam-7", "/tmp/x"),
        ("cam-7:x:y", "cam-7", "x:y"),
        ("cam-7:", "cam-7", "."),
        ("pi@10.0.0.7:/x", "pi@10.0.0.7", "/x"),
        ("pi@10.0.0.7:2222:/x", "pi@10.0.0.7:2222", "/x"),
        ("pi@[fd00::7]:/x", "pi@[fd00::7]", "/x"),
    ],
)
def test_a_side_of_a_copy(text, target, path) -> None:
    assert parse_place(text) == Place(parse_target(target) if target else None, path)


def test_copies_go_to_one_device() -> None:
    with pytest.raises(UsageError):
        parse_place("tag:x:/tmp")


@pytest.mark.parametrize("name", ["..", "a/b", "", "\0"])
def test_a_device_cannot_name_files_elsewhere(name) -> None:
    with pytest.raises(MeetingctlError):
        _own_name(name)


def ask_far(tmp_path: Path, **request) -> dict:
    """Run the far side as the device does: by itself, without the rest of the program."""
    (tmp_path / "request.json").write_text(json.dumps(request))
    command = [sys.executable, "-I", far.__file__, str(tmp_path / "request.json")]
    return json.loads(subprocess.run(command, capture_output=True, check=True, timeout=30, cwd="/").stdout)


def test_the_far_side_keeps_owner_and_mode_and_a_backup(tmp_path: Path) -> None:
    file = tmp_path / "config.env"
    file.write_text("A=1\n")
    file.chmod(0o604)
    before = ask_far(tmp_path, action="read", paths=[str(file), "/none"])["files"]
    assert (before["/none"], before[str(file)]["text"]) == (None, "A=1\n")
    expect = before[str(file)]["sha256"]
    done = ask_far(tmp_path, action="write", path=str(file), text="A=2\n", expect=expect)
    assert file.read_text() == "A=2\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o604
    backup = Path(done["backup"])
    assert backup.read_text() == "A=1\n"
    assert backup.name.startswith("config.env.bak-20")
    late = ask_far(tmp_path, action="write", path=str(file), text="A=3\n", expect=expect)
    assert "changed by somebody else" in late["error"]
    assert file.read_text() == "A=2\n"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_far_side_refuses_damaged_files_and_unknown_owners(tmp_path: Path) -> None:
    (tmp_path / "0").write_text("content")
    item = {"name": "x", "staged": "0", "sha256": ONE, "mode": None, "owner": None, "new_mode": 0o644}
    request = {"action": "install", "root": str(tmp_path / "to"), "staging": str(tmp_path)}
    more = {"attributes": [], "delete": []}
    assert "damaged" in ask_far(tmp_path, **request, files=[item], **more)["error"]
    item |= {"sha256": hashlib.sha256(b"content").hexdigest(), "owner": "nobody-like-this"}
    assert "no such owner" in ask_far(tmp_path, **request, files=[item], **more)["error"]
    assert list((tmp_path / "to").iterdir()) == []


@pytest.fixture
def web(tmp_path: Path) -> Path:
    folder = tmp_path / "web"
    (folder / "static").mkdir(parents=True)
    (folder / "app.py").write_text("print(1)\n")
    (folder / "static/x'y \n.css").write_text("a {}\n")
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    return folder


def test_a_second_deploy_does_nothing(here, camera, machine, web, tmp_path):
    machine.unit("rpi-cam-webmanager")
    to = tmp_path / "there/deep"
    common = ("-i", str(camera.identity), "--to", str(to), "--restart", "rpi-cam-webmanager", "--json")
    words = ("remote", "deploy", camera.target, f"{web}/", *common)
    planned = here(*words, "--dry-run")
    (report,) = reports_of(planned.out)
    assert (planned.code, len(report["steps"]), to.exists(), report["changed"]) == (0, 3, False, False)
    for changed in (True, False):
        done = here(*words)
        (report,) = reports_of(done.out)
        assert (done.code, report["changed"]) == (0, changed), done.err
        assert report["restarted"] == (["rpi-cam-webmanager"] if changed else [])
    assert [call for call in machine.changes if "restart" in call] == ["restart -- rpi-cam-webmanager.service"]
    assert (to / "static/x'y \n.css").read_text() == "a {}\n"
    assert [stat.S_IMODE((to / name).stat().st_mode) for name in ("app.py", "run.sh")] == [0o644, 0o755]
    (to / "old.py").write_text("")
    (web / "app.py").write_text("print(2)\n")
    done = here(*words, "--delete", "--mode", "640")
    steps = {step["file"]: step["step"] for step in reports_of(done.out)[0]["steps"]}
    assert steps["app.py"] == "send"
    assert (steps["old.py"], steps["run.sh"]) == ("delete", "attributes")
    assert not (to / "old.py").exists()
    assert stat.S_IMODE((to / "run.sh").stat().st_mode) == 0o640
    folders = [call.removeprefix("staged ") for call in machine.calls if call.startswith("staged ")]
    assert len(folders) == 4
    assert not any(Path(folder).exists() for folder in folders)


def test_a_deploy_that_fails_restarts_nothing(here, camera, machine, web, tmp_path):
    machine.unit("rpi-cam-webmanager")
    (tmp_path / "there").write_text("a file")
    words = ("remote", "deploy", camera.target, str(web), "-i", str(camera.identity), "--to", str(tmp_path / "there"))
    done = here(*words, "--restart", "rpi-cam-webmanager")
    assert done.code == 1
    assert "there" in done.err
    assert machine.changes == []


def test_a_deploy_wants_both_devices_and_files(here, web):
    assert here("remote", "deploy", "cam-1", "--to", "/x").code == 2
    assert here("remote", "deploy", str(web), "--to", "/x").code == 2
    assert here("remote", "deploy", "cam-1", str(web), "--to", "x").code == 2


def test_copies_go_both_ways(here, camera, web, tmp_path):
    there, back = tmp_path / "there", tmp_path / "back"
    there.mkdir()
    common = ("-i", str(camera.identity), "--json")
    up = here("remote", "copy", str(web / "app.py"), f"{camera.target}:{there}/", *common)
    assert (up.code, up.json["destination"]) == (0, f"{camera.target}:{there}/app.py")
    assert up.json["size_bytes"] == 9
    assert here("remote", "copy", str(web), f"{camera.target}:{there}", *common).code == 0
    assert (there / "web/static/x'y \n.css").read_text() == "a {}\n"
    assert here("remote", "copy", str(web), f"{camera.target}:{there}", *common).code == 1
    (there / "web/leak").symlink_to("/etc/passwd")
    down = here("remote", "copy", f"{camera.target}:{there}/web", str(back), *common)
    assert down.code == 0
    assert sorted(path.name for path in back.iterdir()) == ["app.py", "run.sh", "static"]
    assert os.access(back / "run.sh", os.X_OK)
    one = here("remote", "copy", f"{camera.target}:{there}/app.py", str(back), *common)
    assert (one.code, one.json["destination"]) == (0, str(back / "app.py"))
    assert not [path for path in [*there.iterdir(), *tmp_path.iterdir()] if path.name.endswith(".part")]


def test_what_cannot_be_copied_is_said(here, camera, tmp_path):
    common = ("-i", str(camera.identity))
    missing = here("remote", "copy", f"{camera.target}:/nonexistent", str(tmp_path / "x"), *common)
    assert (missing.code, "no such file" in missing.err) == (1, True)
    (tmp_path / "x").write_text("x")
    nowhere = here("remote", "copy", str(tmp_path / "x"), f"{camera.target}:/nonexistent/y/z", *common)
    assert nowhere.code == 1
    assert here("remote", "copy", "./a", "./b").code == 2
    assert here("remote", "copy", "cam-1:a", "cam-2:b").code == 2
    planned = here("remote", "copy", str(tmp_path / "x"), "cam-1:/y", "--dry-run", "--json")
    assert (planned.code, planned.json["size_bytes"], planned.json["dry_run"]) == (0, 1, True)

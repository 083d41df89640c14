"""Backup and restore: the plan as a table, the far side in a folder, and the commands against a real SSH server."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from pathlib import Path

import pytest

from meetingctl.core.device_backup import Backup, BackupFile, read_backup
from meetingctl.core.errors import AuthError, InvalidInput
from meetingctl.core.secret import Secret
from meetingctl.remote import backup_far
from meetingctl.remote.backup import Found, FoundFile, plan_restore
from meetingctl.remote.sealed import seal, unseal

from .conftest import Device
from .machine import Machine, reports_of

ENV = "etc/rpi-cam/config.env"
FILE = BackupFile(ENV, 0o640, "root:www-data", b"RTSP_PORT=9000\n")
BACKUP = Backup("1.4.0", "", False, (FILE,), ())
OWN = "root:www-data"


@pytest.mark.parametrize(
    ("found", "steps"),
    [
        ({ENV: FoundFile(0o640, FILE.sha256, OWN)}, []),
        (
            {ENV: FoundFile(0o640, FILE.sha256, "device:device")},
            ["write /etc/rpi-cam/config.env: belongs to device:device, not root:www-data", "keep", "reboot"],
        ),
        ({ENV: FoundFile(0o640, "x", OWN)}, ["write /etc/rpi-cam/config.env: differs", "keep", "reboot"]),
        (
            {ENV: FoundFile(0o644, FILE.sha256, OWN)},
            ["write /etc/rpi-cam/config.env: mode is 0644, not 0640", "keep", "reboot"],
        ),
        (
            {ENV: FoundFile(0o640, FILE.sha256, OWN), "etc/rpi-cam/x.json": FoundFile(0o640, "x", OWN)},
            ["take-away /etc/rpi-cam/x.json: not in the backup", "keep", "reboot"],
        ),
        (None, ["write /etc/rpi-cam/config.env: not there", "reboot"]),
    ],
)
def test_the_plan(found, steps) -> None:
    there = None if found is None else Found(found)
    planned = [str(step) for step in plan_restore(BACKUP, there, reboot=True)]
    assert [text if ":" in wanted else text.split()[0] for text, wanted in zip(planned, steps, strict=True)] == steps
    assert not [step for step in plan_restore(BACKUP, there, reboot=False) if step.do == "reboot"]


def tar_of(path: Path, **files: bytes) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            header = tarfile.TarInfo(f"etc/rpi-cam/{name.replace('_', '/')}")
            header.size, header.mode = len(content), 0o640
            header.uname = header.gname = "nobody-here"
            tar.addfile(header, io.BytesIO(content))


def request_for(tmp_path: Path) -> dict[str, str]:
    return {"root": str(tmp_path), "folder": "etc/rpi-cam", "staging": str(tmp_path), "archive": "a.tar"}


@pytest.mark.parametrize("flag", [2, 1 << 20], ids=["exchange", "a file system without it"])
def test_the_folder_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: int) -> None:
    monkeypatch.setattr(backup_far, "RENAME_EXCHANGE", flag)
    folder = tmp_path / "etc/rpi-cam"
    tar_of(tmp_path / "a.tar", config=b"new", locales_fr=b"{}")
    folder.parent.mkdir()
    assert backup_far.restore(request_for(tmp_path)) == {"kept": None}
    assert (folder / "config").read_text() == "new"
    (folder / "config").write_text("changed")
    folder.chmod(0o750)
    (tmp_path / "etc/.rpi-cam.unpack.abc").mkdir()  # an attempt was cut off
    kept = tmp_path / backup_far.restore(request_for(tmp_path))["kept"][1:]
    assert ((folder / "config").read_text(), (folder / "locales/fr").read_text()) == ("new", "{}")
    assert stat.S_IMODE((folder / "locales").stat().st_mode) == 0o750
    assert (kept / "config").read_text() == "changed"
    assert sorted(path.name for path in (tmp_path / "etc").iterdir()) == ["rpi-cam", kept.name]


def test_the_former_folder_of_a_restore_that_was_cut_off_is_kept(tmp_path: Path) -> None:
    tar_of(tmp_path / "a.tar", config=b"new")
    (tmp_path / "etc/rpi-cam").mkdir(parents=True)
    former = tmp_path / "etc/.rpi-cam.restore"  # exchanged, and not yet renamed
    former.mkdir()
    (former / "config").write_text("former")
    backup_far.restore(request_for(tmp_path))
    kept = sorted((tmp_path / "etc").glob("rpi-cam.backup_restore_*/config"))
    assert [path.read_text() for path in kept] == ["former"]
    assert len(list((tmp_path / "etc").glob("rpi-cam.backup_restore_*"))) == 2


def test_two_restores_at_once(tmp_path: Path) -> None:
    tar_of(tmp_path / "a.tar", config=b"new")
    (tmp_path / "etc/rpi-cam").mkdir(parents=True)
    with backup_far.locked(tmp_path / "etc"), pytest.raises(ValueError, match="another restore runs"):
        backup_far.restore(request_for(tmp_path))
    assert [path.name for path in (tmp_path / "etc").iterdir()] == ["rpi-cam"]


def test_a_restore_that_fails_changes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "etc/rpi-cam"
    folder.mkdir(parents=True)
    (folder / "config").write_text("old")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("etc/passwd"))
    with pytest.raises(ValueError, match="subpath"):
        backup_far.restore(request_for(tmp_path))
    assert (folder / "config").read_text() == "old"
    assert [path.name for path in folder.parent.iterdir()] == ["rpi-cam"]
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="is no folder"):
        backup_far.restore(request_for(tmp_path))


def test_a_sealed_file_opens_with_its_passphrase_alone() -> None:
    plain, phrase = os.urandom((1 << 20) + 5), Secret("long enough")
    out, back = io.BytesIO(), io.BytesIO()
    seal(io.BytesIO(plain), out, phrase)
    whole = out.getvalue()
    unseal(io.BytesIO(whole), back, phrase)
    assert back.getvalue() == plain
    assert plain[:64] not in whole
    with pytest.raises(AuthError):
        unseal(io.BytesIO(whole), io.BytesIO(), Secret("another one"))
    for damaged in (whole[:-3], whole[:-1] + b"x", whole + b"x", whole[: 56 + (1 << 20)], b"x" * 100):
        with pytest.raises(InvalidInput):
            unseal(io.BytesIO(damaged), io.BytesIO(), phrase)
    empty, nothing = io.BytesIO(), io.BytesIO()
    seal(io.BytesIO(), empty, phrase)
    unseal(io.BytesIO(empty.getvalue()), nothing, phrase)
    assert nothing.getvalue() == b""


@pytest.fixture
def root(machine: Machine) -> Path:
    """Return where the far side finds its device: requests about / are about this folder."""
    folder = machine.folder / "root"
    config = folder / "etc/rpi-cam"
    config.mkdir(parents=True)
    (config / "config.env").write_text("RTSP_PORT=9000\n")
    (config / "config.env").chmod(0o640)
    (config / "meeting.json").write_text('{"token_code": "ABC123"}')
    (config / "meeting.json").chmod(0o600)
    (config / "link.json").symlink_to("/etc/shadow")
    (folder / "var/log/rpi-cam").mkdir(parents=True)
    (folder / "var/log/rpi-cam/a.log").write_text("line\n")
    (folder / "opt/rpi-cam-webmanager").mkdir(parents=True)
    (folder / "opt/rpi-cam-webmanager/VERSION").write_text("1.4.0\n")
    machine.program("python3", f"""sed -i 's#"root": "/"#"root": "{folder}"#' "$3"\nexec /usr/bin/python3 "$@\"""")
    return folder


def test_backup_wipe_restore(here, camera: Device, machine: Machine, root: Path, tmp_path: Path) -> None:
    target, common = camera.target, ("-i", str(camera.identity), "--json")
    phrase = tmp_path / "phrase"
    phrase.write_text("long enough\n")
    seals = ("--passphrase-file", str(phrase))
    (plain,) = reports_of(here("remote", "backup", target, *common, "--out", str(tmp_path), "--include-logs").out)
    (sealed,) = reports_of(here("remote", "backup", target, *common, "--out", str(tmp_path / "s"), *seals).out)
    assert (plain["version"], plain["files"], plain["sealed"]) == ("1.4.0", 3, False)
    assert (sealed["files"], sealed["sealed"]) == (2, True)
    assert stat.S_IMODE(Path(plain["file"]).stat().st_mode) == 0o600
    assert read_backup(Path(plain["file"])).logs == ("var/log/rpi-cam/a.log",)
    assert machine.changes == []

    same = here("remote", "restore", target, plain["file"], *common)
    assert (same.code, same.json["steps"], same.json["changed"]) == (0, [], False)
    for name in ("config.env", "meeting.json"):
        (root / "etc/rpi-cam" / name).unlink()
    (root / "etc/rpi-cam/new.json").write_text("{}")
    unasked = here("remote", "restore", target, sealed["file"], *common, *seals)
    assert (unasked.code, "--yes" in unasked.out) == (2, True)
    assert here("remote", "restore", target, sealed["file"], *common).code == 2
    planned = here("remote", "restore", target, sealed["file"], *common, *seals, "--dry-run").json
    assert [step["do"] for step in planned["steps"]] == ["write", "write", "take-away", "keep", "reboot"]
    assert not (root / ENV).exists()

    done = here("remote", "restore", target, sealed["file"], *common, *seals, "--yes").json
    assert (done["changed"], done["boot_id_after"], done["steps"]) == (True, "boot-2", planned["steps"])
    assert (root / ENV).read_text() == "RTSP_PORT=9000\n"
    assert stat.S_IMODE((root / "etc/rpi-cam/meeting.json").stat().st_mode) == 0o600
    assert not (root / "etc/rpi-cam/new.json").exists()
    assert (root / done["kept"][1:] / "new.json").exists()
    again = here("remote", "restore", target, sealed["file"], *common, *seals, "--yes").json
    assert (again["steps"], machine.changes) == ([], ["reboot"])


def test_an_answer_that_is_no_archive(here, camera: Device, machine: Machine, tmp_path: Path) -> None:
    with tarfile.open(machine.folder / "answer.tar", "w") as tar:
        header = tarfile.TarInfo("VERSION")
        header.pax_headers = {"GNU.sparse.map": "x"}
        tar.addfile(header)
    machine.program("python3", f"cat {machine.folder}/answer.tar")
    taken = here("remote", "backup", camera.target, "-i", str(camera.identity), "--out", str(tmp_path / "out"))
    assert (taken.code, "its answer is no whole archive" in taken.err) == (1, True), taken.err


def test_restore_refuses(here, camera: Device, root: Path, tmp_path: Path) -> None:
    common = ("-i", str(camera.identity))
    (root / ENV).write_text("RTSP_PORT=70000\n")
    (taken,) = reports_of(here("remote", "backup", camera.target, *common, "--json", "--out", str(tmp_path)).out)
    refused = here("remote", "restore", camera.target, taken["file"], *common)
    assert (refused.code, "RTSP_PORT is '70000'" in refused.err, "--force" in refused.err) == (78, True, True)
    missing = here("remote", "restore", camera.target, str(tmp_path / "none"), *common)
    assert (missing.code, "no such file" in missing.err) == (1, True)
    (root / ENV).write_text("RTSP_PORT=9000\n")
    (root / "etc/rpi-cam/onvif.conf").write_text("[" * 100_000)
    (root / "etc/rpi-cam/meeting.json").write_text('{"enabled": "yes", "device_key": 5}')
    (taken,) = reports_of(here("remote", "backup", camera.target, *common, "--json", "--out", str(tmp_path)).out)
    refused = here("remote", "restore", camera.target, taken["file"], *common)
    assert (refused.code, "meeting.json: enabled has to be true or false, and 2 more" in refused.err) == (78, True)
    (root / ENV).unlink()
    empty = here("remote", "backup", camera.target, *common, "--out", str(tmp_path))
    assert (empty.code, "no /etc/rpi-cam/config.env" in empty.err) == (1, True)

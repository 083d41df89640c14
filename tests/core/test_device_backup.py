from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest

from meetingctl.core.device_backup import BackupFile, read_backup, write_backup
from meetingctl.core.errors import InvalidInput, NotFound, TooLarge

CONFIG = BackupFile("etc/rpi-cam/config.env", 0o664, "root:www-data", b"RTSP_PORT=8554\n")
MEETING = BackupFile("etc/rpi-cam/meeting.json", 0o644, "root:root", b"{}")
LOG = BackupFile("var/log/rpi-cam/rtsp_watchdog.log", 0o644, "root:root", b"line\n")


def build(path: Path, *files: BackupFile) -> Path:
    with path.open("wb") as out:
        names = [file.name for file in files]
        write_backup(out, names, lambda: iter(files), version="1.4.0", created_s=0, include_logs=LOG in files)
    return path


def archive(path: Path, members: list[tuple[str, bytes]], manifest: object = None) -> Path:
    """Write an archive by hand, as another program might."""
    listed = {"schema_version": 1, "version": "2.1", "files": [name for name, _ in members]}
    with tarfile.open(path, "w:gz") as tar:
        for name, content in [*members, ("backup_manifest.json", json.dumps(manifest or listed).encode())]:
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    return path


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = build(tmp_path / "b.tar.gz", CONFIG, MEETING, LOG)
    backup = read_backup(path)
    assert (backup.version, backup.created_at, backup.include_logs) == ("1.4.0", "1970-01-01T00:00:00", True)
    assert backup.config == (CONFIG, MEETING)
    assert backup.logs == (LOG.name,)
    assert backup.text("/etc/rpi-cam/config.env") == "RTSP_PORT=8554\n"
    assert path.read_bytes() == build(tmp_path / "again.tar.gz", CONFIG, MEETING, LOG).read_bytes()
    with tarfile.open(path) as tar:
        assert tar.getnames()[0] == "backup_manifest.json"


def test_credentials_are_for_root_alone_when_they_come_back() -> None:
    assert (CONFIG.safe_mode, MEETING.safe_mode, BackupFile("x", 0o4755, "", b"").safe_mode) == (0o660, 0o600, 0o640)


def test_a_backup_of_the_original_is_one(tmp_path: Path) -> None:
    read = read_backup(
        archive(tmp_path / "b.tar.gz", [("./etc/rpi-cam/config.env", b""), ("./" + MEETING.name, b"{}")])
    )
    assert [file.name for file in read.config] == [CONFIG.name, MEETING.name]


def test_no_backup_without_settings(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"no /etc/rpi-cam/config\.env"):
        build(tmp_path / "b.tar.gz", MEETING)


@pytest.mark.parametrize(
    ("members", "manifest", "words"),
    [
        ([("etc/rpi-cam/../passwd", b"")], None, "unsafe name"),
        ([("/etc/rpi-cam/config.env", b"")], None, "unsafe name"),
        ([("etc/passwd", b"")], None, "a backup has only"),
        ([("etc/rpi-cam/a.json", b"")], None, "does not list"),
        ([(CONFIG.name, b""), (CONFIG.name, b"")], None, "twice"),
        ([], {"schema_version": 1, "version": "1", "files": [CONFIG.name]}, "is listed and not in it"),
        (
            [(CONFIG.name, b""), (MEETING.name, b"")],
            {"schema_version": 1, "version": "1", "files": [CONFIG.name]},
            "not listed",
        ),
        (
            [(CONFIG.name, b"")],
            {"schema_version": 2, "version": "1", "files": [CONFIG.name]},
            "schema_version is not 1",
        ),
        ([(CONFIG.name, b"")], {"schema_version": 1, "files": [CONFIG.name]}, "no version"),
        ([(CONFIG.name, b"")], {"schema_version": 1, "version": "1", "files": "x"}, "no list"),
        ([(CONFIG.name, b"")], ["x"], "schema_version is not 1"),
    ],
)
def test_what_is_refused(tmp_path: Path, members, manifest, words) -> None:
    with pytest.raises(InvalidInput, match=words):
        read_backup(archive(tmp_path / "b.tar.gz", members, manifest))


def test_links_and_broken_archives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "b.tar"
    with tarfile.open(path, "w") as tar:
        header = tarfile.TarInfo("etc/rpi-cam/config.env")
        header.type, header.linkname = tarfile.SYMTYPE, "/etc/shadow"
        tar.addfile(header)
    with pytest.raises(InvalidInput, match="only regular files"):
        read_backup(path)
    whole = build(tmp_path / "b.tar.gz", CONFIG).read_bytes()
    for content in (b"", b"x" * 600, whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(InvalidInput, match=r"not a whole archive|no backup_manifest"):
            read_backup(path)


def test_a_configuration_that_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "b.tar"
    with tarfile.open(path, "w") as tar:
        header = tarfile.TarInfo("etc/rpi-cam/config.env")
        header.size = 17 << 20
        tar.addfile(header, io.BytesIO(bytes(header.size)))
    with pytest.raises(TooLarge):
        read_backup(path)


def test_a_file_that_is_a_folder_too_is_refused(tmp_path: Path) -> None:
    names = ["etc/rpi-cam/config.env", "etc/rpi-cam/a", "etc/rpi-cam/a/b"]
    facts = {"schema_version": 1, "version": "1", "files": names}
    with pytest.raises(InvalidInput, match="etc/rpi-cam/a is a file and a folder"):
        read_backup(archive(tmp_path / "b.tar.gz", [(name, b"") for name in names], facts))


def test_many_files_are_read_in_one_pass(tmp_path: Path) -> None:
    names = ["etc/rpi-cam/config.env", *(f"etc/rpi-cam/locales/{n}.json" for n in range(5000))]
    facts = {"schema_version": 1, "version": "1", "files": names}
    assert len(read_backup(archive(tmp_path / "b.tar.gz", [(name, b"{}") for name in names], facts)).config) == 5001


def test_a_bomb_is_given_up(tmp_path: Path) -> None:
    members = [("etc/rpi-cam/config.env", b""), ("var/log/rpi-cam/a.log", b"\0" * (48 << 20))]
    with pytest.raises(TooLarge, match="200 times its size"):
        read_backup(archive(tmp_path / "b.tar.gz", members, {"schema_version": 1, "version": "1", "files": []}))


def test_a_chain_of_headers_is_refused(tmp_path: Path) -> None:
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 0
    path = tmp_path / "b.tar.gz"
    path.write_bytes(gzip.compress(header.tobuf(tarfile.USTAR_FORMAT) * 5000))
    with pytest.raises(InvalidInput):
        read_backup(path)

"""Every reason to refuse an update package, and what the original's packages look like."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meetingctl.core import update_archive
from meetingctl.core.errors import InvalidInput, MeetingctlError, NotFound, TooLarge
from meetingctl.core.update_package import Package, check_package, find_loose_requirements, read_package, version_rank

VERSION_PATH = "opt/rpi-cam-webmanager/VERSION"
PROGRAM_PATH = "usr/local/bin/rtsp_recorder.sh"
FILES = {VERSION_PATH: b"2.33.0\n", PROGRAM_PATH: b"#!/bin/sh\n"}


def manifest(files: dict[str, bytes], /, **changes: Any) -> dict[str, Any]:
    listed = [
        {"path": path, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for path, content in files.items()
    ]
    return {"schema_version": "1", "version": "2.33.0", "created_at": "2026-02-01T10:00:00", "files": listed, **changes}


def tar_of(facts: Any, files: dict[str, bytes], *extra: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        named = {"update_manifest.json": json.dumps(facts).encode()} if facts is not None else {}
        named |= {f"payload/{path}": content for path, content in files.items()}
        for name, content in named.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
        for header in extra:
            archive.addfile(header, io.BytesIO(bytes(header.size)))
    return buffer.getvalue()


def member(name: str, **attributes: Any) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    for key, value in attributes.items():
        setattr(header, key, value)
    return header


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], Path]:
    def write_package(content: bytes) -> Path:
        path = tmp_path / "rpi-cam-update_2.33.0_20260201_100000.tar.gz"
        path.write_bytes(content)
        return path

    return write_package


def good(write: Callable[[bytes], Path], **changes: Any) -> Package:
    return read_package(write(gzip.compress(tar_of(manifest(FILES, **changes), FILES))))


class TestReading:
    @pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress, bytes])
    def test_any_usual_compression(self, write: Callable[[bytes], Path], compress: Callable[[bytes], bytes]) -> None:
        package = read_package(write(compress(tar_of(manifest(FILES), FILES))))
        assert (package.problems, package.version) == ((), "2.33.0")
        assert package.total_bytes == sum(map(len, FILES.values()))

    def test_an_unpacked_folder(self, tmp_path: Path) -> None:
        for path, content in FILES.items():
            (tmp_path / "payload" / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "payload" / path).write_bytes(content)
        (tmp_path / "update_manifest.json").write_text(json.dumps(manifest(FILES)))
        assert read_package(tmp_path).problems == ()
        (tmp_path / "payload" / VERSION_PATH).write_text("another\n")
        assert any("has 8 bytes, not 7" in line for line in read_package(tmp_path).problems)
        (tmp_path / "payload" / "usr/local/bin/link").symlink_to("/etc/passwd")
        with pytest.raises(InvalidInput, match="only regular files"):
            read_package(tmp_path)

    def test_packages_from_windows_have_backslashes_and_a_byte_order_mark(self, write: Callable[[bytes], Path]) -> None:
        facts = manifest({path.replace("/", "\\"): content for path, content in FILES.items()})
        text = "\ufeff" + json.dumps(facts, ensure_ascii=False)
        buffer = io.BytesIO(tar_of(None, FILES, member("./", type=tarfile.DIRTYPE)))
        with tarfile.open(fileobj=buffer, mode="a") as archive:
            header = tarfile.TarInfo("./update_manifest.json")
            header.size = len(text.encode())
            archive.addfile(header, io.BytesIO(text.encode()))
        assert read_package(write(buffer.getvalue())).problems == ()

    def test_defaults_of_the_original(self, write: Callable[[bytes], Path]) -> None:
        package = good(write, required_packages="ffmpeg, v4l-utils  bad/name", schema_version=1)
        assert package.manifest.restart_services == ("rpi-cam-webmanager",)
        assert package.apt_packages == ("ffmpeg", "v4l-utils")
        assert any("bad/name" in line for line in package.manifest.warnings)
        assert not package.manifest.requires_reboot
        assert not package.has_program

    def test_units_lose_their_suffix(self, write: Callable[[bytes], Path]) -> None:
        package = good(write, restart_services=["rpi-cam-onvif.service", "rpi-cam-onvif"])
        assert package.manifest.restart_services == ("rpi-cam-onvif",)

    def test_dependencies(self, write: Callable[[bytes], Path]) -> None:
        text = json.dumps(
            {
                "schema_version": 1,
                "apt_packages": ["ffmpeg", "-o Dir=/"],
                "python_requirements_file": "requirements.txt",
                "pip_packages": ["flask"],
                "built_for": {"python": "3.13", "architecture": "arm64"},
            }
        ).encode()
        files = {**FILES, "opt/rpi-cam-webmanager/DEPENDENCIES.json": text}
        found = read_package(write(tar_of(manifest(files), files))).dependencies
        assert (found.apt_packages, found.pip_packages) == (("ffmpeg",), ("flask",))
        assert (found.requirements_file, found.built_for["architecture"]) == ("requirements.txt", "arm64")
        assert "'-o Dir=/' is no name" in found.warnings[0]


class TestRefusals:
    @pytest.mark.parametrize(
        ("extra", "words"),
        [
            (member("payload/opt/rpi-cam-webmanager/l", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "only regular"),
            (member("payload/opt/rpi-cam-webmanager/l", type=tarfile.LNKTYPE, linkname="payload/x"), "only regular"),
            (member("payload/usr/local/bin/fifo", type=tarfile.FIFOTYPE), "only regular"),
            (member("payload/usr/local/bin/disk", type=tarfile.BLKTYPE), "only regular"),
            (member("payload/usr/local/bin/root", mode=0o4755), "set-user-id"),
            (member("payload/usr/local/bin/group", mode=0o2755), "set-user-id"),
            (member("/etc/passwd"), "unsafe name"),
            (member("payload/usr/local/bin/../../../etc/passwd"), "unsafe name"),
            (member("payload\\usr\\local\\bin\\..\\x"), "unsafe name"),
            (member("payload/usr/local/bin/a\nb"), "unsafe name"),
            (member("C:/x"), "unsafe name"),
            (member("payload/usr/local/bin/" + "n" * 300), "too long"),
            (member("install.sh"), "update_manifest.json and payload/ only"),
            (member("payload/etc", type=tarfile.DIRTYPE), "not a place for a package"),
            (member("other", type=tarfile.DIRTYPE), "not a place for a package"),
            (member(f"payload/{VERSION_PATH}"), "twice"),
        ],
    )
    def test_members(self, write: Callable[[bytes], Path], extra: tarfile.TarInfo, words: str) -> None:
        with pytest.raises(InvalidInput, match=words):
            read_package(write(tar_of(manifest(FILES), FILES, extra)))

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"schema_version": "2"}, "schema_version"),
            ({"schema_version": True}, "schema_version"),
            ({"version": ""}, "version is missing"),
            ({"files": []}, "missing or empty"),
            ({"files": [{"path": VERSION_PATH, "size": 7}]}, "no sha256"),
            ({"files": [{"path": VERSION_PATH, "sha256": "0" * 64}]}, "no size"),
            ({"files": [{"path": "../x", "size": 0, "sha256": "0" * 64}]}, "unsafe name"),
            ({"files": manifest(FILES)["files"] + manifest(FILES)["files"]}, "twice"),
            ({"files": manifest({"usr/local/bin/a": b"", "usr/local/bin/a/b": b""})["files"]}, "file and as a folder"),
            ({"requires_reboot": "yes"}, "neither true nor false"),
        ],
    )
    def test_manifests(self, write: Callable[[bytes], Path], changes: dict[str, Any], words: str) -> None:
        with pytest.raises(InvalidInput, match=words):
            good(write, **changes)

    @pytest.mark.parametrize("facts", [None, [], "text"])
    def test_no_manifest(self, write: Callable[[bytes], Path], facts: Any) -> None:
        with pytest.raises(InvalidInput, match=r"update_manifest\.json"):
            read_package(write(tar_of(facts, FILES)))

    @pytest.mark.parametrize("content", [b"", b"\x1f\x8bnot gzip", b"no tar at all" * 100, b"PK\x03\x04"])
    def test_no_tar(self, write: Callable[[bytes], Path], content: bytes) -> None:
        with pytest.raises(InvalidInput):
            read_package(write(content))

    def test_a_cut_file(self, write: Callable[[bytes], Path]) -> None:
        content = gzip.compress(tar_of(manifest(FILES), FILES))
        with pytest.raises(InvalidInput, match="not a whole tar"):
            read_package(write(content[: len(content) // 2]))

    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(NotFound):
            read_package(tmp_path / "none.tar.gz")

    def test_a_bomb_costs_no_memory(self, write: Callable[[bytes], Path]) -> None:
        header = member("payload/usr/local/bin/zeros", size=40 << 20)
        with pytest.raises(TooLarge, match="times its size"):
            read_package(write(gzip.compress(tar_of(manifest(FILES), FILES, header), 9)))

    def test_a_header_that_tarfile_would_hold_in_memory(self, write: Callable[[bytes], Path]) -> None:
        header = member("pax", type=tarfile.XHDTYPE, size=64 << 20).tobuf(tarfile.USTAR_FORMAT)
        with pytest.raises(TooLarge, match="header"):
            read_package(write(header + bytes(10 << 10)))

    @pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
    def test_headers_without_an_end(self, write: Callable[[bytes], Path], kind: bytes) -> None:
        header = member("x", type=kind, size=10).tobuf(tarfile.GNU_FORMAT) + b"10 x=12345".ljust(512, b"\0")
        with pytest.raises(InvalidInput, match="not a whole tar"):
            read_package(write(gzip.compress(header * 5000)))

    def test_a_folder_named_again_and_again(
        self, write: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(update_archive, "MOST_MEMBERS", 100)
        header = member("./", type=tarfile.DIRTYPE).tobuf(tarfile.USTAR_FORMAT)
        with pytest.raises(TooLarge, match="more than 100 files"):
            read_package(write(header * 200))

    def test_a_pipe_is_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(InvalidInput, match="not a regular file"):
            read_package(tmp_path / "pipe")

    def test_what_a_package_says_is_cut(self, write: Callable[[bytes], Path]) -> None:
        with pytest.raises(InvalidInput) as caught:
            good(write, schema_version="2" * 1_000_000)
        assert len(caught.value.message) < 200
        with pytest.raises(InvalidInput, match="500"):
            good(write, required_packages=["-"] * 501)
        package = good(write, required_packages=["-"] * 400, created_at="\x1b[31m2026")
        assert (len(package.manifest.warnings), package.manifest.created_at) == (51, "[31m2026")

    def test_too_many_members(self, write: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(update_archive, "MOST_MEMBERS", 2)
        with pytest.raises(TooLarge, match="more than 2 files"):
            good(write)

    def test_what_fails_while_a_package_is_used_is_not_its_fault(self, write: Callable[[bytes], Path]) -> None:
        def use(path: Path) -> None:
            with update_archive.open_members(path) as members:
                for _ in members:
                    raise OSError(28, "full")

        with pytest.raises(OSError, match="full"):
            use(write(tar_of(manifest(FILES), FILES)))

    def test_too_many_bytes(self, write: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(update_archive, "LARGEST_TOTAL_BYTES", 100)
        with pytest.raises(TooLarge):
            good(write)


class TestProblems:
    def problems(self, write: Callable[[bytes], Path], facts: dict[str, Any], files: dict[str, bytes]) -> str:
        return "; ".join(read_package(write(tar_of(facts, files))).problems)

    def test_a_file_that_is_not_listed_is_never_copied(self, write: Callable[[bytes], Path]) -> None:
        evil = {**FILES, "etc/evil.conf": b"x"}
        assert "etc/evil.conf: in the package, but not listed" in self.problems(write, manifest(FILES), evil)

    def test_the_configuration_is_never_changed(self, write: Callable[[bytes], Path]) -> None:
        files = {**FILES, "etc/rpi-cam/config.env": b"x"}
        assert "never changes the configuration" in self.problems(write, manifest(files), files)

    @pytest.mark.parametrize(
        "path", ["usr/bin/x", "opt/rpi-cam-webmanagerx/y", "usr/local/binx", "opt/rpi-cam-webmanager/venv/bin/x"]
    )
    def test_other_places(self, write: Callable[[bytes], Path], path: str) -> None:
        files = {**FILES, path: b"x"}
        assert path in self.problems(write, manifest(files), files)

    def test_two_versions(self, write: Callable[[bytes], Path]) -> None:
        facts = manifest(FILES, version="5.0.0")
        assert self.problems(write, facts, FILES) == "the manifest says version '5.0.0', the file VERSION '2.33.0'"

    def test_changed_and_missing_files(self, write: Callable[[bytes], Path]) -> None:
        changed = {VERSION_PATH: b"2.33.1\n"}
        found = self.problems(write, manifest(FILES), changed)
        assert "sha256 is another" in found
        assert f"{PROGRAM_PATH}: listed, but not in the package" in found


@pytest.mark.parametrize(
    ("line", "is_loose"),
    [
        ("tool[x]==1.0 --hash=sha256:{wheel}", False),
        ("tool==1.0 --hash=sha256:" + "0" * 64, True),
        ("tool==1.0", True),
        ("tool @ https://example.invalid/tool.whl --hash=sha256:{wheel}", True),
        ("--find-links https://example.invalid/", True),
        ("-r /etc/passwd", True),
    ],
)
def test_requirements_are_wheels_of_the_package(write: Callable[[bytes], Path], line: str, is_loose: bool) -> None:
    wheel = b"a wheel"
    text = line.format(wheel=hashlib.sha256(wheel).hexdigest()).encode()
    web = "opt/rpi-cam-webmanager"
    files = {**FILES, f"{web}/wheels/tool-1.0-py3-none-any.whl": wheel, f"{web}/requirements.txt": text + b"\n\n"}
    assert bool(find_loose_requirements(read_package(write(tar_of(manifest(files), files))))) == is_loose


class TestVersions:
    @pytest.mark.parametrize(
        ("installed", "force", "allow", "words"),
        [
            ("", False, False, ""),
            ("2.32.9", False, False, ""),
            ("2.33.0rc1", False, False, ""),
            ("2.33", False, False, "installed already"),
            ("2.33.0", True, False, ""),
            ("2.33.0", False, True, ""),
            ("2.33.1", True, True, "older than the installed"),
            ("2.100.0", True, False, "older than the installed"),
            ("unknown", False, False, ""),
            ("2.\u0663\u0664", False, False, ""),
        ],
    )
    def test_rules(self, write: Callable[[bytes], Path], installed: str, force: bool, allow: bool, words: str) -> None:
        findings = check_package(good(write, allow_reapply=allow), installed, force=force)
        assert "; ".join(findings.errors).endswith(words) or words in "; ".join(findings.errors)
        assert bool(findings.errors) == bool(words)

    def test_a_version_that_is_no_number_is_refused(self, write: Callable[[bytes], Path]) -> None:
        errors = check_package(good(write, version="build 2 of 33"), "").errors
        assert "not dotted numbers" in errors[-1]

    @pytest.mark.parametrize("text", ["1.\u0662", "", "1..2", "1.2-beta-3-4", "v", "../1"])
    def test_texts_that_are_no_version(self, text: str) -> None:
        assert version_rank(text) is None

    @given(st.lists(st.integers(0, 99), min_size=1, max_size=4), st.integers(0, 3))
    def test_zeros_at_the_end_change_nothing(self, numbers: list[int], zeros: int) -> None:
        text = ".".join(map(str, numbers))
        assert version_rank(text) == version_rank(text + ".0" * zeros)
        before, after = version_rank(f"{text}rc1"), version_rank(f"{text}.1")
        assert before is not None
        assert after is not None
        assert before < (version_rank(text) or before) < after


@settings(max_examples=40)
@given(st.binary(max_size=2000))
def test_no_bytes_lead_to_a_crash(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.tar"
    path.write_bytes(content)
    with pytest.raises(MeetingctlError):
        read_package(path)

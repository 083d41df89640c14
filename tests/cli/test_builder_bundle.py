"""`builder bundle` through `main()`, with real pip and small wheels in a folder."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from meetingctl.core.update_package import read_package
from meetingctl.remote.bundle import Platform, Recipe
from meetingctl.remote.bundle.build import pack
from meetingctl.remote.bundle.closure import find_closure, read_wheel
from meetingctl.remote.bundle.repack import repack_program
from wheels import find_pip_wheel, write_wheel

from .runner import Cli

PROGRAM_NEEDS = (
    "plain>=1",
    'extra; extra == "device"',
    'absent; extra == "other"',
    'older; python_version < "3.12"',
    'newer>=2; python_version >= "3.13"',
    'arm; platform_machine == "aarch64"',
)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Return a folder of wheels, that of the program among them."""
    folder = tmp_path / "store"
    folder.mkdir()
    for project in ("plain", "extra", "older", "arm", "deep"):
        write_wheel(folder, project, {f"{project}.py": ""}, requires=["deep"] if project == "newer" else [])
    write_wheel(folder, "newer", {"newer.py": ""}, version="2", requires=["deep"])
    write_wheel(folder, "meetingctl", {"meetingctl.py": ""}, requires=PROGRAM_NEEDS)
    shutil.copy(find_pip_wheel(), folder)
    return folder


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    (tmp_path / "home").mkdir()
    return Cli(tmp_path / "home", {"SOURCE_DATE_EPOCH": "1795255200", "PIP_CONFIG_FILE": "/dev/null"})


def bundle(cli: Cli, store: Path, *more: str) -> dict[str, object]:
    wheel = str(store / "meetingctl-1-py3-none-any.whl")
    options = ["--wheel", wheel, "--find-links", str(store), "--no-index", "--out", str(store.parent / "out")]
    result = cli("builder", "bundle", *options, "--release-version", "1.4.0", *more, "--json")
    assert result.code == 0, result
    value: dict[str, object] = result.json
    return value


def test_a_package_for_another_python_and_machine(cli: Cli, store: Path, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_text(
        "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f\n"
        "-----END PRIVATE KEY-----\n"
    )
    facts = bundle(
        cli, store, "--require-package", "i2c-tools", "--restart", "rtsp-watchdog.service", "--sign", str(key)
    )
    assert facts["file"] == str(tmp_path / "out/rpi-cam-update_1.4.0_20261121_100000.tar.gz")
    assert facts["wheels"] == ["arm 1", "deep 1", "extra 1", "meetingctl 1", "newer 2", "plain 1"]
    package = read_package(Path(str(facts["file"])))
    assert (package.problems, package.version, package.has_program) == ((), "1.4.0", True)
    assert (package.manifest.created_at, package.manifest.restart_services) == (
        "2026-11-21T10:00:00",
        ("rtsp-watchdog",),
    )
    assert {"i2c-tools", "ffmpeg"} <= set(package.apt_packages)
    assert package.dependencies.built_for == {"python": "3.13", "architecture": "arm64"}
    assert len(package.signature) == 64
    with tarfile.open(str(facts["file"])) as archive:
        members = {header.name: header for header in archive}
        command = members["payload/usr/local/bin/meetingctl"]
        assert (command.mode, command.uid, command.uname, command.mtime) == (0o755, 0, "root", 1795255200)
        file = archive.extractfile("payload/opt/rpi-cam-webmanager/requirements.txt")
        assert file is not None
        requirements = file.read().decode().splitlines()
    digest = hashlib.sha256((store / "newer-2-py3-none-any.whl").read_bytes()).hexdigest()
    assert f"newer==2 --hash=sha256:{digest}" in requirements
    assert requirements[3].startswith("meetingctl[device]==1 --hash=sha256:")
    assert any(name.endswith("wheels/older-1-py3-none-any.whl") for name in members) is False
    assert "payload/opt/rpi-cam-webmanager/packaging/systemd/rpi-av-rtsp-recorder.service" in members


def test_a_release_takes_the_version_of_its_package(cli: Cli, tmp_path: Path) -> None:
    payload = tmp_path / "payload"
    (payload / "usr/local/bin").mkdir(parents=True)
    (payload / "usr/local/bin/tool").write_text("tool")
    path = tmp_path / "rpi-cam-update_2.5_20261121_100000.tar.gz"
    pack(payload, Recipe(Platform("3.13", "arm64"), "2.5"), path)
    options = ["--type", "rpicam", "--distribution", "trixie", "--dry-run", "--json"]
    plan = cli("fleet", "publish", str(path), *options)
    assert plan.json["object"] == "rpicam/trixie/2.5"
    path.write_bytes(path.read_bytes()[:-200])
    assert cli("fleet", "publish", str(path), *options).code == 2


def test_what_cannot_be_had_is_named(cli: Cli, store: Path) -> None:
    (store / "newer-2-py3-none-any.whl").unlink()
    wheel = str(store / "meetingctl-1-py3-none-any.whl")
    options = ["--wheel", wheel, "--find-links", str(store), "--no-index", "--out", str(store.parent / "out")]
    result = cli("builder", "bundle", *options)
    assert (result.code, "newer" in result.err) == (1, True)
    assert not (store.parent / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--python", "2.7"], "no Python"),
        (["--release-version", "next"], "not dotted numbers"),
        (["--wheel", "none.whl"], "no such file"),
    ],
)
def test_wrong_options(cli: Cli, options: list[str], words: str) -> None:
    result = cli("builder", "bundle", "--dry-run", *options)
    assert result.code in {1, 2}
    assert words in result.err


def test_a_dry_run_builds_nothing(cli: Cli) -> None:
    plan = cli("builder", "bundle", "--dry-run", "--arch", "armhf", "--out", "nowhere", "--json").json
    assert (plan["architecture"], plan["python"], plan["dry_run"]) == ("armhf", "3.13", True)
    assert plan["file"].startswith("nowhere/rpi-cam-update_")
    assert plan["restart_services"][0] == "rpi-av-rtsp-recorder"
    assert not Path("nowhere").exists()


def test_the_same_files_make_the_same_bytes(tmp_path: Path) -> None:
    recipe = Recipe(Platform("3.13", "arm64"), "1.0.0", 1795255200)
    digests = set()
    for name in ("one", "two"):
        for path in ("usr/local/bin/b", "usr/local/bin/a"):
            (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / path).write_text(path)
        pack(tmp_path / name, recipe, tmp_path / f"{name}.tar.gz")
        digests.add(gzip.decompress((tmp_path / f"{name}.tar.gz").read_bytes()))
    assert len(digests) == 1
    assert (tmp_path / "one.tar.gz").read_bytes() == (tmp_path / "two.tar.gz").read_bytes()


def test_a_wheel_of_a_version_that_is_excluded(store: Path) -> None:
    write_wheel(store, "plain", {}, version="0.5")
    wheel = read_wheel(store / "plain-0.5-py3-none-any.whl")
    program = read_wheel(store / "meetingctl-1-py3-none-any.whl")
    with pytest.raises(Exception, match=r"meetingctl needs plain>=1, the package has 0\.5"):
        find_closure({"plain": wheel, "meetingctl": program}, ["meetingctl"], Platform("3.12", "amd64").markers())


def test_the_installed_program_becomes_a_wheel_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "lib"
    info = site / "meetingctl-7.dist-info"
    for path, text in {
        site / "meetingctl/__init__.py": "",
        info / "METADATA": "Metadata-Version: 2.1\nName: meetingctl\nVersion: 7\n",
        info / "INSTALLER": "pip\n",
        tmp_path / "share/meetingctl/packaging/README.md": "units\n",
        info
        / "RECORD": "meetingctl/__init__.py,,\nmeetingctl-7.dist-info/METADATA,,\nmeetingctl-7.dist-info/INSTALLER,,\n"
        "../bin/meetingctl,,\n../share/meetingctl/packaging/README.md,,\nmeetingctl/__pycache__/x.pyc,,\n",
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    wheel = repack_program(tmp_path)
    assert read_wheel(wheel).version == "7"
    assert zipfile.ZipFile(wheel).namelist() == [
        "meetingctl-7.data/data/share/meetingctl/packaging/README.md",
        "meetingctl-7.dist-info/METADATA",
        "meetingctl-7.dist-info/RECORD",
        "meetingctl/__init__.py",
    ]

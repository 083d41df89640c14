"""A disk without room refuses a release, keeps those that are there, and takes it once there is room."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from makers import ARCHIVE, form, publish
from planes import Fleet, missing

from meetingctl.server.db.schema import audit, current_releases, release_history, releases
from meetingctl.server.updates.releases import published_root
from meetingctl.server.updates.verify import find_faults, find_orphans

PUBLISH = "/api/admin/updates/publish"
BIG = b"x" * (3 * 1024**2)


@pytest.fixture
def small_disk(fleet: Fleet) -> Iterator[Path]:
    """Give the published files a disk of 2 MiB of their own."""
    folder = published_root(fleet.data_dir)
    folder.mkdir(exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        missing("the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.real
@pytest.mark.parametrize("ballast_kib", [0, 2044])  # no room for the archive; hardly any for the folder of the release
def test_a_full_disk_refuses_a_release(fleet: Fleet, small_disk: Path, ballast_kib: int) -> None:
    publish(fleet)
    ballast = small_disk / ".ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            for _ in range(ballast_kib // 4):
                file.write(b"x" * 4096)
        except OSError:
            pass
    refused = fleet.call("POST", PUBLISH, key=fleet.admin, **form("2.0.0", BIG))
    assert (refused.status_code, refused.json()["error"]) == (507, "DISK_FULL"), refused.text
    assert refused.json()["ok"] is False
    assert [row["version"] for row in fleet.rows(sa.select(releases))] == ["1.0.0"]
    assert [row["version"] for row in fleet.rows(sa.select(current_releases))] == ["1.0.0"]
    assert len(fleet.rows(sa.select(release_history))) == 1
    assert len(fleet.rows(sa.select(audit).where(audit.c.action == "release.publish"))) == 1
    assert fleet.call("GET", "/published/rpi/trixie/1.0.0/app.tar.gz").content == ARCHIVE
    ballast.unlink()
    with fleet.database.read() as connection:
        assert find_faults(fleet.data_dir, connection) == []
        assert find_orphans(fleet.data_dir, connection) == []
    publish(fleet, "2.0.0")
    assert fleet.call("GET", "/published/rpi/trixie/2.0.0/app.tar.gz").content == ARCHIVE

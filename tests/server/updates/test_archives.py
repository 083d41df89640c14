"""Archives that would harm who unpacks them."""

from __future__ import annotations

import hashlib
import io
import lzma
import os
import tarfile
import zipfile
from typing import Any

import pytest
from makers import form
from planes import Fleet, wait_for

from meetingctl.server.db.schema import audit


def tar(*members: tuple[str, Any], mode: str = "w:gz") -> bytes:
    """Return an archive; a member is a name with its bytes, its kind and what it links to, or its attributes."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode=mode) as archive:
        for name, what in members:
            info = tarfile.TarInfo(name)
            if isinstance(what, bytes):
                info.size = len(what)
                archive.addfile(info, io.BytesIO(what))
            elif isinstance(what, dict):
                info.pax_headers = what
                archive.addfile(info)
            else:
                info.type, info.linkname = what
                archive.addfile(info)
    return target.getvalue()


def zipped(*members: tuple[str, bytes]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return target.getvalue()


def publish(fleet: Fleet, archive: bytes, name: str = "app.tar.gz") -> Any:
    from makers import manifest

    facts = manifest("1.0", archive, archive=name) if name != "app.tar.gz" else manifest("1.0", archive)
    return fleet.call(
        "POST", "/api/admin/updates/publish", key=fleet.admin, **form("1.0", archive, manifest=facts, name=name)
    )


HARMFUL = {
    "climbs": tar(("../../etc/x", b"x")),
    "absolute": tar(("/etc/x", b"x")),
    "link out": tar(("a/link", (tarfile.SYMTYPE, "../../etc/passwd"))),
    "absolute link": tar(("link", (tarfile.SYMTYPE, "/etc/passwd"))),
    "hard link out": tar(("a/hard", (tarfile.LNKTYPE, "../etc/passwd"))),
    "device": tar(("null", (tarfile.CHRTYPE, ""))),
    "bomb": tar(("zeros", bytes(101 * 1024**2))),
    "negative size": tar(("a", {"size": "-512"})),
    "sparse map": tar(("a", {"GNU.sparse.map": "x"})),
    "chain of headers": tar(*[("a", (tarfile.XHDTYPE, ""))] * 5000),
    "large header": tar(("a" * 100_000, b"x")),
}


@pytest.mark.parametrize("kind", HARMFUL)
def test_it_is_refused_and_written_down(fleet: Fleet, kind: str) -> None:
    answer = publish(fleet, HARMFUL[kind])
    assert (answer.status_code, answer.json()["error"]) == (400, "VALIDATION_FAILED"), answer.text
    assert answer.json()["message"].startswith("Invalid archive")
    wanted = audit.select().where(audit.c.action == "request.refuse")
    wait_for(lambda: fleet.rows(wanted), "the refusal is written down")
    versions = fleet.call("GET", "/api/admin/updates/releases", key=fleet.admin).json()
    assert versions["total"] == 0


@pytest.mark.parametrize("content", [zipped(("../x", b"x")), zipped(("a", bytes(101 * 1024**2)))])
def test_a_zip_is_looked_into_too(fleet: Fleet, content: bytes) -> None:
    from meetingctl.server.updates.archives import check_archive
    from meetingctl.server.updates.errors import HarmfulArchive

    path = fleet.data_dir / "x.zip"
    path.write_bytes(content)
    with pytest.raises(HarmfulArchive):
        check_archive(path)


@pytest.mark.parametrize(
    "content",
    [
        tar(("a/b", b"x"), ("a/link", (tarfile.SYMTYPE, "b")), ("hard", (tarfile.LNKTYPE, "a/b"))),
        tar(("a", b"x"), mode="w"),
        zipped(("a/b", b"x")),
        b"no archive at all",
        tar(("a", b"x"))[:40],
        lzma.compress(os.urandom(60_000))[:-900] + bytes(900),
        lzma.compress(tar(("a", os.urandom(60_000)), ("b", b"x"), mode="w"))[:-20_000] + bytes(20_000),
    ],
    ids=["links inside", "not packed", "zip", "no archive", "cut", "damaged xz, no tar", "damaged xz"],
)
def test_what_harms_nobody_is_published(fleet: Fleet, content: bytes) -> None:
    assert publish(fleet, content).status_code == 200, hashlib.sha256(content).hexdigest()

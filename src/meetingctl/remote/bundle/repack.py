"""Make a wheel again from the installed program, where there is no source to build one from."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from meetingctl.core.errors import NotFound

_PROJECT = "meetingctl"
_DATA_FOLDER = "share/meetingctl/"
_NOT_KEPT = ("INSTALLER", "RECORD", "REQUESTED", "direct_url.json")
_TIME = (2020, 2, 2, 0, 0, 0)


def repack_program(folder: Path) -> Path:
    """Write the wheel of the installed program into `folder`. Raises: NotFound."""
    try:
        found = distribution(_PROJECT)
    except PackageNotFoundError:
        raise NotFound("meetingctl is not installed as a package", hint="name a wheel with --wheel FILE") from None
    contents = {name: path.read_bytes() for name, path in _members(found).items()}
    if f"{_PROJECT}/__init__.py" not in contents:
        raise NotFound("the installed meetingctl has no files of its own", hint="name a wheel with --wheel FILE")
    stem = f"{_PROJECT}-{found.version}"
    record = [f"{name},sha256={_hash(content)},{len(content)}" for name, content in sorted(contents.items())]
    record_name = f"{stem}.dist-info/RECORD"
    contents[record_name] = ("\n".join([*record, f"{record_name},,"]) + "\n").encode()
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(contents):
            entry = zipfile.ZipInfo(name, _TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, contents[name])
    return path


def _members(found: Distribution) -> dict[str, Path]:
    """Return the name in a wheel of each installed file; programs that pip made are made again on the device."""
    members = {}
    for file in found.files or ():
        path = Path(str(file.locate()))
        text = file.as_posix()
        if "__pycache__" in file.parts or file.name in _NOT_KEPT or not path.is_file():
            continue
        if _DATA_FOLDER in text and text.startswith("../"):
            members[f"{_PROJECT}-{found.version}.data/data/{text[text.index(_DATA_FOLDER) :]}"] = path
        elif not text.startswith(("../", "/")):
            members[text] = path
    return members


def _hash(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()

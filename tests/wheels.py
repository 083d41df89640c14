"""Small real wheels, and the wheel of pip that every Python brings along."""

from __future__ import annotations

import base64
import ensurepip
import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path


def find_pip_wheel() -> Path:
    """Return the wheel of pip of this Python or of the distribution."""
    folders = (Path(ensurepip.__file__).parent / "_bundled", Path("/usr/share/python-wheels"))
    return next(path for folder in folders for path in folder.glob("pip-*.whl"))


def write_wheel(
    folder: Path, project: str, files: Mapping[str, str], *, version: str = "1", requires: Sequence[str] = ()
) -> Path:
    """Write a wheel that any Python takes; `requires` are lines of Requires-Dist."""
    info = f"{project}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {line}\n" for line in requires)
    extras = "Provides-Extra: device\n"
    contents = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n{extras}{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{project} = {project}:main\n",
    }
    lines = []
    for name, text in contents.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(text.encode())}\n")
    path = folder / f"{project}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in contents.items():
            archive.writestr(name, text)
        archive.writestr(f"{info}/RECORD", "".join(lines) + f"{info}/RECORD,,\n")
    return path

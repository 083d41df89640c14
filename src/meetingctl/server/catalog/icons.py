"""Icons of device types: small raster images, recognized by their first bytes; never SVG, which can hold scripts."""

from __future__ import annotations

import os
from pathlib import Path

from meetingctl.core.errors import InvalidInput, NotFound
from meetingctl.core.paths import safe_join
from meetingctl.server.uploads import UploadedFile

ICONS = "icons"
ICON_CAP_BYTES = 1024**2
_TYPES = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"}


def image_kind(head: bytes) -> str | None:
    """Return `png`, `jpg` or `webp` for the first 12 bytes of such an image."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    return None


def keep_icon(data_dir: Path, file: UploadedFile) -> str:
    """Move an upload to the icons, named after its content; return its path in the data directory.

    Raises: InvalidInput for what is no image.
    """
    with file.path.open("rb") as stream:
        kind = image_kind(stream.read(12))
    if kind is None:
        raise InvalidInput("Invalid icon", hint="send a PNG, JPEG or WebP image")
    name = f"{file.sha256[:32]}.{kind}"
    file.path.chmod(0o644)
    file.path.replace(safe_join(data_dir / ICONS, name))
    return f"{ICONS}/{name}"


def read_icon(data_dir: Path, icon_path: str | None) -> tuple[bytes, str]:
    """Return an icon and its content type. Raises: NotFound."""
    name = (icon_path or "").removeprefix(f"{ICONS}/")
    media_type = _TYPES.get(name.rpartition(".")[2])
    if media_type is None:
        raise NotFound("Icon not found")
    try:
        descriptor = os.open(safe_join(data_dir / ICONS, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (OSError, InvalidInput):
        raise NotFound("Icon not found") from None
    with os.fdopen(descriptor, "rb") as file:
        return file.read(ICON_CAP_BYTES), media_type

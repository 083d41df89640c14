"""Send published files: ranges, a strong ETag, and headers that keep browsers from doing anything with them."""

from __future__ import annotations

import stat
from pathlib import Path

from fastapi import Request, Response
from fastapi.responses import FileResponse

from meetingctl.core.errors import NotFound

_TYPES = {".json": "application/json", ".md": "text/markdown; charset=utf-8", ".zip": "application/zip"}
_GZIP = (".tar.gz", ".tgz")


def content_type_of(name: str) -> str:
    """Return the type of a file by its name."""
    if name.endswith(_GZIP):
        return "application/gzip"
    return _TYPES.get(Path(name).suffix, "application/octet-stream")


def send_file(
    request: Request, path: Path, *, sha256: str | None = None, media_type: str | None = None, public: bool = True
) -> Response:
    """Answer with a file of the published tree, or 304. Raises: NotFound for everything that is no plain file."""
    try:
        facts = path.stat(follow_symlinks=False)
    except OSError:
        raise NotFound("Not found") from None
    if not stat.S_ISREG(facts.st_mode):
        raise NotFound("Not found")
    etag = f'"{sha256}"' if sha256 else f'"{facts.st_mtime_ns:x}-{facts.st_size:x}"'
    headers = {
        "etag": etag,
        "cache-control": f"{'public' if public else 'private'}, max-age=31536000, immutable",
        "x-content-type-options": "nosniff",
        "accept-ranges": "bytes",
    }
    if _knows(request.headers.get("if-none-match", ""), etag):
        return Response(status_code=304, headers=headers)
    return FileResponse(
        path,
        headers=headers,
        media_type=media_type or content_type_of(path.name),
        filename=path.name,
        stat_result=facts,
        content_disposition_type="attachment",
    )


def _knows(if_none_match: str, etag: str) -> bool:
    given = [word.strip().removeprefix("W/") for word in if_none_match.split(",")]
    return etag in given or given == ["*"]

"""Addresses of published files: absolute, and signed where reading needs a credential.

A reply never repeats the `Host` header: the address is the setting `public_url`, or the socket where the request came
in, so that nobody can make the server name another host.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from meetingctl.core.clock import now_ms
from meetingctl.core.net import join_endpoint
from meetingctl.core.secret import same_secret

if TYPE_CHECKING:
    from fastapi import Request

    from meetingctl.server.state import ServerState

_KEY_BYTES = 32


def server_url(request: Request, public_url: str) -> str:
    """Return the address of this server without a slash at the end."""
    if public_url:
        return public_url
    host, port = request.scope.get("server") or ("127.0.0.1", None)
    scheme = request.scope.get("scheme", "http")
    return f"{scheme}://{join_endpoint(host, port) if port else host}"


def file_path(name: str, file_name: str) -> str:
    """Return the path of a published file; `name` is `type/distribution/version`."""
    return f"/published/{quote(name)}/{quote(file_name)}"


def file_url(request: Request, state: ServerState, name: str, file_name: str) -> str:
    """Return the absolute address of a published file, signed unless everybody may read."""
    path = file_path(name, file_name)
    url = server_url(request, state.settings.public_url) + path
    if state.settings.updates_public_read:
        return url
    expires = now_ms() // 1000 + int(state.settings.updates_url_ttl_s)
    signature = sign(state.data_dir, path, expires)
    return f"{url}?{urlencode({'expires': expires, 'signature': signature})}"


def sign(data_dir: Path, path: str, expires_s: int) -> str:
    """Return the signature of a path until a time (seconds since the epoch)."""
    message = f"{path}\n{expires_s}".encode()
    return hmac.new(_url_key(data_dir), message, hashlib.sha256).hexdigest()


def is_signed(data_dir: Path, path: str, expires: str, signature: str) -> bool:
    """Say whether a signature is ours and has not run out."""
    if not expires.isascii() or not expires.isdigit() or len(expires) > 12 or not signature.isascii():
        return False
    return same_secret(sign(data_dir, path, int(expires)), signature) and int(expires) > now_ms() // 1000


@lru_cache(maxsize=8)
def _url_key(data_dir: Path) -> bytes:
    """Read the key of this server, made on first use; several processes that make it at once agree on one."""
    path = data_dir / "keys" / "urls.key"
    with contextlib.suppress(FileNotFoundError):
        return _read_key(path)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(os.urandom(_KEY_BYTES))
        file.flush()
        os.fsync(file.fileno())
    with contextlib.suppress(FileExistsError):
        os.link(temporary, path)
    temporary.unlink()
    return _read_key(path)


def _read_key(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        return file.read(_KEY_BYTES)

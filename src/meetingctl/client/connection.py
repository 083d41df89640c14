"""One server, one credential, one round trip; the only module that knows httpx.

Only GET is repeated, because a repeated write may act twice. One deadline covers all attempts of a request.
"""

from __future__ import annotations

import io
import logging
import random
import re
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, NoReturn, Self
from urllib.parse import urlsplit

from meetingctl import __version__
from meetingctl.client.lean_httpx import httpx
from meetingctl.core.errors import Busy, InvalidInput, MeetingctlError, Unreachable
from meetingctl.core.net import is_loopback
from meetingctl.core.refusal import HINT_HEADER, explain_refusal, lower_first, read_hint
from meetingctl.core.replies import decode_json, find_fault
from meetingctl.core.secret import Secret

log = logging.getLogger(__name__)

JsonObject = dict[str, Any]

RETRY_STATUSES = frozenset({429, 502, 503, 504})
RETRIES = 3
BACKOFF_FIRST_S = 0.1
BACKOFF_CAP_S = 2.0
RETRY_AFTER_CAP_S = 10.0
REPLY_CAP_BYTES = 64 * 1024 * 1024
_JITTER = random.SystemRandom()


Told = Callable[[int], object]  # hears how many bytes each step has moved


class Reply(NamedTuple):
    status: int
    headers: httpx.Headers
    content: bytes


class TimeLeft:
    """What is left of a deadline that counts only while the context is open, not while the caller works."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._entered_s = 0.0

    def __enter__(self) -> None:
        self._entered_s = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.seconds -= time.monotonic() - self._entered_s


class Connection:
    """One server, one credential, a pool of connections. Safe to share between threads."""

    def __init__(
        self,
        base_url: str,
        *,
        api_key: Secret | None = None,
        token_code: Secret | None = None,
        timeout_s: float = 30.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Prepare a client; nothing is sent yet. `base_url` may end in `/api`. Raises: InvalidInput for a bad URL."""
        self.base_url = base_url.rstrip("/").removesuffix("/api")
        parts = urlsplit(self.base_url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise InvalidInput(
                f"not a server URL: {base_url[:200]!r}", hint="use for example --server-url http://127.0.0.1:8470"
            )
        self._is_local = is_loopback(parts.hostname)
        self.timeout_s = timeout_s
        headers = {"User-Agent": f"meetingctl/{__version__}", "Accept": "application/json"}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key.reveal()}"
        if token_code:
            headers["X-Token-Code"] = token_code.reveal()
        # Plain HTTP needs no certificates, and loading them takes longer than a request. Redirections are not followed,
        # so a request cannot change from one to the other. A proxy of the environment cannot reach our loopback.
        self._http = httpx.Client(
            headers=headers,
            transport=transport,
            verify=parts.scheme == "https",
            trust_env=not self._is_local,
            follow_redirects=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        subject: str | None = None,
        within_s: float | None = None,
    ) -> Any:
        """Send one request and return the decoded JSON; an empty body gives None.

        `path` begins with `/api/`. `subject` names what the request is about and begins the error message. `within_s`
        is what is left of a deadline that covers several requests.
        Raises: the leaf for the HTTP status; Unreachable when nothing answers within the deadline.
        """
        reply = self.send_with_retries(method, path, params, json, within_s)
        if reply.status >= 300:
            self.raise_for(reply, subject, method, path)
        return self.decode(reply, path) if reply.content.strip() else None

    def get_bytes(self, path: str, *, subject: str | None = None) -> tuple[bytes, dict[str, str]]:
        """Return a small body that is no JSON, and the headers in lower case. Raises: as `request`."""
        reply = self.send_with_retries("GET", path, None, None)
        if reply.status >= 300:
            self.raise_for(reply, subject, "GET", path)
        return reply.content, dict(reply.headers)

    def upload(
        self,
        path: str,
        *,
        fields: Mapping[str, str],
        files: Mapping[str, tuple[str, BinaryIO]],
        subject: str | None = None,
        method: str = "POST",
    ) -> Any:
        """Send a form with files (field -> name and open file) without reading them into memory; return the JSON.

        The deadline is one of silence, not of the whole: a large file may take as long as it moves.
        Raises: as `request`. Never repeated.
        """
        try:
            answer = self._http.request(
                method, self.base_url + path, data=dict(fields), files=dict(files), timeout=self.timeout_s
            )
        except httpx.RequestError as exc:
            self._raise_unreachable(exc)
        reply = Reply(answer.status_code, answer.headers, answer.content)
        if reply.status >= 300:
            self.raise_for(reply, subject, method, path)
        return self.decode(reply, path)

    def download(
        self,
        path: str,
        target: BinaryIO,
        *,
        params: Mapping[str, Any] | None = None,
        subject: str | None = None,
        start: int = 0,
    ) -> int:
        """Write a file from byte `start` on into `target`, piece by piece; return how many bytes were written.

        The deadline is one of silence. Raises: as `request`; MeetingctlError when the server sends less than it said
        or starts elsewhere.
        """
        headers = {"Accept": "*/*", "Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        url, written = self.base_url + path, 0
        try:
            with self._http.stream("GET", url, params=params, headers=headers, timeout=self.timeout_s) as answer:
                if answer.status_code >= 300:
                    self.raise_for(Reply(answer.status_code, answer.headers, answer.read()), subject, "GET", path)
                if start and answer.status_code != 206:
                    raise MeetingctlError(f"{subject or path}: the server sends no part of a file")
                for chunk in answer.iter_bytes():
                    written += target.write(chunk)
        except httpx.RequestError as exc:
            self._raise_unreachable(exc)
        return written

    def decode(self, reply: Reply, path: str) -> Any:
        try:
            return decode_json(reply.content)
        except ValueError as exc:
            kind = reply.headers.get("content-type", "no content type")
            raise MeetingctlError(
                f"{self.base_url}{path}: the reply is no JSON ({kind}, {len(reply.content)} bytes)",
                hint="check that --server-url points to a meetingctl server",
            ) from exc

    def read_page(self, path: str, params: Mapping[str, Any], subject: str, time_left: TimeLeft) -> JsonObject:
        if time_left.seconds <= 0:
            raise Unreachable(
                f"{subject}: the list did not end within {self.timeout_s:g} s",
                hint="ask for less with --limit, or give it longer with --timeout 5m",
            )
        with time_left:
            return as_object(
                self.request("GET", path, params=params, subject=subject, within_s=time_left.seconds), path
            )

    def send_with_retries(
        self, method: str, path: str, params: Mapping[str, Any] | None, body: Any, within_s: float | None = None
    ) -> Reply:
        deadline_s = time.monotonic() + (self.timeout_s if within_s is None else within_s)
        for attempt in range(RETRIES + 1):
            is_last = method != "GET" or attempt == RETRIES
            try:
                reply = self._send(method, path, params, body, deadline_s)
            except (httpx.TimeoutException, httpx.InvalidURL, httpx.UnsupportedProtocol) as exc:
                self._raise_unreachable(exc)
            except httpx.RequestError as exc:
                wait_s = choose_wait_s(attempt, None)
                if is_last or time.monotonic() + wait_s >= deadline_s:
                    self._raise_unreachable(exc)
            else:
                if is_last or reply.status not in RETRY_STATUSES:
                    return reply
                wait_s = choose_wait_s(attempt, _retry_after_s(reply.headers))
                if wait_s > RETRY_AFTER_CAP_S or time.monotonic() + wait_s >= deadline_s:
                    return reply
            time.sleep(wait_s)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _send(self, method: str, path: str, params: Mapping[str, Any] | None, body: Any, deadline_s: float) -> Reply:
        left_s = max(0.001, deadline_s - time.monotonic())
        with self._http.stream(
            method, self.base_url + path, params=params, json=body, timeout=httpx.Timeout(left_s)
        ) as reply:
            content = bytearray()
            for chunk in reply.iter_bytes():
                content += chunk
                if time.monotonic() > deadline_s:
                    raise httpx.ReadTimeout("the reply did not end in time", request=reply.request)
                if len(content) > REPLY_CAP_BYTES:
                    raise MeetingctlError(f"{self.base_url}{path}: the reply is over {REPLY_CAP_BYTES} bytes")
            log.debug("request", extra={"method": method, "url": str(reply.url), "status": reply.status_code})
            return Reply(reply.status_code, reply.headers, bytes(content))

    def _raise_unreachable(self, error: Exception) -> NoReturn:
        hint = "meetingctl serve all" if self._is_local else "check the address that --server-url names"
        if isinstance(error, httpx.TimeoutException):
            message = f"no answer from {self.base_url} within {self.timeout_s:g} s"
        else:
            message = f"cannot reach {self.base_url}: {_reason(error)}"
        raise Unreachable(message, hint=hint) from error

    def raise_for(self, reply: Reply, subject: str | None, method: str, path: str) -> NoReturn:
        text, hint = _error_text(reply)
        text = text or f"{method} {self.base_url}{path} answered {reply.status}"
        role, spare_hint = _needed_role(reply.headers), read_hint(reply.headers.get(HINT_HEADER))
        error = explain_refusal(reply.status, text, subject=subject, role=role, hint=hint, spare_hint=spare_hint)
        if isinstance(error, Busy):
            error.retry_after_s = round(_retry_after_s(reply.headers) or 1)
            error.hint = error.hint or f"try again in {error.retry_after_s} s"
        raise error


def _reason(error: Exception) -> str:
    """Return what the system said, without its number and its module."""
    text = re.sub(r"^\[(Errno -?\d+|SSL[^\]]*)\] | \(_ssl\.c:\d+\)", "", str(error).strip())
    return lower_first(text) or type(error).__name__


def choose_wait_s(attempt: int, retry_after_s: float | None) -> float:
    """Choose the pause after a failed attempt: what the server asks for, else full jitter below a doubling cap."""
    if retry_after_s is not None:
        return retry_after_s
    return _JITTER.uniform(0, min(BACKOFF_CAP_S, BACKOFF_FIRST_S * 2**attempt))


def _retry_after_s(headers: httpx.Headers) -> float | None:
    text = str(headers.get("retry-after", "")).strip()
    return float(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def clock_skew_s(date: str | None, now_s: float) -> float | None:
    try:
        return round(parsedate_to_datetime(date).timestamp() - now_s, 1) if date else None
    except ValueError:
        return None


def _error_text(reply: Reply) -> tuple[str | None, str | None]:
    """Find the message and an optional hint in either error shape of the contract."""
    try:
        body = decode_json(reply.content)
    except ValueError:
        return None, None
    if not isinstance(body, dict):
        return None, None
    texts = [body.get(name) for name in ("message", "error")]
    text = next((text for text in texts if isinstance(text, str) and text), None)
    hint = body.get("hint")
    return text, hint if isinstance(hint, str) and hint else None


def _needed_role(headers: httpx.Headers) -> str | None:
    """Find the least role that may do it, which a refusal names as its scope (RFC 6750, section 3)."""
    found = re.search(r'\bscope="([a-z]{1,20})"', headers.get("www-authenticate", "")[:200])
    return found[1] if found else None


def misshapen(path: str, fault: str) -> MeetingctlError:
    return MeetingctlError(f"{path}: the server answered with something else: {fault}", hint="meetingctl doctor")


def as_object(reply: Any, path: str, *needed: str) -> JsonObject:
    if not isinstance(reply, dict):
        raise misshapen(path, f"expected a JSON object, got {type(reply).__name__}")
    if fault := find_fault(reply, needed):
        raise misshapen(path, fault)
    return reply


def as_objects(reply: Any, name: str, path: str, *needed: str) -> list[JsonObject]:
    return as_rows(as_object(reply, path).get(name), repr(name), path, *needed)


def as_rows(rows: Any, name: str, path: str, *needed: str) -> list[JsonObject]:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise misshapen(path, f"expected a list of objects in {name}")
    if fault := next(filter(None, (find_fault(row, needed) for row in rows)), None):
        raise misshapen(path, fault)
    return rows


class ToldFile(io.BufferedReader):
    """A file that tells how much of it was read; it keeps its length, which the form needs."""

    def __init__(self, path: Path, tell: Told | None) -> None:
        super().__init__(io.FileIO(path))
        self._heard_by = tell

    def read(self, size: int | None = -1, /) -> bytes:
        chunk = super().read(size)
        if self._heard_by is not None and chunk:
            self._heard_by(len(chunk))
        return chunk

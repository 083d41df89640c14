"""The typed client of the fleet API, and the only module that knows httpx.

`FleetClient.request` is one round trip: JSON in, JSON out, errors as the leaves of `core/errors.py`. The methods below
it name what the commands do. They return the API's JSON objects as plain dictionaries with the keys that the Meeting
contract gives, so that `--json` shows what the server said, and check only the outer shape.

Only GET is repeated, because a repeated write may act twice. One deadline covers all attempts of a request.
"""

from __future__ import annotations

import logging
import math
import random
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, NamedTuple, NoReturn
from urllib.parse import quote, urlsplit

import httpx

from meetingctl import __version__
from meetingctl.core.errors import Busy, InvalidInput, MeetingctlError, Unreachable
from meetingctl.core.net import is_loopback
from meetingctl.core.refusal import explain_refusal, lower_first
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
PAGE_ROWS = 100
AUDIT_PAGE_ROWS = 1000

_JITTER = random.SystemRandom()


class Health(NamedTuple):
    """What a server says of itself, and how far its clock is ahead of ours (seconds, whole ones at best)."""

    facts: JsonObject
    clock_skew_s: float | None


class _Reply(NamedTuple):
    status: int
    headers: httpx.Headers
    content: bytes


class _TimeLeft:
    """What is left of a deadline that counts only while the context is open, not while the caller works."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._entered_s = 0.0

    def __enter__(self) -> None:
        self._entered_s = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.seconds -= time.monotonic() - self._entered_s


class FleetClient:
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
        self._timeout_s = timeout_s
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

    def __enter__(self) -> FleetClient:
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
        reply = self._send_with_retries(method, path, params, json, within_s)
        if reply.status >= 300:
            self._raise_for(reply, subject, method, path)
        return self._decode(reply, path) if reply.content.strip() else None

    def _decode(self, reply: _Reply, path: str) -> Any:
        try:
            return decode_json(reply.content)
        except ValueError as exc:
            kind = reply.headers.get("content-type", "no content type")
            raise MeetingctlError(
                f"{self.base_url}{path}: the reply is no JSON ({kind}, {len(reply.content)} bytes)",
                hint="check that --server-url points to a meetingctl server",
            ) from exc

    # The server itself.

    def health(self) -> Health:
        """Read `/api/health`, which needs no credential, and compare the clocks."""
        sent_at_s = time.time()
        reply = self._send_with_retries("GET", "/api/health", None, None)
        if reply.status >= 300:
            self._raise_for(reply, None, "GET", "/api/health")
        facts = _object(self._decode(reply, "/api/health"), "/api/health")
        return Health(facts, _clock_skew_s(reply.headers.get("date"), (sent_at_s + time.time()) / 2))

    def whoami(self) -> JsonObject:
        """Return `{principal, kind, role, name, expires_at, mode}` of the presented credential."""
        return _object(self.request("GET", "/api/whoami", subject=self.base_url), "/api/whoami")

    # Devices.

    def list_devices(self, *, prefix: str = "", limit: int | None = None) -> Iterator[JsonObject]:
        """Yield devices without secrets, page by page, at most `limit`.

        A page that is not full is the last one, whatever total the server tells. The deadline of a request covers the
        server's share of the whole list. Raises: Unreachable when it does not end in time.
        """
        offset, path, time_left = 0, "/api/devices", _TimeLeft(self._timeout_s)
        while limit is None or offset < limit:
            rows = PAGE_ROWS if limit is None else min(PAGE_ROWS, limit - offset)
            params = {"limit": rows, "offset": offset} | ({"prefix": prefix} if prefix else {})
            page = self._read_page(path, params, "devices", time_left)
            devices = _objects(page, "devices", path)
            yield from devices if limit is None else devices[: limit - offset]
            offset += len(devices)
            if len(devices) != rows or offset >= (page.get("total") or 0):
                return

    def _read_page(self, path: str, params: Mapping[str, Any], subject: str, time_left: _TimeLeft) -> JsonObject:
        if time_left.seconds <= 0:
            raise Unreachable(
                f"{subject}: the list did not end within {self._timeout_s:g} s",
                hint="ask for less with --limit, or give it longer with --timeout 5m",
            )
        with time_left:
            return _object(self.request("GET", path, params=params, subject=subject, within_s=time_left.seconds), path)

    def get_device(self, key: str, *, secrets: bool = False) -> JsonObject:
        """Return one device. `secrets` asks for them too: only an administrator gets them, and it is audited.

        Raises: NotFound.
        """
        return self._device_call("GET", key, "", params={"secrets": int(secrets)})

    def create_device(
        self, key: str, *, token_code: Secret, device_type: str, distribution: str, product_serial: str | None = None
    ) -> JsonObject:
        """Create a device with a chosen key (`manual-create`); the reply holds its secrets once. Raises: Conflict."""
        body = {
            "devicekey": key,
            "token_code": token_code.reveal(),
            "device_type": device_type,
            "distribution": distribution,
        }
        if product_serial:
            body["product_serial"] = product_serial
        return _object(
            self.request("POST", "/api/devices/manual-create", json=body, subject=key), "/api/devices/manual-create"
        )

    def generate_device(self) -> JsonObject:
        """Create a device with a made key; the reply holds its secrets once."""
        path = "/api/devices/generate-and-register"
        return _object(self.request("POST", path, json={}, subject="new device"), path)

    def generate_key(self) -> JsonObject:
        """Return a made `devicekey` and `token_code`; nothing is stored."""
        path = "/api/devices/generate-key"
        return _object(self.request("GET", path, subject="new device"), path, "devicekey")

    def delete_device(self, key: str) -> JsonObject:
        """Delete a device with its tunnels, keys and logs. Raises: NotFound."""
        return self._device_call("DELETE", key, "")

    def get_note(self, key: str) -> str:
        """Return the operator's note. Raises: NotFound."""
        return str(self._device_call("GET", key, "/note").get("note") or "")

    def set_note(self, key: str, note: str) -> JsonObject:
        """Replace the operator's note. Raises: NotFound."""
        return self._device_call("PUT", key, "/note", {"note": note})

    def get_services(self, key: str) -> list[str]:
        """Return the names of the enabled services. Raises: NotFound."""
        services: list[str] = self._device_call("GET", key, "/service").get("services") or []
        return services

    def set_services(
        self, key: str, services: Sequence[str] | None = None, *, local_ports: Mapping[str, int] | None = None
    ) -> JsonObject:
        """Set the full list of enabled services, the device-side ports, or both. Raises: NotFound."""
        body: JsonObject = {}
        if services is not None:
            body["services"] = list(services)
        if local_ports is not None:
            body["local_ports"] = dict(local_ports)
        return self._device_call("PUT", key, "", body)

    def set_authorized(self, key: str, authorized: bool) -> JsonObject:
        """Allow or refuse the device; a refusal also ends its agent connection. Raises: NotFound."""
        return self._device_call("PUT", key, "/authorize", {"authorized": authorized})

    def set_tokens(self, key: str, count: int) -> JsonObject:
        """Set how many flash tokens the device has left. Raises: NotFound."""
        return self._device_call("PUT", key, "/tokens", {"token_count": count})

    def set_token_code(self, key: str, code: Secret) -> JsonObject:
        """Replace the device's token code, which also re-arms its registration. Raises: NotFound."""
        return self._device_call("PUT", key, "/token-code", {"token_code": code.reveal()})

    def register_device(self, key: str, *, token_code: Secret, facts: Mapping[str, Any] | None = None) -> JsonObject:
        """Register as the device; works once per token code. Raises: NotFound, Conflict, AuthError, RateLimited."""
        return self._device_call("POST", key, "/register", {**(facts or {}), "token_code": token_code.reveal()})

    def send_heartbeat(self, key: str, facts: Mapping[str, Any] | None = None) -> JsonObject:
        """Report the device as online; `facts` are network fields of the contract. Raises: NotFound, RateLimited."""
        return self._device_call("POST", key, "/online", dict(facts or {}))

    def list_logs(self, key: str, *, limit: int) -> list[JsonObject]:
        """Return the device's connection log, newest entry first. Raises: NotFound."""
        path = f"/api/devices/{quote(key, safe='')}/logs"
        return _rows(self.request("GET", path, params={"limit": limit}, subject=key), "a list", path)

    # Tunnels. The public port is the name of a tunnel.

    def open_tunnel(
        self,
        key: str,
        service: str,
        *,
        port: int | None = None,
        ttl_s: float | None = None,
        allow_from: Sequence[str] | None = None,
    ) -> JsonObject:
        """Reserve a public port, or return the one that is there: `{port, url, expires_at}`.

        `port` is the device-side port of service `relay`; `allow_from` holds networks, or one of `any`, `requester`.
        Raises: NotFound, Forbidden, Busy when no port is free.
        """
        body: JsonObject = {"service": service}
        if port is not None:
            body["port"] = port
        if ttl_s is not None:
            body["ttl_s"] = ttl_s
        if allow_from:
            body["allow_from"] = list(allow_from)
        return self._device_call("POST", key, "/service", body, needed=("port", "url"))

    def list_tunnels(self) -> list[JsonObject]:
        """Return the open tunnels."""
        return _objects(self.request("GET", "/api/tunnels", subject="tunnels"), "tunnels", "/api/tunnels", "port")

    def get_tunnel(self, port: int) -> JsonObject:
        """Return one tunnel with its live figures. Raises: NotFound."""
        path = f"/api/tunnels/{port}"
        return _object(self.request("GET", path, subject=f"tunnel {port}"), path, "port")

    def close_tunnel(self, port: int) -> JsonObject:
        """Close one tunnel. Raises: NotFound."""
        path = f"/api/tunnels/{port}"
        return _object(self.request("DELETE", path, subject=f"tunnel {port}"), path)

    def close_all_tunnels(self) -> int:
        """Close every tunnel and return how many there were."""
        path = "/api/tunnels/close-all"
        return int(_object(self.request("POST", path, json={}, subject="tunnels"), path).get("closed") or 0)

    def tunnel_stats(self, key: str | None = None) -> JsonObject:
        """Return `{stats: [...], agents: [...]}`, of one device or of all."""
        path = "/api/tunnels/stats"
        params = {"device_key": key} if key else None
        return _object(self.request("GET", path, params=params, subject=key or "tunnels"), path)

    # API keys.

    def list_keys(self) -> list[JsonObject]:
        """Return the API keys without their secrets."""
        return _objects(self.request("GET", "/api/keys", subject="API keys"), "keys", "/api/keys")

    def create_key(self, name: str, *, role: str, expires_in_s: float | None = None) -> JsonObject:
        """Create an API key; `key` in the reply is the secret, shown once."""
        body: JsonObject = {"name": name, "role": role}
        if expires_in_s is not None:
            body["expires_in_s"] = int(expires_in_s)
        return _object(self.request("POST", "/api/keys", json=body, subject=f"key {name}"), "/api/keys", "key")

    def revoke_key(self, key_id: str) -> JsonObject:
        """Revoke an API key at once. Raises: NotFound."""
        path = f"/api/keys/{quote(key_id, safe='')}"
        return _object(self.request("DELETE", path, subject=f"key {key_id}"), path)

    # Audit.

    def list_audit(
        self, *, limit: int | None = PAGE_ROWS, before: int | str | None = None, subject: str | None = None
    ) -> Iterator[JsonObject]:
        """Yield audit records, newest first, at most `limit` (None: all); `subject` filters on the object."""
        left, path, time_left = math.inf if limit is None else limit, "/api/audit", _TimeLeft(self._timeout_s)
        while left > 0:
            params: JsonObject = {"limit": int(min(left, AUDIT_PAGE_ROWS))}
            params |= {"before": before} if before is not None else {}
            params |= {"object": subject} if subject else {}
            if limit is None:  # the whole log may take long; each page has its own deadline
                time_left = _TimeLeft(self._timeout_s)
            page = self._read_page(path, params, "audit log", time_left)
            records = _objects(page, "records", path, "id")[: params["limit"]]
            _check_order(records, before, path)
            yield from records
            left -= len(records)
            if page.get("next") is None or not records:
                return
            before = records[-1]["id"]

    def verify_audit(self) -> JsonObject:
        """Have the server check the hash chain: `{ok, records, first_bad}`."""
        return _object(self.request("GET", "/api/audit/verify", subject="audit log"), "/api/audit/verify")

    # The round trip.

    def _device_call(
        self,
        method: str,
        key: str,
        tail: str,
        body: JsonObject | None = None,
        *,
        params: Mapping[str, Any] | None = None,
        needed: tuple[str, ...] = (),
    ) -> JsonObject:
        path = f"/api/devices/{quote(key, safe='')}{tail}"
        return _object(self.request(method, path, params=params, json=body, subject=key), path, *needed)

    def _send_with_retries(
        self, method: str, path: str, params: Mapping[str, Any] | None, body: Any, within_s: float | None = None
    ) -> _Reply:
        deadline_s = time.monotonic() + (self._timeout_s if within_s is None else within_s)
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

    def _send(self, method: str, path: str, params: Mapping[str, Any] | None, body: Any, deadline_s: float) -> _Reply:
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
            return _Reply(reply.status_code, reply.headers, bytes(content))

    def _raise_unreachable(self, error: Exception) -> NoReturn:
        hint = "meetingctl serve all" if self._is_local else "check the address that --server-url names"
        if isinstance(error, httpx.TimeoutException):
            message = f"no answer from {self.base_url} within {self._timeout_s:g} s"
        else:
            message = f"cannot reach {self.base_url}: {_reason(error)}"
        raise Unreachable(message, hint=hint) from error

    def _raise_for(self, reply: _Reply, subject: str | None, method: str, path: str) -> NoReturn:
        text, hint = _error_text(reply)
        text = text or f"{method} {self.base_url}{path} answered {reply.status}"
        error = explain_refusal(reply.status, text, subject=subject, role=_needed_role(reply.headers), hint=hint)
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


def _clock_skew_s(date: str | None, now_s: float) -> float | None:
    try:
        return round(parsedate_to_datetime(date).timestamp() - now_s, 1) if date else None
    except ValueError:
        return None


def _error_text(reply: _Reply) -> tuple[str | None, str | None]:
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


def _check_order(records: list[JsonObject], before: int | str | None, path: str) -> None:
    """Let each record be older than the one before it, so that a listing comes to its end."""
    for record in records:
        if not isinstance(record["id"], int) or (before is not None and record["id"] >= int(before)):
            raise _misshapen(path, "expected records from new to old")
        before = record["id"]


def _misshapen(path: str, fault: str) -> MeetingctlError:
    return MeetingctlError(f"{path}: the server answered with something else: {fault}", hint="meetingctl doctor")


def _object(reply: Any, path: str, *needed: str) -> JsonObject:
    if not isinstance(reply, dict):
        raise _misshapen(path, f"expected a JSON object, got {type(reply).__name__}")
    if fault := find_fault(reply, needed):
        raise _misshapen(path, fault)
    return reply


def _objects(reply: Any, name: str, path: str, *needed: str) -> list[JsonObject]:
    return _rows(_object(reply, path).get(name), repr(name), path, *needed)


def _rows(rows: Any, name: str, path: str, *needed: str) -> list[JsonObject]:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise _misshapen(path, f"expected a list of objects in {name}")
    if fault := next(filter(None, (find_fault(row, needed) for row in rows)), None):
        raise _misshapen(path, fault)
    return rows

"""The typed client of the fleet API, and the only module that knows httpx.

`FleetClient.request` is one round trip: JSON in, JSON out, errors as the leaves of `core/errors.py`. The methods below
it name what the commands do. They return the API's JSON objects as plain dictionaries with the keys that the Meeting
contract gives, so that `--json` shows what the server said, and check only the outer shape.

Only GET is repeated, because a repeated write may act twice. One deadline covers all attempts of a request.
"""

from __future__ import annotations

import json as json_codec
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
    ) -> Any:
        """Send one request and return the decoded JSON; an empty body gives None.

        `path` begins with `/api/`. `subject` names what the request is about and begins the error message.
        Raises: the leaf for the HTTP status; Unreachable when nothing answers within the deadline.
        """
        reply = self._send_with_retries(method, path, params, json)
        if reply.status >= 300:
            self._raise_for(reply, subject, method, path)
        if not reply.content.strip():
            return None
        try:
            return json_codec.loads(reply.content)
        except (ValueError, RecursionError) as exc:
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
        try:
            facts = _object(json_codec.loads(reply.content), "/api/health")
        except ValueError as exc:
            raise MeetingctlError(
                f"{self.base_url}/api/health: the reply is no JSON",
                hint="check that --server-url points to a meetingctl server",
            ) from exc
        return Health(facts, _clock_skew_s(reply.headers.get("date"), (sent_at_s + time.time()) / 2))

    def whoami(self) -> JsonObject:
        """Return `{principal, kind, role, name, expires_at, mode}` of the presented credential."""
        return _object(self.request("GET", "/api/whoami", subject=self.base_url), "/api/whoami")

    # Devices.

    def list_devices(self, *, prefix: str = "", limit: int | None = None) -> Iterator[JsonObject]:
        """Yield devices without secrets, page by page, at most `limit`."""
        offset = 0
        while limit is None or offset < limit:
            rows = PAGE_ROWS if limit is None else min(PAGE_ROWS, limit - offset)
            params = {"limit": rows, "offset": offset} | ({"prefix": prefix} if prefix else {})
            page = _object(self.request("GET", "/api/devices", params=params, subject="devices"), "/api/devices")
            devices = _objects(page, "devices", "/api/devices")
            yield from devices
            offset += len(devices)
            if not devices or offset >= int(page.get("total") or 0):
                return

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
        return _object(
            self.request("GET", "/api/devices/generate-key", subject="new device"), "/api/devices/generate-key"
        )

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
        services = self._device_call("GET", key, "/service").get("services")
        return [str(name) for name in services] if isinstance(services, list) else []

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
        return self._device_call("POST", key, "/service", body)

    def list_tunnels(self) -> list[JsonObject]:
        """Return the open tunnels."""
        return _objects(self.request("GET", "/api/tunnels", subject="tunnels"), "tunnels", "/api/tunnels")

    def get_tunnel(self, port: int) -> JsonObject:
        """Return one tunnel with its live figures. Raises: NotFound."""
        path = f"/api/tunnels/{port}"
        return _object(self.request("GET", path, subject=f"tunnel {port}"), path)

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
        return _object(self.request("POST", "/api/keys", json=body, subject=f"key {name}"), "/api/keys")

    def revoke_key(self, key_id: str) -> JsonObject:
        """Revoke an API key at once. Raises: NotFound."""
        path = f"/api/keys/{quote(key_id, safe='')}"
        return _object(self.request("DELETE", path, subject=f"key {key_id}"), path)

    # Audit.

    def list_audit(
        self, *, limit: int | None = PAGE_ROWS, before: int | str | None = None, subject: str | None = None
    ) -> Iterator[JsonObject]:
        """Yield audit records, newest first, at most `limit` (None: all); `subject` filters on the object."""
        left = math.inf if limit is None else limit
        while left > 0:
            params: JsonObject = {"limit": int(min(left, AUDIT_PAGE_ROWS))}
            params |= {"before": before} if before is not None else {}
            params |= {"object": subject} if subject else {}
            page = _object(self.request("GET", "/api/audit", params=params, subject="audit log"), "/api/audit")
            records = _objects(page, "records", "/api/audit")[: params["limit"]]
            yield from records
            left -= len(records)
            before = page.get("next")
            if before is None or not records:
                return

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
    ) -> JsonObject:
        path = f"/api/devices/{quote(key, safe='')}{tail}"
        return _object(self.request(method, path, params=params, json=body, subject=key), path)

    def _send_with_retries(self, method: str, path: str, params: Mapping[str, Any] | None, body: Any) -> _Reply:
        deadline_s = time.monotonic() + self._timeout_s
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
        body = json_codec.loads(reply.content)
    except (ValueError, RecursionError):
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


def _object(reply: Any, path: str) -> JsonObject:
    if not isinstance(reply, dict):
        raise MeetingctlError(f"{path}: expected a JSON object, got {type(reply).__name__}", hint="meetingctl doctor")
    return reply


def _objects(reply: Any, name: str, path: str) -> list[JsonObject]:
    rows = _object(reply, path).get(name)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise MeetingctlError(f"{path}: expected a list of objects in {name!r}", hint="meetingctl doctor")
    return rows

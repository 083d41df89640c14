"""The typed client of the fleet API.

The methods name what the commands do. They return the API's JSON objects as plain dictionaries with the keys that the
Meeting contract gives, so that `--json` shows what the server said, and check only the outer shape. What belongs to one
slice of the server stands in a module of its own beside this one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple
from urllib.parse import quote

from meetingctl.client.builder import Builder
from meetingctl.client.catalog import Catalog
from meetingctl.client.connection import (
    Connection,
    JsonObject,
    TimeLeft,
    as_object,
    as_objects,
    as_rows,
    choose_wait_s,
    clock_skew_s,
    misshapen,
)
from meetingctl.client.keys import SshKeys
from meetingctl.client.people import People
from meetingctl.client.releases import Releases
from meetingctl.client.rollouts import Rollouts
from meetingctl.client.webhooks import Events, Webhooks
from meetingctl.core.secret import Secret

__all__ = ["FleetClient", "Health", "JsonObject", "choose_wait_s"]

PAGE_ROWS = 100
AUDIT_PAGE_ROWS = 1000


class Health(NamedTuple):
    """What a server says of itself, and how far its clock is ahead of ours (seconds, whole ones at best)."""

    facts: JsonObject
    clock_skew_s: float | None


class FleetClient(Connection):
    """One server, one credential, a pool of connections. Safe to share between threads."""

    @cached_property
    def builder(self) -> Builder:
        """Builds of distributions."""
        return Builder(self)

    @cached_property
    def catalog(self) -> Catalog:
        """Device types, distributions and their files."""
        return Catalog(self)

    @cached_property
    def ssh_keys(self) -> SshKeys:
        """SSH keys of devices and of the server."""
        return SshKeys(self)

    @cached_property
    def releases(self) -> Releases:
        """Releases, channels and the fleet's update state."""
        return Releases(self)

    @cached_property
    def rollouts(self) -> Rollouts:
        """Rollouts."""
        return Rollouts(self)

    @cached_property
    def people(self) -> People:
        """Accounts of people."""
        return People(self)

    @cached_property
    def webhooks(self) -> Webhooks:
        """Webhooks and their deliveries."""
        return Webhooks(self)

    @cached_property
    def events(self) -> Events:
        """What happened lately."""
        return Events(self)

    # The server itself.

    def health(self) -> Health:
        """Read `/api/health`, which needs no credential, and compare the clocks."""
        sent_at_s = time.time()
        reply = self.send_with_retries("GET", "/api/health", None, None)
        if reply.status >= 300:
            self.raise_for(reply, None, "GET", "/api/health")
        facts = as_object(self.decode(reply, "/api/health"), "/api/health")
        return Health(facts, clock_skew_s(reply.headers.get("date"), (sent_at_s + time.time()) / 2))

    def whoami(self) -> JsonObject:
        """Return `{principal, kind, role, name, expires_at, mode}` of the presented credential."""
        return as_object(self.request("GET", "/api/whoami", subject=self.base_url), "/api/whoami")

    # Devices.

    def list_devices(self, *, prefix: str = "", tag: str = "", limit: int | None = None) -> Iterator[JsonObject]:
        """Yield devices without secrets, page by page, at most `limit`.

        A page that is not full is the last one, whatever total the server tells. The deadline of a request covers the
        server's share of the whole list. Raises: Unreachable when it does not end in time.
        """
        offset, path, time_left = 0, "/api/devices", TimeLeft(self.timeout_s)
        while limit is None or offset < limit:
            rows = PAGE_ROWS if limit is None else min(PAGE_ROWS, limit - offset)
            params = (
                {"limit": rows, "offset": offset}
                | ({"prefix": prefix} if prefix else {})
                | ({"tag": tag} if tag else {})
            )
            page = self.read_page(path, params, "devices", time_left)
            devices = as_objects(page, "devices", path)
            yield from devices if limit is None else devices[: limit - offset]
            offset += len(devices)
            if len(devices) != rows or offset >= (page.get("total") or 0):
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
        return as_object(
            self.request("POST", "/api/devices/manual-create", json=body, subject=key), "/api/devices/manual-create"
        )

    def generate_device(self) -> JsonObject:
        """Create a device with a made key; the reply holds its secrets once."""
        path = "/api/devices/generate-and-register"
        return as_object(self.request("POST", path, json={}, subject="new device"), path)

    def generate_key(self) -> JsonObject:
        """Return a made `devicekey` and `token_code`; nothing is stored."""
        path = "/api/devices/generate-key"
        return as_object(self.request("GET", path, subject="new device"), path, "devicekey")

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

    def set_name(self, key: str, name: str) -> JsonObject:
        """Set the name that people read; an empty one means the key. Raises: NotFound."""
        return self._device_call("PUT", key, "", {"device_name": name})

    def set_parent(self, key: str, parent: str | None) -> JsonObject:
        """Name the device above this one, or none. Raises: NotFound, InvalidInput for a circle."""
        return self._device_call("PUT", key, "/parent", {"parent_device_key": parent})

    def set_tags(self, key: str, tags: Sequence[str]) -> JsonObject:
        """Give a device exactly these tags. Raises: NotFound, InvalidInput."""
        return self._device_call("PUT", key, "/tags", {"tags": list(tags)})

    def set_authorized(self, key: str, authorized: bool) -> JsonObject:
        """Allow or refuse the device; a refusal also ends its agent connection. Raises: NotFound."""
        return self._device_call("PUT", key, "/authorize", {"authorized": authorized})

    def set_tokens(self, key: str, count: int) -> JsonObject:
        """Set how many flash tokens the device has left. Raises: NotFound."""
        return self._device_call("PUT", key, "/tokens", {"token_count": count})

    def take_token(self, key: str) -> int:
        """Consume one flash token; return how many are left. Raises: NotFound, Forbidden when there is none."""
        return int(self._device_call("POST", key, "/flash-request", {}, needed=("tokens_left",))["tokens_left"])

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
        return as_rows(self.request("GET", path, params={"limit": limit}, subject=key), "a list", path)

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
        return as_objects(self.request("GET", "/api/tunnels", subject="tunnels"), "tunnels", "/api/tunnels", "port")

    def get_tunnel(self, port: int) -> JsonObject:
        """Return one tunnel with its live figures. Raises: NotFound."""
        path = f"/api/tunnels/{port}"
        return as_object(self.request("GET", path, subject=f"tunnel {port}"), path, "port")

    def close_tunnel(self, port: int) -> JsonObject:
        """Close one tunnel. Raises: NotFound."""
        path = f"/api/tunnels/{port}"
        return as_object(self.request("DELETE", path, subject=f"tunnel {port}"), path)

    def close_all_tunnels(self) -> int:
        """Close every tunnel and return how many there were."""
        path = "/api/tunnels/close-all"
        return int(as_object(self.request("POST", path, json={}, subject="tunnels"), path).get("closed") or 0)

    def tunnel_stats(self, key: str | None = None) -> JsonObject:
        """Return `{stats: [...], agents: [...]}`, of one device or of all."""
        path = "/api/tunnels/stats"
        params = {"device_key": key} if key else None
        return as_object(self.request("GET", path, params=params, subject=key or "tunnels"), path)

    # API keys.

    def list_keys(self) -> list[JsonObject]:
        """Return the API keys without their secrets."""
        return as_objects(self.request("GET", "/api/keys", subject="API keys"), "keys", "/api/keys")

    def create_key(
        self,
        name: str,
        *,
        role: str,
        expires_in_s: float | None = None,
        limits: Mapping[str, Sequence[str]] | None = None,
    ) -> JsonObject:
        """Create an API key; `key` in the reply is the secret, shown once.

        `limits` holds `permissions`, `device_types` and `tags`; none of them is no limit.
        """
        body: JsonObject = {"name": name, "role": role, **{key: list(words) for key, words in (limits or {}).items()}}
        if expires_in_s is not None:
            body["expires_in_s"] = int(expires_in_s)
        return as_object(self.request("POST", "/api/keys", json=body, subject=f"key {name}"), "/api/keys", "key")

    def revoke_key(self, key_id: str) -> JsonObject:
        """Revoke an API key at once. Raises: NotFound."""
        path = f"/api/keys/{quote(key_id, safe='')}"
        return as_object(self.request("DELETE", path, subject=f"key {key_id}"), path)

    # Audit.

    def list_audit(
        self, *, limit: int | None = PAGE_ROWS, before: int | str | None = None, subject: str | None = None
    ) -> Iterator[JsonObject]:
        """Yield audit records, newest first, at most `limit` (None: all); `subject` filters on the object."""
        left, path, time_left = math.inf if limit is None else limit, "/api/audit", TimeLeft(self.timeout_s)
        while left > 0:
            params: JsonObject = {"limit": int(min(left, AUDIT_PAGE_ROWS))}
            params |= {"before": before} if before is not None else {}
            params |= {"object": subject} if subject else {}
            if limit is None:  # the whole log may take long; each page has its own deadline
                time_left = TimeLeft(self.timeout_s)
            page = self.read_page(path, params, "audit log", time_left)
            records = as_objects(page, "records", path, "id")[: params["limit"]]
            _check_order(records, before, path)
            yield from records
            left -= len(records)
            if page.get("next") is None or not records:
                return
            before = records[-1]["id"]

    def verify_audit(self) -> JsonObject:
        """Have the server check the hash chain: `{ok, records, first_bad}`."""
        return as_object(self.request("GET", "/api/audit/verify", subject="audit log"), "/api/audit/verify")

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
        return as_object(self.request(method, path, params=params, json=body, subject=key), path, *needed)


def _check_order(records: list[JsonObject], before: int | str | None, path: str) -> None:
    """Let each record be older than the one before it, so that a listing comes to its end."""
    for record in records:
        if not isinstance(record["id"], int) or (before is not None and record["id"] >= int(before)):
            raise misshapen(path, "expected records from new to old")
        before = record["id"]

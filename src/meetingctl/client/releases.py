"""Releases, channels and the fleet's update state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from meetingctl.client.connection import Connection, JsonObject, as_object, as_objects

PAGE_ROWS = 1000
_BASE = "/api/admin"


class Releases:
    """The part of the API about releases. `named` is `{device_type, distribution, version}`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def publish(
        self,
        named: Mapping[str, str],
        *,
        manifest: bytes,
        archive: Path,
        signature: bytes | None = None,
        notes: str = "",
    ) -> JsonObject:
        """Publish a release; the same bytes again are fine. Raises: Conflict for other bytes, InvalidInput."""
        from io import BytesIO

        path = f"{_BASE}/updates/publish"
        files: dict[str, tuple[str, BinaryIO]] = {"manifest": ("manifest.json", BytesIO(manifest))}
        if signature is not None:
            files["signature"] = ("manifest.sig", BytesIO(signature))
        fields = {**named, **({"notes": notes} if notes else {})}
        with ExitStack() as stack:
            files["archive"] = (archive.name, stack.enter_context(archive.open("rb")))
            reply = self._connection.upload(path, fields=fields, files=files, subject=f"release {_name(named)}")
        return as_object(reply, path, "path")

    def list(self, *, device_type: str | None = None, distribution: str | None = None) -> Iterator[JsonObject]:
        """Yield releases, newest publication first."""
        return self._pages(f"{_BASE}/updates/releases", {"device_type": device_type, "distribution": distribution})

    def verify(self, named: Mapping[str, str]) -> JsonObject:
        """Have the server compare a release with its record. Raises: NotFound."""
        return self._get(f"{_BASE}/updates/verify", named, f"release {_name(named)}")

    def verify_all(self) -> JsonObject:
        """Have the server look at every release: `{intact, faults}`."""
        return self._get(f"{_BASE}/updates/verify-all", {}, "releases")

    def notes(self, named: Mapping[str, str]) -> str:
        """Return the notes of a release. Raises: NotFound."""
        reply = self._get(f"{_BASE}/updates/release-notes", named, f"release {_name(named)}")
        return str(reply.get("release_notes") or "")

    def download(self, named: Mapping[str, str], target: BinaryIO, *, start: int = 0) -> int:
        """Write the archive of a release from byte `start` on; return how many bytes. Raises: NotFound."""
        path, subject = f"{_BASE}/updates/download", f"release {_name(named)}"
        return self._connection.download(path, target, params=dict(named), subject=subject, start=start)

    # Channels.

    def list_channels(self) -> Iterator[JsonObject]:
        """Yield channels, oldest first."""
        return self._pages(f"{_BASE}/update-channels", {})

    def set_channel(self, values: Mapping[str, Any]) -> JsonObject:
        """Create a channel or change the one of this name. Raises: Conflict while a rollout runs on it."""
        path = f"{_BASE}/update-channels"
        reply = self._connection.request("POST", path, params={"upsert": 1}, json=dict(values), subject="channel")
        item: JsonObject = as_object(reply, path, "item")["item"]
        return item

    def delete_channel(self, channel_id: int) -> None:
        """Delete a channel. Raises: NotFound, Conflict."""
        self._connection.request("DELETE", f"{_BASE}/update-channels/{channel_id}", subject=f"channel {channel_id}")

    # The fleet.

    def fleet_state(self, filters: Mapping[str, Any], *, limit: int | None = None) -> Iterator[JsonObject]:
        """Yield what each device has and should have."""
        return self._pages(f"{_BASE}/device-updates", filters, limit)

    def fleet_stats(self, filters: Mapping[str, Any]) -> JsonObject:
        """Return how many devices are in each state."""
        reply = self._get(f"{_BASE}/device-updates", {**filters, "page_size": 1}, "fleet")
        stats: JsonObject = reply.get("stats") or {}
        return stats

    def history(self, filters: Mapping[str, Any], *, limit: int | None = None) -> Iterator[JsonObject]:
        """Yield update attempts, newest first."""
        return self._pages(f"{_BASE}/device-update-history", filters, limit)

    def export(self, kind: str, filters: Mapping[str, Any], target: BinaryIO) -> int:
        """Write the fleet's state as `csv` or `json`."""
        wanted = {"format": kind, **_given(filters)}
        if kind == "csv":
            reply = self._get(f"{_BASE}/device-updates/export", wanted, "fleet")
            return target.write(str(reply.get("csv") or "").encode())
        return self._connection.download(f"{_BASE}/device-updates/export", target, params=wanted, subject="fleet")

    # One device.

    def wanted(self, key: str) -> JsonObject:
        """Return what a device should have: `{target_version, update_available, start_after_s, rollout, …}`.

        Raises: NotFound.
        """
        path = f"/api/devices/{quote(key, safe='')}/update"
        reply = self._connection.request("GET", path, subject=key)
        return as_object(reply, path, "update_available", "start_after_s")

    def report(self, key: str, *, to_version: str, from_version: str, status: str, message: str = "") -> None:
        """Report an update of a device: pending, in_progress, success or failed. Raises: NotFound, InvalidInput."""
        path = f"/api/devices/{quote(key, safe='')}/update-status"
        body = {"to_version": to_version, "from_version": from_version or None, "status": status, "message": message}
        self._connection.request("POST", path, json=body, subject=key)

    def _get(self, path: str, params: Mapping[str, Any], subject: str) -> JsonObject:
        reply = self._connection.request("GET", path, params=_given(params), subject=subject)
        counts = reply.pop("stats", None) if isinstance(reply, dict) else None  # elsewhere `stats` is a list of rows
        return as_object(reply, path) | ({"stats": counts} if isinstance(counts, dict) else {})

    def _pages(self, path: str, params: Mapping[str, Any], limit: int | None = None) -> Iterator[JsonObject]:
        """Yield the items of all pages; one that is not full is the last."""
        page, left = 1, limit
        size = PAGE_ROWS if limit is None else min(PAGE_ROWS, limit)
        while left is None or left > 0:
            reply = self._get(path, {**params, "page": page, "page_size": size}, "list")
            items = as_objects({"items": reply.get("items")}, "items", path)
            yield from items if left is None else items[:left]
            left = None if left is None else left - len(items)
            page += 1
            if len(items) != size:
                return


def _given(params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}


def _name(named: Mapping[str, str]) -> str:
    return "/".join(named[part] for part in ("device_type", "distribution", "version") if part in named)

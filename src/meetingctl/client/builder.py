"""Builds of distributions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

from meetingctl.client.connection import Connection, JsonObject, Told, ToldFile, as_object, as_objects

_BASE = "/api/builder"


class Builder:
    """The part of the API about builds. `place` is `{device_type, distribution}`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def start(self, manifest: Mapping[str, Any]) -> str:
        """Open a build; return its id. Raises: InvalidInput."""
        return str(self._post("start", dict(manifest), "a build", "build_id")["build_id"])

    def upload(self, build_id: str, file: Path, *, filetype: str = "", tell: Told | None = None) -> JsonObject:
        """Add a file to a build. Raises: NotFound, InvalidInput, TooLarge, StorageFull."""
        path, fields = f"{_BASE}/upload-file", {"build_id": build_id, "type": filetype}
        with ToldFile(file, tell) as stream:
            files = {"file": (file.name, cast("BinaryIO", stream))}
            return as_object(self._connection.upload(path, fields=fields, files=files, subject=str(file)), path)

    def get_manifest(self, build_id: str) -> JsonObject:
        """Return `{manifest, valid, missing}`. Raises: NotFound."""
        return self._get("manifest", {"build_id": build_id}, f"build {build_id}", "manifest", "missing")

    def set_manifest(self, build_id: str, manifest: Mapping[str, Any]) -> JsonObject:
        """Replace the manifest: `{valid, missing}`. Raises: NotFound, InvalidInput."""
        return self._post(
            "manifest", {"build_id": build_id, "manifest": dict(manifest)}, f"build {build_id}", "missing"
        )

    def package(self, build_id: str, kind: str) -> str:
        """Queue the packaging; return the job. Raises: NotFound, InvalidInput, RateLimited."""
        return str(
            self._post("package", {"build_id": build_id, "format": kind}, f"build {build_id}", "job_id")["job_id"]
        )

    def status(self, job_id: str) -> JsonObject:
        """Return `{state, progress, download_url, sha256, log}`. Raises: NotFound."""
        return self._get("package-status", {"job_id": job_id}, f"job {job_id}", "state", "progress")

    def cancel(self, job_id: str) -> None:
        """End a job. Raises: NotFound, Conflict when it has ended."""
        self._post("cancel", {"job_id": job_id}, f"job {job_id}")

    def download(self, job_id: str, target: BinaryIO) -> int:
        """Write the archive; return its size in bytes. Raises: NotFound, Conflict while the job runs."""
        return self._connection.download(f"{_BASE}/download/{job_id}", target, subject=f"job {job_id}")

    def commit(self, job_id: str, notes: str = "") -> JsonObject:
        """Publish the archive: `{path, published_url}`. Raises: NotFound, Conflict."""
        body = {"job_id": job_id, **({"notes": notes} if notes else {})}
        return self._post("commit", body, f"job {job_id}", "path")

    def history(self, place: Mapping[str, str]) -> list[JsonObject]:
        """Return what was published in a distribution, newest first."""
        params = {"type": place["device_type"], "distribution": place["distribution"]}
        path = f"{_BASE}/history"
        reply = self._connection.request("GET", path, params=params, subject=_name(place))
        return as_objects(reply, "history", path, "version")

    def suggest_version(self, place: Mapping[str, str]) -> str:
        """Return the number after the newest published one."""
        return str(self._post("suggest-version", dict(place), _name(place), "suggested_version")["suggested_version"])

    def rollback(self, place: Mapping[str, str], version: str) -> None:
        """Make an older version the current one. Raises: NotFound."""
        self._post("rollback", {**place, "version": version}, f"{_name(place)}/{version}")

    def duplicate(self, place: Mapping[str, str], version: str, new_version: str, notes: str = "") -> None:
        """Publish a version under another number. Raises: NotFound, Conflict."""
        body = {**place, "version": version, "new_version": new_version, "notes": notes}
        self._post("duplicate", body, f"{_name(place)}/{version}")

    def _get(self, name: str, params: Mapping[str, str], subject: str, *needed: str) -> JsonObject:
        path = f"{_BASE}/{name}"
        return as_object(self._connection.request("GET", path, params=params, subject=subject), path, *needed)

    def _post(self, name: str, body: Mapping[str, Any], subject: str, *needed: str) -> JsonObject:
        path = f"{_BASE}/{name}"
        return as_object(self._connection.request("POST", path, json=dict(body), subject=subject), path, *needed)


def _name(place: Mapping[str, str]) -> str:
    return f"{place['device_type']}/{place['distribution']}"

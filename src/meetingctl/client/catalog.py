"""Device types, and the files of their distributions."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import quote

from meetingctl.client.connection import Connection, JsonObject, Told, ToldFile, as_object, as_objects, misshapen
from meetingctl.core.errors import NotFound

TYPES = "/api/device-types"


class Catalog:
    """The part of the API about device types and stored files. `place` is `{devicetype, distribution}`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    # The table of types.

    def list_types(self) -> list[JsonObject]:
        """Return the device types of the table, oldest first."""
        return as_objects(self._connection.request("GET", TYPES, subject="device types"), "device_types", TYPES, "id")

    def find_type(self, name: str) -> JsonObject:
        """Return the type of this name, whatever its case, or else of this number. Raises: NotFound."""
        found = self.list_types()
        named = [item for item in found if str(item.get("name")).casefold() == name.casefold()]
        numbered = [item for item in found if str(item["id"]) == name]
        if not named and not numbered:
            raise NotFound(f"{name}: no such device type", hint="meetingctl fleet types list")
        return (named or numbered)[0]

    def create_type(self, fields: Mapping[str, Any]) -> int:
        """Create a type of `name`, `serial_prefix` and more; return its number. Raises: Conflict, InvalidInput."""
        return self._make(TYPES, fields)

    def fork_type(self, type_id: int, fields: Mapping[str, Any]) -> int:
        """Copy a type under another name and prefix; return its number. Raises: NotFound, Conflict."""
        return self._make(f"{TYPES}/{type_id}/fork", fields)

    def change_type(self, type_id: int, fields: Mapping[str, Any]) -> None:
        """Change the given fields. Raises: NotFound, Conflict, InvalidInput."""
        self._connection.request("PUT", f"{TYPES}/{type_id}", json=dict(fields), subject=_subject(type_id))

    def merge_type(self, type_id: int) -> None:
        """Give a fork's fields and devices to its parent; the fork is deleted. Raises: NotFound, InvalidInput."""
        self._connection.request("POST", f"{TYPES}/{type_id}/merge", json={}, subject=_subject(type_id))

    def delete_type(self, type_id: int) -> None:
        """Delete a type. Raises: NotFound."""
        self._connection.request("DELETE", f"{TYPES}/{type_id}", subject=_subject(type_id))

    def set_icon(self, type_id: int, icon: Path) -> None:
        """Set the icon: PNG, JPEG or WebP. Raises: NotFound, InvalidInput, TooLarge."""
        with icon.open("rb") as file:
            files = {"icon": (icon.name, cast("BinaryIO", file))}
            path = f"{TYPES}/{type_id}"
            self._connection.upload(path, fields={}, files=files, subject=str(icon), method="PUT")

    def get_icon(self, type_id: int) -> bytes:
        """Return the icon. Raises: NotFound."""
        return self._bytes(f"{TYPES}/{type_id}/icon", _subject(type_id))

    # The storage tree.

    def list_folders(self) -> list[str]:
        """Return the types that have a folder for files."""
        path = "/api/flash/device-types"
        return _names(self._connection.request("GET", path, subject="device types"), "device_types", path)

    def list_distributions(self, device_type: str) -> list[str]:
        """Return the distributions of a type. Raises: NotFound."""
        path = f"/api/flash/{_quoted(device_type)}/distributions"
        return _names(self._connection.request("GET", path, subject=device_type), "distributions", path)

    def need_distribution(self, place: Mapping[str, str]) -> None:
        """Raises: NotFound when there is no such distribution."""
        if place["distribution"] not in self.list_distributions(place["devicetype"]):
            raise NotFound(f"{_place(place)}: no such distribution", hint="meetingctl fleet distributions list")

    def create_folder(self, device_type: str) -> None:
        """Make the folder of a type. Raises: Conflict, InvalidInput."""
        body = {"devicetype": device_type}
        self._connection.request("POST", "/api/flash/create-type", json=body, subject=device_type)

    def create_distribution(self, place: Mapping[str, str]) -> None:
        """Make the folder of a distribution. Raises: NotFound without the type's folder, Conflict, InvalidInput."""
        path = "/api/flash/create-distribution"
        self._connection.request("POST", path, json=dict(place), subject=_place(place))

    def list_files(self, device_key: str) -> JsonObject:
        """Return `{devicetype, distribution, files}` of a device. Raises: NotFound, InvalidInput without a place."""
        path = f"/api/flash/{_quoted(device_key)}/distribution-files"
        reply = as_object(self._connection.request("GET", path, subject=device_key), path)
        _names(reply, "files", path)
        return reply

    def upload_file(self, place: Mapping[str, str], file: Path, *, tell: Told | None = None) -> JsonObject:
        """Store a file over the one of its name; `tell` hears how many bytes each step has read.

        Raises: NotFound, InvalidInput, TooLarge, StorageFull.
        """
        path = "/api/flash/upload"
        with ToldFile(file, tell) as stream:
            files = {"file": (file.name, cast("BinaryIO", stream))}
            reply = self._connection.upload(path, fields=place, files=files, subject=f"{_place(place)}/{file.name}")
        return as_object(reply, path)

    def delete_file(self, place: Mapping[str, str], name: str) -> None:
        """Delete a file. Raises: NotFound."""
        path = f"/api/flash/{_quoted(place['devicetype'])}/{_quoted(place['distribution'])}/{_quoted(name)}"
        self._connection.request("DELETE", path, subject=f"{_place(place)}/{name}")

    def get_distrib_json(self, device_key: str) -> bytes:
        """Return distrib.json of a device's distribution, as stored. Raises: NotFound."""
        return self._bytes(f"/api/devices/{_quoted(device_key)}/distrib-json", device_key)

    def put_distrib_json(self, device_key: str, value: Any) -> None:
        """Replace distrib.json of a device's distribution. Raises: NotFound, TooLarge."""
        path = f"/api/devices/{_quoted(device_key)}/distrib-json"
        self._connection.request("PUT", path, json=value, subject=device_key)

    def _make(self, path: str, fields: Mapping[str, Any]) -> int:
        subject = f"device type {fields.get('name')}"
        return int(
            as_object(self._connection.request("POST", path, json=dict(fields), subject=subject), path, "id")["id"]
        )

    def _bytes(self, path: str, subject: str) -> bytes:
        target = io.BytesIO()
        self._connection.download(path, target, subject=subject)
        return target.getvalue()


def _names(reply: Any, key: str, path: str) -> list[str]:
    names = as_object(reply, path).get(key)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise misshapen(path, f"expected a list of names in {key!r}")
    return names


def _quoted(name: str) -> str:
    return quote(name, safe="")


def _subject(type_id: int) -> str:
    return f"device type {type_id}"


def _place(place: Mapping[str, str]) -> str:
    return f"{place['devicetype']}/{place['distribution']}"

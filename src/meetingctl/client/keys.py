"""SSH keys of devices, and the key pair with which the server logs in to them."""

from __future__ import annotations

from urllib.parse import quote

from meetingctl.client.connection import Connection, JsonObject, as_object, as_objects, as_rows

KEYS = "/api/ssh-keys"


class SshKeys:
    """The part of the API about SSH keys."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list_keys(self) -> list[JsonObject]:
        """Return the key of every device that has one."""
        return as_objects(self._connection.request("GET", KEYS, subject="SSH keys"), "keys", KEYS, "device_key")

    def get_key(self, device_key: str) -> JsonObject:
        """Return the key of a device. Raises: NotFound."""
        path = _path(device_key, "ssh-key")
        return as_object(self._connection.request("GET", path, subject=device_key), path, "pubkey")

    def set_key(
        self, device_key: str, pubkey: str, *, ssh_user: str | None = None, status: str | None = None
    ) -> JsonObject:
        """Set the key of a device. Raises: NotFound, InvalidInput, Forbidden."""
        body = {"pubkey": pubkey, "ssh_user": ssh_user, "status": status}
        path = _path(device_key, "ssh-key")
        given = {name: value for name, value in body.items() if value is not None}
        return as_object(self._connection.request("PUT", path, json=given, subject=device_key), path)

    def revoke_key(self, device_key: str) -> JsonObject:
        """Revoke the key of a device. Raises: NotFound."""
        path = _path(device_key, "ssh-key")
        return as_object(self._connection.request("DELETE", path, subject=device_key), path)

    def list_log(self, device_key: str) -> list[JsonObject]:
        """Return what happened to the key of a device, newest first. Raises: NotFound."""
        path = _path(device_key, "ssh-key-log")
        return as_rows(self._connection.request("GET", path, subject=device_key), "a list", path)

    def export_ppk(self, device_key: str) -> tuple[bytes, str]:
        """Return the private key that the server keeps for a device, in PuTTY's format, and its passphrase."""
        path = _path(device_key, "private-ppk")
        content, headers = self._connection.get_bytes(path, subject=device_key)
        return content, headers.get("x-ppk-passphrase", "")

    def get_server_key(self) -> JsonObject:
        """Return the public key with which the server logs in to devices. Raises: NotFound."""
        path = "/api/ssh/pubkey"
        return as_object(self._connection.request("GET", path, subject="server key"), path, "pubkey")

    def rotate_server_key(self) -> JsonObject:
        """Make a new pair; the old one is kept until `confirm_server_key`."""
        path = f"{KEYS}/server/regenerate"
        return as_object(self._connection.request("POST", path, json={}, subject="server key"), path)

    def set_server_key(self, pubkey: str) -> JsonObject:
        """Name a public key whose private half is kept elsewhere. Raises: InvalidInput."""
        path = f"{KEYS}/server"
        return as_object(self._connection.request("POST", path, json={"pubkey": pubkey}, subject="server key"), path)

    def confirm_server_key(self) -> int:
        """Retire the pairs before the newest; return how many."""
        path = f"{KEYS}/server/confirm"
        reply = as_object(self._connection.request("POST", path, json={}, subject="server key"), path)
        return int(reply.get("retired") or 0)


def _path(device_key: str, name: str) -> str:
    return f"/api/devices/{quote(device_key, safe='')}/{name}"

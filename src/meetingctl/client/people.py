"""Accounts of people on the server."""

from __future__ import annotations

from typing import Any

from meetingctl.client.connection import Connection, JsonObject, as_object, as_objects
from meetingctl.core.errors import NotFound
from meetingctl.core.secret import Secret

USERS = "/api/users"


class People:
    """The part of the API about accounts. People are named by their usernames."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list_users(self) -> list[JsonObject]:
        """Return the accounts, without tokens."""
        return as_objects(self._connection.request("GET", USERS, subject="users"), "users", USERS, "id", "username")

    def find_id(self, username: str) -> int:
        """Return the number of an account. Raises: NotFound."""
        wanted = username.casefold()
        for user in self.list_users():
            if str(user["username"]).casefold() == wanted:
                return int(user["id"])
        raise NotFound(f"user {username}: not found", hint="meetingctl user list")

    def get_user(self, username: str) -> JsonObject:
        """Return one account; of its token only the last characters. Raises: NotFound."""
        path = f"{USERS}/{self.find_id(username)}"
        return as_object(self._connection.request("GET", path, subject=f"user {username}"), path)

    def create_user(
        self,
        username: str,
        *,
        password: Secret,
        role: str,
        ssh_pubkey: str | None = None,
        authorized: bool = True,
    ) -> JsonObject:
        """Create an account; `token` in the reply is its secret, shown once. Raises: Conflict, InvalidInput."""
        body: JsonObject = {
            "username": username,
            "password": password.reveal(),
            "role": role,
            "authorized": int(authorized),
        }
        if ssh_pubkey is not None:
            body["ssh_pubkey"] = ssh_pubkey
        reply = self._connection.request("POST", USERS, json=body, subject=f"user {username}")
        return as_object(reply, USERS, "id", "token")

    def update_user(self, username: str, **changes: Any) -> JsonObject:
        """Change username, role, ssh_pubkey or authorized. Raises: NotFound, Conflict, InvalidInput."""
        return self._update(self.find_id(username), username, changes)

    def set_password(self, username: str, password: Secret) -> JsonObject:
        """Give somebody else a new password, which ends their logins. Raises: NotFound, InvalidInput."""
        return self._update(self.find_id(username), username, {"password": password.reveal()})

    def set_own_password(self, *, old: Secret, new: Secret) -> JsonObject:
        """Change the password of the caller's account. Raises: Forbidden for a wrong old one, or without an account."""
        path = "/api/auth/me"
        user = as_object(as_object(self._connection.request("GET", path, subject="your account"), path)["user"], path)
        changes = {"old_password": old.reveal(), "password": new.reveal()}
        return self._update(int(user["id"]), str(user["username"]), changes)

    def renew_token(self, username: str) -> JsonObject:
        """Make a new token, in the reply's `token`, and revoke the one before. Raises: NotFound."""
        path = f"{USERS}/{self.find_id(username)}/token"
        return as_object(self._connection.request("POST", path, json={}, subject=f"user {username}"), path, "token")

    def delete_user(self, username: str) -> JsonObject:
        """Delete an account with its token and logins. Raises: NotFound; Conflict for the last administrator."""
        path = f"{USERS}/{self.find_id(username)}"
        return as_object(self._connection.request("DELETE", path, subject=f"user {username}"), path)

    def authorized_keys(self) -> list[str]:
        """Return the public keys of all accounts that are on; only for programs on the server's machine."""
        content, _ = self._connection.get_bytes(f"{USERS}/authorized-keys", subject="authorized keys")
        return content.decode("utf-8", "replace").splitlines()

    def _update(self, number: int, username: str, changes: JsonObject) -> JsonObject:
        path = f"{USERS}/{number}"
        reply = self._connection.request("PUT", path, json=changes, subject=f"user {username}")
        return as_object(reply, path)

"""Webhooks and the stream of events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meetingctl.client.connection import Connection, JsonObject, as_object, as_objects

_PATH = "/api/webhooks"
_EVENTS = "/api/events"


class Webhooks:
    """The part of the API about webhooks. Everything needs an administrator's key."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def create(self, body: Mapping[str, Any]) -> JsonObject:
        """Add one: `{url, events, secret?, active?}`; `secret` in the reply is shown once. Raises: Conflict."""
        reply = self._connection.request("POST", _PATH, json=dict(body), subject="webhook")
        return as_object(reply, _PATH, "id", "secret")

    def show(self, webhook_id: int) -> JsonObject:
        """Return one webhook. Raises: NotFound."""
        return self._call("GET", webhook_id)

    def change(self, webhook_id: int, body: Mapping[str, Any]) -> JsonObject:
        """Change what `body` holds; `new_secret` makes another secret, shown once. Raises: NotFound, Conflict."""
        return self._call("PUT", webhook_id, body=dict(body))

    def delete(self, webhook_id: int) -> JsonObject:
        """Remove a webhook with its deliveries. Raises: NotFound."""
        path = f"{_PATH}/{webhook_id}"
        return as_object(self._connection.request("DELETE", path, subject=f"webhook {webhook_id}"), path)

    def ping(self, webhook_id: int) -> JsonObject:
        """Queue a delivery of event `ping` and return it. Raises: NotFound, Conflict when the webhook is off."""
        return self._call("POST", webhook_id, "/ping", {})

    def deliveries(self, webhook_id: int, *, limit: int = 100, state: str | None = None) -> list[JsonObject]:
        """Return the newest deliveries, at most 1000. Raises: NotFound."""
        path = f"{_PATH}/{webhook_id}/deliveries"
        params = {"limit": limit} | ({"state": state} if state else {})
        reply = self._connection.request("GET", path, params=params, subject=f"webhook {webhook_id}")
        return as_objects(reply, "deliveries", path, "id")

    def redeliver(self, webhook_id: int, delivery_id: int) -> JsonObject:
        """Send a delivery again and return it. Raises: NotFound, Conflict while it waits."""
        return self._call("POST", webhook_id, f"/deliveries/{delivery_id}/redeliver", {})

    def list(self) -> list[JsonObject]:
        """Return the webhooks, without their secrets."""
        return as_objects(self._connection.request("GET", _PATH, subject="webhooks"), "webhooks", _PATH, "id")

    def _call(self, method: str, webhook_id: int, tail: str = "", body: JsonObject | None = None) -> JsonObject:
        path = f"{_PATH}/{webhook_id}{tail}"
        reply = self._connection.request(method, path, json=body, subject=f"webhook {webhook_id}")
        return as_object(reply, path, "id")


class Events:
    """What happened lately."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def read(
        self, *, limit: int = 100, after: str | None = None, device_key: str | None = None
    ) -> tuple[list[JsonObject], str]:
        """Return events, oldest first, and the `after` of what comes next; without `after` the newest ones."""
        params: JsonObject = {"limit": limit}
        params |= {"after": after} if after else {}
        params |= {"device_key": device_key} if device_key else {}
        page = as_object(self._connection.request("GET", _EVENTS, params=params, subject="events"), _EVENTS, "cursor")
        return as_objects(page, "events", _EVENTS, "time", "event"), str(page["cursor"])

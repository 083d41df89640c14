"""Rollouts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meetingctl.client.connection import Connection, JsonObject, as_object, as_objects

_PATH = "/api/admin/rollouts"


class Rollouts:
    """The part of the API about rollouts."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def start(self, body: Mapping[str, Any]) -> JsonObject:
        """Begin one: `{device_type, distribution, version, channel, selector, plan}`. Raises: Conflict, NotFound."""
        reply = self._connection.request("POST", _PATH, json=dict(body), subject="rollout")
        return _item(reply, _PATH)

    def list(self, *, state: str | None = None) -> list[JsonObject]:
        """Return rollouts, newest first; state `live` for those that have not ended."""
        params = {"page_size": 1000, **({"state": state} if state else {})}
        return as_objects(self._connection.request("GET", _PATH, params=params, subject="rollouts"), "items", _PATH)

    def show(self, rollout_id: int) -> JsonObject:
        """Return one rollout with its figures. Raises: NotFound."""
        path = f"{_PATH}/{rollout_id}"
        return _item(self._connection.request("GET", path, subject=f"rollout {rollout_id}"), path)

    def pause(self, rollout_id: int, reason: str = "") -> JsonObject:
        """Stop handing the version out. Raises: NotFound, Conflict."""
        return self._act(rollout_id, "pause", {"reason": reason})

    def resume(self, rollout_id: int) -> JsonObject:
        """Go on. Raises: NotFound, Conflict."""
        return self._act(rollout_id, "resume", {})

    def abort(self, rollout_id: int) -> JsonObject:
        """End it and return to the former version. Raises: NotFound, Conflict."""
        return self._act(rollout_id, "abort", {})

    def _act(self, rollout_id: int, verb: str, body: JsonObject) -> JsonObject:
        path = f"{_PATH}/{rollout_id}/{verb}"
        return _item(self._connection.request("POST", path, json=body, subject=f"rollout {rollout_id}"), path)


def _item(reply: Any, path: str) -> JsonObject:
    return as_object(as_object(reply, path, "item")["item"], path, "id")

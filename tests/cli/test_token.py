"""API keys with limits, and what roles may do."""

from __future__ import annotations

from .conftest import Server
from .runner import Cli


def test_a_limited_key_says_so_and_is_limited(admin: Cli, server: Server) -> None:
    made = admin(
        "token", "create", "ci", "--role", "operator", "--permission", "updates:publish", "--type", "rpicam", "--json"
    )
    assert made.code == 0, made.err
    assert (made.json["permissions"], made.json["device_types"], made.json["tags"]) == (
        ["updates:publish"],
        ["rpicam"],
        None,
    )
    limited = Cli(admin.home, {"MEETINGCTL_SERVER_URL": server.url, "MEETINGCTL_API_KEY": made.json["key"]})
    assert limited("fleet", "list").code == 4
    assert limited("builder", "start", "esp/d1").code == 4
    assert limited("builder", "start", "rpicam/d1").code == 0
    shown = next(row for row in admin("token", "list", "--json").json if row["id"] == made.json["id"])
    assert shown["permissions"] == ["updates:publish"]


def test_a_permission_that_is_none_is_refused(admin: Cli) -> None:
    assert admin("token", "create", "ci", "--permission", "everything").code == 2


def test_a_role_is_explained(admin: Cli) -> None:
    assert "fleet:manage" in admin("role", "show", "operator", "--json").json["permissions"]
    assert admin("role", "show", "king").code == 2
    assert {row["role"] for row in admin("role", "list", "--json").json} >= {"viewer", "operator", "admin", "user"}

"""Accounts: tokens that show once, passwords, the last administrator, what people may change of themselves."""

from __future__ import annotations

from typing import Any

import asyncssh
import pytest
import sqlalchemy as sa
from planes import Fleet, MakeFleet

from meetingctl.core.errors import ConfigError, Conflict
from meetingctl.server.audit.chain import SYSTEM
from meetingctl.server.db.schema import api_keys, users
from meetingctl.server.identity.keys import ensure_builder_key
from meetingctl.server.identity.passwords import hash_password, is_outdated, is_right
from meetingctl.server.identity.users import create_user

PASSWORD = "long enough"
LINE = asyncssh.generate_private_key("ssh-ed25519").export_public_key("openssh").decode().strip()


def add(fleet: Fleet, username: str, role: str = "viewer", **more: Any) -> tuple[int, str]:
    body = {"username": username, "password": PASSWORD, "role": role, **more}
    answer = fleet.call("POST", "/api/users", key=fleet.admin, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["id"], answer.json()["token"]


def put(fleet: Fleet, number: int, key: str | None = None, **changes: Any) -> Any:
    return fleet.call("PUT", f"/api/users/{number}", key=key or fleet.admin, json=changes)


def test_a_token_acts_as_its_user_and_shows_once(any_fleet: Fleet) -> None:
    number, token = add(any_fleet, "Anna", "operator")
    seen = any_fleet.call("GET", "/api/whoami", key=token).json()
    assert (seen["kind"], seen["name"], seen["role"]) == ("user", "Anna", "operator")
    shown = any_fleet.call("GET", f"/api/users/{number}", key=any_fleet.admin).json()
    assert shown["token"] == f"****{token[-4:]}"
    for path in ("/api/users", "/api/keys", "/api/audit"):
        text = any_fleet.call("GET", path, key=any_fleet.admin).text
        assert token not in text
        assert "argon2" not in text
    stored = any_fleet.rows(sa.select(users))[0]["password_hash"]
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")


def test_the_role_and_the_ban_of_a_user_count_at_once(any_fleet: Fleet) -> None:
    number, token = add(any_fleet, "anna", "operator")
    any_fleet.device()
    note = {"key": token, "json": {"note": "x"}}
    assert any_fleet.call("PUT", "/api/devices/cam-1/note", **note).status_code == 200
    assert put(any_fleet, number, role="viewer").status_code == 200
    assert any_fleet.call("PUT", "/api/devices/cam-1/note", **note).status_code == 403
    assert put(any_fleet, number, authorized=0).status_code == 200
    assert any_fleet.call("GET", "/api/devices", key=token).status_code == 401


def test_a_builder_user_builds_and_does_nothing_else(fleet: Fleet) -> None:
    _, token = add(fleet, "anna", "user")
    fleet.device()
    assert fleet.call("GET", "/api/builder/whoami", key=token).json()["user"]["username"] == "anna"
    started = fleet.call(
        "POST", "/api/builder/start", key=token, json={"device_type": "rpi", "distribution": "d", "version": "1.0"}
    )
    assert started.status_code == 200, started.text
    for method, path in (("GET", "/api/devices"), ("GET", "/api/devices/cam-1"), ("POST", "/api/tunnels/close-all")):
        assert fleet.call(method, path, key=token).status_code == 403, path


def test_a_renewed_token_replaces_the_one_before(fleet: Fleet) -> None:
    number, token = add(fleet, "anna")
    fresh = fleet.call("POST", f"/api/users/{number}/token", key=fleet.admin).json()["token"]
    assert fleet.call("GET", "/api/devices", key=token).status_code == 401
    assert fleet.call("GET", "/api/devices", key=fresh).status_code == 200


def test_imported_tokens_and_passwords_of_any_shape(fleet: Fleet) -> None:
    def change(connection: sa.Connection) -> None:
        create_user(connection, SYSTEM, username="old", password_hash="$2y$10$bcrypt", role="viewer", token="a.b.c")

    fleet.write(change)
    assert fleet.call("GET", "/api/whoami", key="a.b.c").json()["name"] == "old"
    login = fleet.call("POST", "/api/auth/login", json={"username": "old", "password": "whatever"})
    assert login.status_code == 401
    with pytest.raises(Conflict):
        fleet.write(lambda c: create_user(c, SYSTEM, username="two", password_hash=None, token="a.b.c"))


def test_the_last_administrator_stays(any_fleet: Fleet) -> None:
    number, _ = add(any_fleet, "anna", "admin")
    for changes in ({"role": "operator"}, {"authorized": False}):
        refused = put(any_fleet, number, **changes)
        assert (refused.status_code, refused.json()) == (409, {"error": "Last admin"})
    assert any_fleet.call("DELETE", f"/api/users/{number}", key=any_fleet.admin).status_code == 409
    add(any_fleet, "berta", "admin")
    assert any_fleet.call("DELETE", f"/api/users/{number}", key=any_fleet.admin).status_code == 200
    assert any_fleet.call("GET", f"/api/users/{number}", key=any_fleet.admin).status_code == 404
    assert len(any_fleet.rows(sa.select(api_keys).where(api_keys.c.user_id == number))) == 0


def test_people_change_their_own_password_and_key_and_no_more(fleet: Fleet) -> None:
    number, token = add(fleet, "anna")
    other, _ = add(fleet, "berta")
    assert put(fleet, number, token, password="another one").status_code == 403, "without the old one"
    assert put(fleet, number, token, password="another one", old_password="wrong").status_code == 403
    assert put(fleet, number, token, password="another one", old_password=PASSWORD).status_code == 200
    assert put(fleet, number, token, ssh_pubkey=LINE).status_code == 200
    for changes in ({"role": "admin"}, {"authorized": 1}, {"username": "root"}, {"role": "admin", "ssh_pubkey": LINE}):
        assert put(fleet, number, token, **changes).status_code == 403, changes
    assert put(fleet, other, token, ssh_pubkey=LINE).status_code == 403
    assert put(fleet, other, token, password="taken over").status_code == 403
    assert fleet.call("GET", f"/api/users/{number}", key=fleet.admin).json()["role"] == "viewer"


def test_an_administrator_too_needs_the_old_password_for_the_own_one(fleet: Fleet) -> None:
    number, token = add(fleet, "anna", "admin")
    other, _ = add(fleet, "berta")
    assert put(fleet, number, token, password="another one").status_code == 403
    assert put(fleet, other, token, password="another one").status_code == 200


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"password": "short"}, "Password too short"),
        ({"password": "x" * 2000}, "Password too long"),
        ({"role": "root"}, "Invalid role"),
        ({"username": "two words"}, "Invalid username"),
        ({"ssh_pubkey": f'command="sh" {LINE}'}, "Invalid public key"),
    ],
)
def test_bad_values(fleet: Fleet, changes: dict[str, Any], text: str) -> None:
    number, _ = add(fleet, "anna")
    made = fleet.call("POST", "/api/users", key=fleet.admin, json={"username": "b", "password": PASSWORD} | changes)
    assert (made.status_code, made.json()) == (400, {"error": text})
    assert put(fleet, number, **changes).json() == {"error": text}


def test_authorized_keys_are_for_sshd_of_this_machine(fleet: Fleet) -> None:
    add(fleet, "anna", ssh_pubkey=f"{LINE} anna@desk")
    number, _ = add(fleet, "berta", ssh_pubkey=LINE)
    put(fleet, number, authorized=0)
    path = "/api/users/authorized-keys"
    answer = fleet.call("GET", path)
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.text.splitlines() == [f"{LINE} anna@desk"]
    for how in (
        {"peer": "192.0.2.1"},
        {"peer": "192.0.2.1", "headers": {"x-forwarded-for": "127.0.0.1"}},
        {"headers": {"x-forwarded-for": "192.0.2.1"}},
        {"peer": "192.0.2.1", "key": fleet.admin},
    ):
        refused = fleet.call("GET", path, **how)
        assert (refused.status_code, refused.json()) == (403, {"error": "Local access only"}), how


def test_the_originals_builder_token_is_a_key_that_builds(make_fleet: MakeFleet) -> None:
    fleet = make_fleet()
    fleet.write(lambda c: ensure_builder_key(c, "0123456789abcdef"))
    fleet.write(lambda c: ensure_builder_key(c, "0123456789abcdef"))
    assert fleet.call("GET", "/api/builder/whoami", key="0123456789abcdef").status_code == 200
    assert fleet.call("GET", "/api/devices", key="0123456789abcdef").status_code == 403
    with pytest.raises(ConfigError):
        fleet.write(lambda c: ensure_builder_key(c, "short"))


def test_hashes() -> None:
    stored = hash_password(PASSWORD)
    assert is_right(stored, PASSWORD)
    assert not is_right(stored, PASSWORD + "x")
    assert not is_right(None, PASSWORD)
    assert not is_right("$2y$10$abcdefghijklmnopqrstuv", PASSWORD)
    assert not is_right("$argon2id$broken", PASSWORD)
    assert not is_outdated(stored)


def test_a_key_that_ends_makes_none_that_lives_longer(fleet: Fleet) -> None:
    def make(key: str, **more: Any) -> Any:
        return fleet.call("POST", "/api/keys", key=key, json={"name": "n", "role": "admin", **more})

    short = make(fleet.admin, expires_in_s=3600).json()["key"]
    assert make(short).status_code == 403
    assert make(short, expires_in_s=7200).status_code == 403
    assert make(short, expires_in_s=60).status_code == 200
    scoped = make(fleet.admin, permissions=["fleet:manage"]).json()["key"]
    assert make(scoped, permissions=["fleet:manage"], expires_in_s=60).status_code == 403

"""Who may set, exchange and revoke the key of a device, and what sshd is told."""

from __future__ import annotations

from typing import Any

import asyncssh
import pytest
from planes import CODE, Fleet, MakeFleet, wait_for

from meetingctl.server.db.schema import audit, device_keys

PATH = "/api/devices/cam-1/ssh-key"


def new_line() -> str:
    return asyncssh.generate_private_key("ssh-ed25519").export_public_key("openssh").decode().strip()


def put(fleet: Fleet, line: str, *, code: str | None = None, **more: Any) -> tuple[int, Any]:
    who = {"code": code} if code else {"key": fleet.key("operator")}
    answer = fleet.call("PUT", PATH, json={"pubkey": line, **more}, **who)
    return answer.status_code, answer.json().get("error")


def for_sshd(fleet: Fleet, user: str = "device", **rest: Any) -> list[str]:
    return fleet.call("GET", f"/api/ssh-keys?user={user}", **rest).json().get("keys", [])


def test_a_device_adds_its_key_and_cannot_exchange_it(any_fleet: Fleet) -> None:
    any_fleet.device()
    first, second = new_line(), new_line()
    assert put(any_fleet, first, code=CODE) == (200, None)
    assert put(any_fleet, first, code=CODE) == (200, None)
    assert put(any_fleet, second, code=CODE) == (403, "Key rotation not allowed")
    assert put(any_fleet, first, code=CODE, ssh_user="other") == (403, "A device may set only its public key")
    assert for_sshd(any_fleet) == [first]
    assert put(any_fleet, second) == (200, None)
    assert for_sshd(any_fleet) == [second]


def test_a_revoked_key_stays_revoked_for_its_device(make_any_fleet: MakeFleet) -> None:
    fleet = make_any_fleet(ssh_key_rotation=True)
    fleet.device()
    line = new_line()
    assert put(fleet, line, code=CODE) == (200, None)
    assert fleet.call("DELETE", PATH, key=fleet.admin).status_code == 200
    assert for_sshd(fleet) == []
    assert put(fleet, line, code=CODE) == (403, "Key is revoked")
    assert put(fleet, new_line(), code=CODE) == (403, "Key is revoked")
    assert put(fleet, line) == (200, None)
    assert for_sshd(fleet) == [line]
    assert put(fleet, new_line(), code=CODE) == (200, None)


def test_root_is_nobody_who_may_log_in(fleet: Fleet) -> None:
    fleet.device()
    assert put(fleet, new_line(), ssh_user="root") == (403, "ssh_user not allowed")
    assert put(fleet, new_line(), ssh_user="../etc") == (400, "Missing or invalid field: ssh_user")


def test_keys_of_unauthorized_devices_do_not_count(any_fleet: Fleet) -> None:
    any_fleet.device()
    line = new_line()
    put(any_fleet, line)
    any_fleet.call("PUT", "/api/devices/cam-1/authorize", key=any_fleet.admin, json={"authorized": 0})
    assert for_sshd(any_fleet) == []
    valid = any_fleet.call("POST", "/api/forcecommand/validate_device_key", json={"pubkey": line})
    assert (valid.status_code, valid.json()) == (401, {"status": "invalid"})
    any_fleet.call("PUT", "/api/devices/cam-1/authorize", key=any_fleet.admin, json={"authorized": 1})
    assert for_sshd(any_fleet) == [line]


def test_the_comment_of_a_key_does_not_count(any_fleet: Fleet) -> None:
    any_fleet.device()
    line = new_line()
    put(any_fleet, f"{line} one")
    valid = any_fleet.call("POST", "/api/forcecommand/validate_device_key", json={"pubkey": f"{line} two"})
    assert valid.json() == {"status": "ok", "device_key": "cam-1"}
    wait_for(lambda: any_fleet.rows(device_keys.select())[0]["last_ssh_ms"], "the use is noted")


def test_the_log_names_who_did_what(any_fleet: Fleet) -> None:
    any_fleet.device()
    put(any_fleet, new_line(), code=CODE)
    put(any_fleet, new_line())
    any_fleet.call("DELETE", PATH, key=any_fleet.key("operator"))
    log = any_fleet.call("GET", "/api/devices/cam-1/ssh-key-log", key=any_fleet.admin).json()
    assert [(entry["action"], entry["actor"]) for entry in log] == [
        ("revoke", "key:the operator"),
        ("replace", "key:the operator"),
        ("add", "device:cam-1"),
    ]
    actions = [row["action"] for row in any_fleet.rows(audit.select()) if row["action"].startswith("ssh-key.")]
    assert actions == ["ssh-key.add", "ssh-key.replace", "ssh-key.revoke"]


@pytest.mark.parametrize("headers", [{"x-forwarded-for": "127.0.0.1"}, {"forwarded": "for=127.0.0.1"}])
def test_only_the_socket_says_who_is_on_this_machine(fleet: Fleet, headers: dict[str, str]) -> None:
    fleet.device()
    put(fleet, new_line())
    path = "/api/ssh-keys?user=device"
    assert fleet.call("GET", path).status_code == 200
    assert fleet.call("GET", path, headers=headers).status_code == 401
    assert fleet.call("GET", path, headers=headers, peer="192.0.2.1").status_code == 401
    assert fleet.call("GET", path, peer="192.0.2.1").status_code == 401
    token = {"x-meeting-ssh-token": fleet.key("sshd")}
    assert fleet.call("GET", path, headers=token, peer="192.0.2.1").status_code == 200
    assert fleet.call("GET", path, headers={"x-meeting-ssh-token": "wrong"}, peer="192.0.2.1").status_code == 401


def test_sshd_may_ask_for_one_key(any_fleet: Fleet) -> None:
    lines = {name: new_line() for name in ("cam-1", "cam-2")}
    for name, line in lines.items():
        any_fleet.device(name)
        any_fleet.call("PUT", f"/api/devices/{name}/ssh-key", key=any_fleet.admin, json={"pubkey": line})
    row = any_fleet.call("GET", "/api/devices/cam-2/ssh-key", key=any_fleet.admin).json()
    found = any_fleet.call("GET", "/api/ssh-keys", params={"user": "device", "fingerprint": row["fingerprint"]})
    assert found.json() == {"keys": [lines["cam-2"]]}
    assert row["last_ssh"] is None
    path = "/api/devices/cam-2/ssh-key"
    wait_for(lambda: any_fleet.call("GET", path, key=any_fleet.admin).json()["last_ssh"], "the use is noted")


def test_the_old_server_key_is_kept_until_the_new_one_is_confirmed(any_fleet: Fleet) -> None:
    def call(method: str, path: str) -> Any:
        return any_fleet.call(method, path, key=any_fleet.admin).json()

    first = call("POST", "/api/ssh-keys/server/regenerate")
    second = call("POST", "/api/ssh-keys/server/regenerate")
    folder = any_fleet.data_dir / "keys" / "server"
    assert len(list(folder.iterdir())) == 2
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in folder.iterdir())
    assert call("GET", "/api/ssh/pubkey")["fingerprint"] == second["fingerprint"] != first["fingerprint"]
    assert call("POST", "/api/ssh-keys/server/confirm") == {"success": True, "retired": 1}
    (left,) = folder.iterdir()
    assert asyncssh.read_private_key(left).get_fingerprint() == second["fingerprint"]

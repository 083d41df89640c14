"""Logins: what is handed out, how it ends, and what an attacker tries with it."""

from __future__ import annotations

import base64
import json
import stat
from typing import Any

import jwt
import pytest
import sqlalchemy as sa
from argon2 import PasswordHasher
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from planes import Fleet, MakeFleet

from meetingctl.core.clock import now_ms
from meetingctl.server.db.schema import audit, refresh_tokens, users
from meetingctl.server.identity import passwords

PASSWORD = "long enough"


def add(fleet: Fleet, username: str = "anna", role: str = "operator") -> int:
    body = {"username": username, "password": PASSWORD, "role": role}
    return int(fleet.call("POST", "/api/users", key=fleet.admin, json=body).json()["id"])


def log_in(fleet: Fleet, username: str = "anna", password: str = PASSWORD, **how: Any) -> Any:
    return fleet.call("POST", "/api/auth/login", json={"username": username, "password": password}, **how)


def refresh(fleet: Fleet, text: str, **how: Any) -> Any:
    return fleet.call("POST", "/api/auth/refresh", json={"refresh_token": text}, **how)


def works(fleet: Fleet, access: str) -> bool:
    return bool(fleet.call("GET", "/api/devices", key=access).status_code == 200)


@pytest.fixture
def anna(any_fleet: Fleet) -> Fleet:
    add(any_fleet)
    return any_fleet


def test_a_login_works_on_every_route_with_the_rights_of_the_user(anna: Fleet) -> None:
    issued = log_in(anna, "ANNA").json()
    assert (issued["token_type"], issued["expires_in"], issued["user"]["username"]) == ("Bearer", 900, "anna")
    assert works(anna, issued["access_token"])
    me = anna.call("GET", "/api/auth/me", key=issued["access_token"])
    assert me.json()["user"]["role"] == "operator"
    assert anna.call("GET", "/api/keys", key=issued["access_token"]).status_code == 403
    assert anna.call("GET", "/api/auth/me", key=anna.admin).status_code == 403, "an API key is nobody's account"
    key_file = anna.data_dir / "login.key"
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    record = anna.rows(sa.select(audit).where(audit.c.action == "session.open"))[0]
    assert record["principal"] == "user:anna"


def test_a_refresh_token_works_once_and_its_reuse_ends_the_login(anna: Fleet) -> None:
    first = log_in(anna).json()
    second = refresh(anna, first["refresh_token"]).json()
    assert second["refresh_token"] != first["refresh_token"]
    assert works(anna, second["access_token"])
    replayed = refresh(anna, first["refresh_token"])
    assert replayed.status_code == 401
    assert not works(anna, second["access_token"])
    assert not works(anna, first["access_token"])
    assert refresh(anna, second["refresh_token"]).status_code == 401
    assert anna.rows(sa.select(audit).where(audit.c.action == "session.reuse"))
    assert works(anna, log_in(anna).json()["access_token"]), "other logins go on"


def test_at_the_same_time_a_refresh_token_works_at_most_once(anna: Fleet) -> None:
    text = log_in(anna).json()["refresh_token"]
    calls = [("POST", "/api/auth/refresh", {"json": {"refresh_token": text}}) for _ in range(6)]
    assert [answer.status_code for answer in anna.call_all(calls)].count(200) <= 1
    live = sa.select(refresh_tokens).where(refresh_tokens.c.revoked_at_ms.is_(None))
    assert not anna.rows(live), "somebody showed it twice"


@pytest.mark.parametrize("how", ["access", "refresh"])
def test_logging_out_ends_the_login_at_once(anna: Fleet, how: str) -> None:
    issued = log_in(anna).json()
    assert works(anna, issued["access_token"])
    given: dict[str, Any] = {"key": issued["access_token"]}
    if how == "refresh":
        given = {"json": {"refresh_token": issued["refresh_token"]}}
    assert anna.call("POST", "/api/auth/logout", **given).status_code == 200
    assert not works(anna, issued["access_token"])
    assert refresh(anna, issued["refresh_token"]).status_code == 401


@pytest.mark.parametrize("changes", [{"role": "viewer"}, {"authorized": 0}, {"password": "another one"}])
def test_changes_of_the_account_end_its_logins(anna: Fleet, changes: dict[str, Any]) -> None:
    issued = log_in(anna).json()
    assert works(anna, issued["access_token"])
    number = issued["user"]["id"]
    assert anna.call("PUT", f"/api/users/{number}", key=anna.admin, json=changes).status_code == 200
    assert not works(anna, issued["access_token"])
    assert refresh(anna, issued["refresh_token"]).status_code == 401


def test_a_deleted_account_is_gone_with_its_logins(anna: Fleet) -> None:
    issued = log_in(anna).json()
    anna.call("DELETE", f"/api/users/{issued['user']['id']}", key=anna.admin)
    assert not works(anna, issued["access_token"])
    add(anna, "berta")
    assert not works(anna, issued["access_token"]), "not even where the number is given again"


def test_an_old_refresh_token_is_worth_nothing(anna: Fleet) -> None:
    text = log_in(anna).json()["refresh_token"]
    anna.write(lambda c: c.execute(refresh_tokens.update().values(expires_at_ms=now_ms() - 1)))
    assert refresh(anna, text).status_code == 401


def unsigned(token: str, **changes: Any) -> str:
    """Change claims and leave the signature out: `alg: none`."""
    claims = jwt.decode(token, options={"verify_signature": False}) | changes
    parts = ({"alg": "none", "typ": "at+jwt"}, claims)
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts) + "."


def test_forged_tokens(fleet: Fleet) -> None:
    add(fleet)
    admin_id = add(fleet, "root", "admin")
    real = log_in(fleet).json()["access_token"]
    claims = jwt.decode(real, options={"verify_signature": False})
    wanted = claims | {"sub": str(admin_id), "role": "admin"}
    headers = {"typ": "at+jwt"}
    key = load_pem_private_key((fleet.data_dir / "login.key").read_bytes(), None)
    assert isinstance(key, Ed25519PrivateKey)
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    head, body, signature = real.split(".")
    other_body = unsigned(real, sub=str(admin_id)).split(".")[1]
    forged = {
        "none": unsigned(real),
        "public key as a shared secret": jwt.encode(claims, public, "HS256", headers=headers),
        "other key": jwt.encode(wanted, Ed25519PrivateKey.generate(), "EdDSA", headers=headers),
        "changed body": f"{head}.{other_body}.{signature}",
        "cut signature": f"{head}.{body}.",
        "other kind of token": jwt.encode(claims, key, "EdDSA", headers={"typ": "JWT"}),
        "other audience": jwt.encode(claims | {"aud": "elsewhere"}, key, "EdDSA", headers=headers),
        "another's login": jwt.encode(wanted, key, "EdDSA", headers=headers),
        "other generation": jwt.encode(claims | {"gen": claims["gen"] + 1}, key, "EdDSA", headers=headers),
        "no end": jwt.encode({k: v for k, v in claims.items() if k != "exp"}, key, "EdDSA", headers=headers),
    }
    for what, text in forged.items():
        answer = fleet.call("GET", "/api/keys", key=text, peer="192.0.2.50")
        assert answer.status_code == 401, what
    assert works(fleet, real)
    old = jwt.encode(claims | {"iat": 1, "exp": 2}, key, "EdDSA", headers=headers)
    assert fleet.call("GET", "/api/devices", key=old).status_code == 401


def test_guessing_is_limited_also_with_forged_addresses(fleet: Fleet) -> None:
    add(fleet)
    peer = "203.0.113.5"
    statuses = [
        log_in(fleet, password=f"guess {n}", peer=peer, headers={"x-forwarded-for": f"198.51.100.{n}"}).status_code
        for n in range(7)
    ]
    assert statuses == [401] * 5 + [429] * 2
    assert log_in(fleet, peer=peer).status_code == 429, "nor does the right one tell"
    assert log_in(fleet, peer="203.0.113.6").status_code == 200, "others are not locked out"
    refused = fleet.rows(sa.select(audit).where(audit.c.action == "credential.refuse"))
    assert {row["object"] for row in refused} == {"user:anna"}
    assert {row["peer"] for row in refused} == {peer}


def test_an_unknown_name_costs_and_answers_as_a_wrong_password(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    add(fleet)
    work: list[str] = []
    verify = PasswordHasher.verify

    def count(self: PasswordHasher, stored: str, given: bytes) -> Any:
        work.append(stored.rpartition("$")[0].rpartition("$")[0])
        return verify(self, stored, given)

    monkeypatch.setattr(PasswordHasher, "verify", count)
    wrong, unknown = log_in(fleet, password="not this"), log_in(fleet, "nobody")
    assert (wrong.status_code, wrong.json()) == (unknown.status_code, unknown.json())
    assert len(work) == 2
    assert work[0] == work[1], "the same parameters"


def test_a_hash_of_other_parameters_is_replaced_at_login(fleet: Fleet) -> None:
    add(fleet)
    weak = PasswordHasher(time_cost=1, memory_cost=8192, parallelism=1).hash(PASSWORD)
    fleet.write(lambda c: c.execute(users.update().values(password_hash=weak)))
    issued = log_in(fleet)
    assert issued.status_code == 200
    stored = fleet.rows(sa.select(users))[0]["password_hash"]
    assert stored != weak
    assert not passwords.is_outdated(stored)
    assert works(fleet, issued.json()["access_token"])


def test_several_processes_share_a_named_key(make_fleet: MakeFleet, tmp_path: Any) -> None:
    from cryptography.hazmat.primitives.serialization import NoEncryption, PrivateFormat

    path = tmp_path / "shared.pem"
    path.write_bytes(Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    one, two = make_fleet(login_key_file=path), make_fleet(login_key_file=path)
    add(one)
    assert works(two, log_in(one).json()["access_token"])
    path.write_text("no key")
    broken = make_fleet(login_key_file=path)
    assert log_in(broken).status_code == 500

"""Who may do what: every route against every kind of caller, as a table."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planes import CODE, Fleet, MakeFleet

from meetingctl.server.http import Access
from meetingctl.server.identity.principal import ANONYMOUS, OPEN, Principal, Role, principal_of_key

# Columns: nobody, viewer, operator, admin, proxy, sshd, the device itself, another device.
# "+" passes the check of rights, "-" is 401 for nobody and for another device's code, 403 for the rest; "!" is 403 for
# all, because only this machine is let in.
COLUMNS = ("nobody", "viewer", "operator", "admin", "proxy", "sshd", "device", "other")
K = "/api/devices/{device_key}"
TABLE = {
    "GET /api": "++++++++",
    "GET /api/health": "++++++++",
    "GET /api/openapi.json": "++++++++",
    "GET /metrics": "-+++----",
    "GET /api/metrics": "-+++----",
    "GET /api/whoami": "++++++--",
    "GET /api/keys": "---+----",
    "POST /api/keys": "---+----",
    "DELETE /api/keys/{key_id}": "---+----",
    "GET /api/users": "---+----",
    "POST /api/users": "---+----",
    "GET /api/users/authorized-keys": "!!!!!!!!",
    "GET /api/users/{id}": "---+----",
    "PUT /api/users/{id}": "---+----",
    "DELETE /api/users/{id}": "---+----",
    "POST /api/users/{id}/token": "---+----",
    "POST /api/auth/login": "++++++++",
    "POST /api/auth/refresh": "++++++++",
    "POST /api/auth/logout": "-+++++--",
    "GET /api/auth/me": "--------",
    "GET /api/audit": "---+----",
    "GET /api/audit/verify": "---+----",
    "GET /api/webhooks": "---+----",
    "POST /api/webhooks": "---+----",
    "GET /api/webhooks/{id}": "---+----",
    "PUT /api/webhooks/{id}": "---+----",
    "DELETE /api/webhooks/{id}": "---+----",
    "POST /api/webhooks/{id}/ping": "---+----",
    "GET /api/webhooks/{id}/deliveries": "---+----",
    "POST /api/webhooks/{id}/deliveries/{delivery_id}/redeliver": "---+----",
    "GET /api/events": "-+++----",
    "GET /api/devices": "-+++----",
    "GET /api/devices/generate-key": "--++----",
    "POST /api/devices/generate-and-register": "--++----",
    "POST /api/devices/manual-create": "--++----",
    f"GET {K}": "-++++-+-",
    f"PUT {K}": "--++----",
    f"DELETE {K}": "---+----",
    f"GET {K}/note": "-+++--+-",
    f"PUT {K}/note": "--++----",
    f"GET {K}/service": "-+++--+-",
    f"POST {K}/service": "--++----",
    f"POST {K}/online": "+-++--+-",
    "POST /api/status/{device_key}/online": "+-++--+-",
    f"GET {K}/availability": "++++--+-",
    f"GET {K}/last-seen": "-+++--+-",
    "GET /api/status/{device_key}/last-seen": "-+++--+-",
    f"GET {K}/logs": "-+++--+-",
    f"POST {K}/purge-logs": "---+----",
    f"PUT {K}/authorize": "--++----",
    f"PUT {K}/tokens": "--++----",
    f"PUT {K}/token-code": "---+----",
    f"POST {K}/register": "++++++++",
    f"POST {K}/authorize-tunnel": "--+++-+-",
    f"GET {K}/tunnel-pending": "--++--+-",
    f"POST {K}/tunnel-status": "--++--+-",
    f"POST {K}/flash-request": "--++--+-",
    f"POST {K}/request-tunnel-port": "--++--+-",
    "POST /api/forcecommand/request-port": "--++--+-",
    **{f"PUT {K}/{name}": "--++----" for name in ("parent", "ghost", "product-serial", "device-type", "bundles")},
    **{f"PUT {K}/{name}": "--++----" for name in ("distribution", "tags")},
    f"PUT {K}/provision": "--++--+-",
    "GET /api/ssh-keys": "---+----",
    "GET /api/ssh-keys/devices": "---+-+--",
    "POST /api/ssh-keys/server": "---+----",
    "POST /api/ssh-keys/server/regenerate": "---+----",
    "POST /api/ssh-keys/server/confirm": "---+----",
    "GET /api/ssh-hostkey": "++++++++",
    "GET /api/ssh/pubkey": "++++++++",
    f"GET {K}/ssh-key": "-+++--+-",
    f"PUT {K}/ssh-key": "--++--+-",
    f"DELETE {K}/ssh-key": "--++----",
    f"GET {K}/ssh-key-log": "---+----",
    f"GET {K}/private-ppk": "---+----",
    "POST /api/forcecommand/register_device_key": "--++--+-",
    "POST /api/forcecommand/validate_device_key": "---+-+--",
    "GET /api/forcecommand/get_device_key": "--++-++-",
    "DELETE /api/forcecommand/remove_device_key": "--++----",
    **{f"GET /api/builder/{name}": "-+++----" for name in ("whoami", "device-types", "distributions", "history")},
    "POST /api/builder/suggest-version": "-+++----",
    **{f"GET /api/builder/{name}": "--++----" for name in ("manifest", "package-status", "download/{job_id}")},
    **{f"POST /api/builder/{name}": "--++----" for name in ("start", "upload-file", "manifest", "package", "cancel")},
    **{f"POST /api/builder/{name}": "--++----" for name in ("commit", "rollback", "duplicate")},
    "GET /api/tunnels": "-++++---",
    "GET /api/tunnels/stats": "-+++----",
    "POST /api/tunnels/close-all": "--++----",
    "GET /api/tunnels/{port}": "-+++----",
    "DELETE /api/tunnels/{port}": "--++----",
    "POST /api/proxy/admit": "---++---",
    "POST /api/proxy/sync": "---++---",
    "GET /api/admin/updates/verify": "++++++++",
    "GET /api/admin/updates/device-types": "++++++++",
    "GET /api/admin/updates/versions": "++++++++",
    "GET /api/admin/updates/download": "++++++++",
    "GET /api/admin/updates/release-notes": "++++++++",
    "GET /published/{device_type}/{distribution}/{version}/{file}": "++++++++",
    "GET /api/admin/updates/verify-all": "-+++----",
    "GET /api/admin/updates/releases": "-+++----",
    "GET /api/admin/update-channels": "-+++----",
    "GET /api/admin/device-updates": "-+++----",
    "GET /api/admin/device-updates/export": "-+++----",
    "GET /api/admin/device-update-history": "-+++----",
    "GET /api/admin/rollouts": "-+++----",
    "GET /api/admin/rollouts/{id}": "-+++----",
    "POST /api/admin/updates/publish": "--++----",
    "POST /api/admin/update-channels": "--++----",
    "PUT /api/admin/update-channels/{id}": "--++----",
    "DELETE /api/admin/update-channels/{id}": "--++----",
    "POST /api/admin/rollouts": "--++----",
    "POST /api/admin/rollouts/{id}/pause": "--++----",
    "POST /api/admin/rollouts/{id}/resume": "--++----",
    "POST /api/admin/rollouts/{id}/abort": "--++----",
    f"POST {K}/update-status": "--++--+-",
    f"GET {K}/update": "-+++--+-",
    "GET /api/devices/device-types": "-+++----",
    "GET /api/devices/device-types/{device_type}/distributions": "-+++----",
    f"GET {K}/distrib-json": "-+++--+-",
    f"PUT {K}/distrib-json": "--++----",
    "GET /api/flash/device-types": "-+++----",
    "GET /api/flash/{device_type}/distributions": "-+++----",
    "GET /api/flash/{device_key}/distribution-files": "-+++--+-",
    "POST /api/flash/upload": "--++----",
    "POST /api/flash/create-type": "--++----",
    "POST /api/flash/create-distribution": "--++----",
    "DELETE /api/flash/{device_type}/{distribution}/{filename}": "---+----",
    "GET /api/device-types": "-+++----",
    "GET /api/device-types/{id}/icon": "-+++----",
    "POST /api/device-types": "---+----",
    "PUT /api/device-types/{id}": "---+----",
    "DELETE /api/device-types/{id}": "---+----",
    "POST /api/device-types/{id}/fork": "---+----",
    "POST /api/device-types/{id}/merge": "---+----",
}


def routes_of(fleet: Fleet) -> set[str]:
    document = fleet.api.openapi()
    return {f"{method.upper()} {path}" for path, item in document["paths"].items() for method in item} | {
        "GET /api/openapi.json"
    }


def test_the_table_names_every_route(fleet: Fleet) -> None:
    assert routes_of(fleet) == set(TABLE)


def call_as(fleet: Fleet, route: str, column: str, *, peer: str = "192.0.2.9"):
    method, path = route.split(" ")
    path = re.sub(r"\{device_key\}", "cam-1", path)
    path = re.sub(r"\{\w+\}", "1", path)
    given = {}
    if column == "device":
        given = {"code": CODE}
    elif column == "other":
        given = {"code": "0F0F0F"}  # right for cam-2
    elif column != "nobody":
        given = {"key": fleet.key(column)}
    if path.endswith(("/forcecommand/request-port", "_device_key")):
        given |= {"json": {"device_key": "cam-1"}}
    if path.endswith("/get_device_key"):
        path += "?device_key=cam-1"
    return fleet.call(method, path, **{"peer": peer} | given)


@pytest.mark.parametrize("route", TABLE)
def test_rights(make_fleet: MakeFleet, route: str) -> None:
    fleet = make_fleet(heartbeat_interval_s=0.001)
    fleet.device("cam-1")
    fleet.device("cam-2", token_code="0F0F0F")
    refused_first = sorted(zip(COLUMNS, TABLE[route], strict=True), key=lambda pair: pair[1] == "+")
    for column, mark in refused_first:  # who may delete comes after those who may not
        answer = call_as(fleet, route, column)
        if mark == "+":
            refused = answer.status_code == 401 or answer.json() == {"error": "Forbidden"} if is_json(answer) else False
            assert not refused, column
        elif mark == "!":  # a wrong credential is refused first: where no device is named, a code is one
            assert answer.status_code == (401 if column in ("device", "other") else 403), column
        elif column in ("nobody", "other"):
            assert answer.status_code == 401, column
        else:  # where no device is named, a code alone proves nothing
            assert answer.status_code == 403 or (column, answer.status_code) == ("device", 401), column


def is_json(answer) -> bool:
    return answer.headers["content-type"] == "application/json"


# The status page, probes, the document, and registration, which brings its own proof.
PUBLIC = {
    "GET /api",
    "GET /api/health",
    "GET /api/openapi.json",
    "GET /api/whoami",
    "GET /api/ssh-hostkey",
    "GET /api/ssh/pubkey",
    "GET /api/users/authorized-keys",
    "POST /api/auth/login",
    "POST /api/auth/refresh",
    f"POST {K}/register",
    *(route for route in TABLE if route.startswith("GET /published/")),
    *(f"GET /api/admin/updates/{name}" for name in ("verify", "device-types", "versions", "download", "release-notes")),
}


def test_enforce_asks_everybody_who_they_are(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(mode="enforce")
    fleet.device("cam-1")
    for route in TABLE:
        assert (call_as(fleet, route, "nobody").status_code == 401) is (route not in PUBLIC), route
    assert fleet.call("POST", "/api/forcecommand/request-port").status_code == 401, "who comes before what"
    assert fleet.call("POST", "/api/forcecommand/request-port", key=fleet.admin).status_code == 400


def test_legacy_open_still_hides_keys_audit_and_the_proxys_door(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(mode="legacy-open")
    fleet.device("cam-1")
    closed = {route for route in TABLE if call_as(fleet, route, "nobody", peer="127.0.0.1").status_code == 401}
    assert closed - {f"POST {K}/register"} == {
        "GET /api/keys",
        "POST /api/keys",
        "DELETE /api/keys/{key_id}",
        "GET /api/users",
        "POST /api/users",
        "GET /api/users/{id}",
        "PUT /api/users/{id}",
        "DELETE /api/users/{id}",
        "POST /api/users/{id}/token",
        "POST /api/auth/logout",
        "GET /api/auth/me",
        "GET /api/audit",
        "GET /api/audit/verify",
        "POST /api/proxy/admit",
        "POST /api/proxy/sync",
        "POST /api/ssh-keys/server",
        "POST /api/ssh-keys/server/regenerate",
        "GET /api/webhooks",
        "POST /api/webhooks",
        "GET /api/webhooks/{id}",
        "PUT /api/webhooks/{id}",
        "DELETE /api/webhooks/{id}",
        "POST /api/webhooks/{id}/ping",
        "GET /api/webhooks/{id}/deliveries",
        "POST /api/webhooks/{id}/deliveries/{delivery_id}/redeliver",
        "POST /api/ssh-keys/server/confirm",
        f"GET {K}/private-ppk",
    }
    assert fleet.call("GET", "/api/devices", key="mk_wrong_key").status_code == 401, "a wrong credential never passes"


def test_a_device_may_ask_for_its_tunnel_only_where_a_setting_says_so(make_fleet: MakeFleet) -> None:
    for allowed, status in ((False, 403), (True, 200)):
        fleet = make_fleet(tunnel_device_may_request=allowed)
        if not allowed:
            fleet.device("cam-1")
        answer = fleet.call("POST", "/api/devices/cam-1/service", code=CODE, json={"service": "ssh"})
        assert answer.status_code == status


def test_request_port_in_the_body_is_for_that_device_only(fleet: Fleet) -> None:
    fleet.device("cam-1")
    fleet.device("cam-2", token_code="0F0F0F")
    fleet.call("POST", "/api/devices/cam-1/online", code=CODE)
    path = "/api/forcecommand/request-port"
    assert fleet.call("POST", path, code=CODE, json={"device_key": "cam-1"}).status_code == 200
    assert fleet.call("POST", path, code=CODE, json={"device_key": "cam-2"}).status_code == 401
    assert fleet.call("POST", path, json={"device_key": "cam-1"}).status_code == 401


@pytest.mark.parametrize(("mode", "kind"), [("compat", "anonymous"), ("enforce", "anonymous"), ("legacy-open", "open")])
def test_whoami(make_fleet: MakeFleet, mode: str, kind: str) -> None:
    fleet = make_fleet(mode=mode)
    assert fleet.call("GET", "/api/whoami").json()["kind"] == kind
    shown = fleet.call("GET", "/api/whoami", key=fleet.key("operator")).json()
    assert (shown["kind"], shown["role"], shown["name"], shown["mode"]) == ("key", "operator", "the operator", mode)
    assert fleet.call("GET", "/api/whoami", key="nonsense").status_code == 401


def test_key_secrets_appear_once(fleet: Fleet) -> None:
    made = fleet.call("POST", "/api/keys", key=fleet.admin, json={"name": "n", "role": "viewer"}).json()
    assert re.fullmatch(r"mk_[0-9a-f]{12}_[A-Za-z0-9_-]{43}", made["key"])
    listed = fleet.call("GET", "/api/keys", key=fleet.admin).text
    assert made["key"].split("_", 2)[2] not in listed
    assert "sha256" not in listed


# The rule itself.

accesses = st.builds(
    Access,
    role=st.sampled_from(Role),
    device=st.booleans(),
    services=st.sampled_from([(), ("proxy",), ("sshd",), ("proxy", "sshd")]),
    compat_anonymous=st.booleans(),
    open_mode=st.booleans(),
)
modes = st.sampled_from(["enforce", "compat", "legacy-open"])
people = ("viewer", "operator", "admin")


@given(accesses, modes, st.none() | st.just("cam-1"))
def test_a_higher_role_never_loses_a_right(access: Access, mode: str, device_key: str | None) -> None:
    allowed = [access.allows(principal_of_key("id", "n", role, None), device_key, mode) for role in people]
    assert allowed == sorted(allowed)


@given(accesses, modes)
def test_a_device_never_acts_on_another(access: Access, mode: str) -> None:
    device = Principal("device", "device:cam-1", device_key="cam-1")
    assert not access.allows(device, "cam-2", mode)
    assert not access.allows(device, None, mode)


@given(accesses, modes, st.sampled_from(["proxy", "sshd"]))
def test_a_service_key_does_only_its_service(access: Access, mode: str, role: str) -> None:
    service = principal_of_key("id", "n", role, None)
    assert access.allows(service, "cam-1", mode) is (role in access.services)


@given(accesses, st.sampled_from(["enforce", "legacy-open"]))
def test_without_a_credential_only_compat_lets_in(access: Access, mode: str) -> None:
    assert not access.allows(ANONYMOUS, "cam-1", mode)
    assert access.allows(OPEN, "cam-1", mode) is access.open_mode


def test_a_refusal_names_the_role_that_would_do(fleet: Fleet) -> None:
    fleet.device("cam-1")
    refused = fleet.call("DELETE", "/api/devices/cam-1", key=fleet.key("operator"))
    assert refused.status_code == 403
    assert refused.headers["www-authenticate"] == 'Bearer error="insufficient_scope", scope="admin"'

"""Hostile bodies to every endpoint that reads one, and hostile bytes to a real socket: 4xx in shape, never 500."""

from __future__ import annotations

import json
import secrets
import socket
from typing import Any

import pytest
from planes import CODE, Fleet, Live

BIG = 2**70
VALUES = (
    BIG,
    -BIG,
    2**63,
    1.5,
    -1,
    None,
    True,
    "",
    "x" * 5000,
    [],
    [[]],
    {},
    {"a": BIG},
    ["a", 1],
    "\u0000",
    "é\u202e",
)
RAW: list[tuple[bytes, str]] = [
    (b"", "application/json"),
    (b"null", "application/json"),
    (b"[]", "application/json"),
    (b'"text"', "application/json"),
    (b"1" * 6000, "application/json"),
    (b"[" * 100_000, "application/json"),
    (b'{"a":' * 5000 + b"1" + b"}" * 5000, "application/json"),
    (b'{"note": NaN}', "application/json"),
    (b'{"note": Infinity}', "application/json"),
    (b'{"note": 1e999}', "application/json"),
    (b'{"token_count": 1' + b"0" * 5000 + b"}", "application/json"),
    (b'{"note": "\\ud800"}', "application/json"),
    (b'{"note": "\\udc00\\ud800"}', "application/json"),
    (b'{"note": "\xff\xfe"}', "application/json"),
    (b'{"note": "a", "note": 5}', "application/json"),
    (b'{"note": "a\x00b"}', "application/json"),
    (b'{"note": "\\u0000"}', "application/json"),
    (b'\xef\xbb\xbf{"note": "a"}', "application/json"),
    ('{"note": "a"}'.encode("utf-16"), "application/json; charset=utf-16"),
    (b"{", "application/json"),
    (b"<xml/>", "application/xml"),
    (b"--x\r\n\r\n--x--", "multipart/form-data; boundary=x"),
    (b"note=a", "application/x-www-form-urlencoded"),
    (b"\x00\x01\x02", "application/octet-stream"),
    (b"{}", "text/html"),
]
ENDPOINTS = {  # and the fields that each reads
    "PUT /api/devices/cam-1": "services local_ports",
    "PUT /api/devices/cam-1/note": "note",
    "PUT /api/devices/cam-1/authorize": "authorized",
    "PUT /api/devices/cam-1/tokens": "token_count",
    "PUT /api/devices/cam-1/token-code": "token_code",
    "POST /api/devices/manual-create": "devicekey token_code device_type distribution product_serial",
    "POST /api/devices/cam-1/service": "service type port ttl_s allow_from",
    "POST /api/devices/cam-1/register": "token_code device_info ip_lan mac note",
    "POST /api/devices/cam-1/online": "ip_address ip_lan mac cluster_ip note token_code installed_version",
    "POST /api/devices/cam-1/tunnel-status": "service port url upnp error",
    "POST /api/devices/cam-1/request-tunnel-port": "device_key service port",
    "POST /api/forcecommand/request-port": "device_key service port",
    "POST /api/keys": "name role expires_in_s",
    "POST /api/proxy/admit": "device_key token peer",
    "POST /api/proxy/sync": "proxy agents visits events",
}
WHOLE: dict[str, dict[str, Any]] = {  # a right body, of which one field at a time becomes hostile
    "POST /api/devices/manual-create": {
        "devicekey": "cam-2",
        "token_code": "0A0B0C",
        "device_type": "t",
        "distribution": "d",
    },
    "POST /api/devices/cam-1/service": {"service": "relay", "port": 554},
    "POST /api/devices/cam-1/register": {"token_code": CODE},
    "POST /api/devices/cam-1/tunnel-status": {"service": "ssh"},
    "POST /api/forcecommand/request-port": {"device_key": "cam-1"},
    "POST /api/keys": {"name": "n", "role": "viewer"},
    "POST /api/proxy/admit": {"device_key": "cam-1", "token": "x", "peer": "192.0.2.1"},
    "POST /api/proxy/sync": {"proxy": "p"},
}


def hostile_bodies(endpoint: str) -> list[tuple[bytes, str]]:
    whole = WHOLE.get(endpoint, {})
    bodies = [whole | {name: value} for name in ENDPOINTS[endpoint].split() for value in VALUES]
    return [(json.dumps(body).encode(), "application/json") for body in bodies] + RAW


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_hostile_bodies(make_any_fleet: Any, endpoint: str) -> None:
    fleet = make_any_fleet(heartbeat_interval_s=0.001)
    fleet.device()
    fleet.call("POST", "/api/devices/cam-1/online", code=CODE)
    admin = fleet.admin
    method, path = endpoint.split()
    calls = [
        (method, path, {"key": admin, "content": content, "headers": {"content-type": kind}})
        for content, kind in hostile_bodies(endpoint)
    ]
    for start in range(0, len(calls), 100):
        answers = fleet.call_all(calls[start : start + 100])
        for answer, (_, _, sent) in zip(answers, calls[start : start + 100], strict=True):
            where = (sent["content"][:80], answer.status_code, answer.text[:200])
            assert answer.status_code in (200, 400, 401, 403, 404, 409, 413, 415, 429), where
            if answer.status_code >= 400:
                assert answer.json().keys() == {"error"}, where
                assert isinstance(answer.json()["error"], str), where


AGENT = {
    "device_key": "cam-1",
    "generation": 1,
    "peer": "192.0.2.1",
    "kind": "new",
    "connected_at_ms": 1,
    "streams": 0,
    "bytes_in": 0,
    "bytes_out": 0,
}
VISIT = {
    "device_key": "cam-1",
    "port": 9050,
    "service": "ssh",
    "local_port": 22,
    "peer": "192.0.2.1",
    "opened_at_ms": 1,
    "duration_ms": 1,
    "bytes_in": 1,
    "bytes_out": 1,
    "outcome": "ok",
    "reason": "",
    "path": "mux",
}


@pytest.mark.parametrize("value", [BIG, -BIG, 2**63, 2**63 - 1, -1])
def test_reports_of_a_proxy_keep_to_64_bits(any_fleet: Fleet, value: int) -> None:
    any_fleet.device()
    proxy = any_fleet.key("proxy")
    fits = 0 <= value < 2**63
    for name in ("generation", "connected_at_ms", "bytes_in"):
        body = {"proxy": "p", "agents": [AGENT | {name: value}]}
        answer = any_fleet.call("POST", "/api/proxy/sync", key=proxy, json=body)
        assert answer.status_code == (200 if fits else 400), (name, answer.text)
    for name in ("opened_at_ms", "bytes_out", "duration_ms"):
        body = {"proxy": "p", "visits": [VISIT | {name: value}]}
        answer = any_fleet.call("POST", "/api/proxy/sync", key=proxy, json=body)
        assert answer.status_code == (200 if fits else 400), (name, answer.text)
    for port in (value, 2**31, -1, 70000):
        body = {"proxy": "p", "visits": [VISIT | {"port": port}]}
        assert any_fleet.call("POST", "/api/proxy/sync", key=proxy, json=body).status_code == 400


def test_integers_in_headers_and_queries(any_fleet: Fleet) -> None:
    any_fleet.device()
    for text in (str(BIG), "-" + str(BIG), "9" * 5000, "1e5", "٣", "0x10", " 5", "+5", "NaN"):
        for path in ("/api/devices", "/api/audit", "/api/devices/cam-1/logs"):
            params = {"limit": text, "offset": text, "before": text}
            answer = any_fleet.call("GET", path, key=any_fleet.admin, params=params)
            assert answer.status_code in (200, 400)


def test_deep_paging_does_not_overflow(any_fleet: Fleet) -> None:
    answer = any_fleet.call("GET", "/api/devices", key=any_fleet.admin, params={"offset": str(2**63)})
    assert answer.json()["devices"] == []


# On a real socket.


def exchange(live: Live, payload: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", live.port), timeout=10) as connection:
        connection.sendall(payload)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    return answer


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory):
    with Live(tmp_path_factory.mktemp("live")) as plane:
        yield plane


def request_bytes(first_line: str, *headers: str, body: bytes = b"") -> bytes:
    lines = [first_line, "Host: x", "Connection: close", *headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    ("payload", "statuses"),
    [
        (request_bytes("GET /api HTTP/1.1"), (200,)),
        (request_bytes("GET /api/devices/%00 HTTP/1.1"), (400,)),
        (request_bytes("GET /api/devices/%ff%fe%ed%a0%80 HTTP/1.1"), (401, 404)),
        (request_bytes("GET /api/%2e%2e/%2e%2e/etc/passwd HTTP/1.1"), (401, 404)),
        (request_bytes("GET /api/../api/devices HTTP/1.1"), (401, 404)),
        (request_bytes("GET //api//devices HTTP/1.1"), (404,)),
        (request_bytes("GET /api/api/devices HTTP/1.1"), (401,)),
        (request_bytes("GET http://x/api HTTP/1.1"), (200, 404)),
        (request_bytes("HEAD /api HTTP/1.1"), (200, 405)),
        (request_bytes("OPTIONS * HTTP/1.1"), (404, 405)),
        (request_bytes("BREW /api HTTP/1.1"), (400, 405)),
        (request_bytes("POST /api/devices/x/online HTTP/1.1", "Content-Length: 99999999"), (413,)),
        (request_bytes("POST /api/devices/x/online HTTP/1.1", "Content-Length: 99999999999999999999999"), (400, 413)),
        (request_bytes("POST /api/devices/x/online HTTP/1.1", "Content-Length: -1"), (400,)),
        (request_bytes("PUT /api/devices/x/note HTTP/1.1", "Content-Length: 9999999"), (401, 413)),
        (
            request_bytes(
                "POST /api/devices/x/online HTTP/1.1",
                "Transfer-Encoding: chunked",
                body=(b"4000\r\n" + b"x" * 0x4000 + b"\r\n") * 3 + b"0\r\n\r\n",
            ),
            (413,),
        ),
        (
            request_bytes("POST /api/devices/x/online HTTP/1.1", "Transfer-Encoding: chunked", body=b"zz\r\n"),
            (400, 404),
        ),
        (request_bytes("GET /api HTTP/1.1", "X-Request-Id: \x00\x01"), (200, 400)),
        (request_bytes("GET /api/devices HTTP/1.1", "Authorization: Bearer " + "x" * 30_000), (400, 401, 431)),
        (request_bytes("GET /api/devices HTTP/1.1", "Authorization: Bearer \xff\xfe\xe9"), (401,)),
        (request_bytes("POST /api/devices/x/online HTTP/1.1", "X-Token-Code: \xff\xdf"), (404,)),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", (400,)),
        (b"GET / HTTP/9.9\r\n\r\n", (400, 404, 505)),
    ],
)
def test_hostile_bytes(live: Live, payload: bytes, statuses: tuple[int, ...]) -> None:
    answer = exchange(live, payload)
    status = int(answer.split(b" ", 2)[1])
    assert status in statuses, answer[:300]
    head, _, body = answer.partition(b"\r\n\r\n")
    if status >= 400 and b"application/json" in head and not payload.startswith(b"HEAD"):
        assert json.loads(body).keys() == {"error"}
    assert b"server:" not in head.lower()
    assert exchange(live, request_bytes("GET /api HTTP/1.1")).startswith(b"HTTP/1.1 200"), "it still serves"


def test_a_request_cut_off_in_its_body_changes_nothing(live: Live) -> None:
    import httpx

    key, device_key = live.plane.first_key, f"cam-{secrets.token_hex(4)}"
    headers = {"authorization": f"Bearer {key}"}
    with httpx.Client(base_url=live.url, headers=headers, trust_env=False) as client:
        body = {"devicekey": device_key, "token_code": CODE, "device_type": "t", "distribution": "d"}
        assert client.post("/api/devices/manual-create", json=body).status_code == 200
        for prefix, verb in (("/api", "online"), ("/api/api", "online"), ("/api", "flash-request")):
            path = f"{prefix}/devices/{device_key}/{verb}"
            with socket.create_connection(("127.0.0.1", live.port), timeout=10) as connection:
                half = request_bytes(
                    f"POST {path} HTTP/1.1", f"X-Token-Code: {CODE}", "Content-Length: 100", body=b'{"a"'
                )
                connection.sendall(half)
        assert client.get("/api").status_code == 200
        assert client.get(f"/api/devices/{device_key}").json()["last_seen"] is None


def test_one_ipv6_line_is_one_guesser(fleet: Fleet) -> None:
    fleet.device()
    statuses = [
        fleet.call("GET", "/api/devices/cam-1", code=f"00{number:04X}", peer=f"2001:db8::{number + 1:x}").status_code
        for number in range(30)
    ]
    assert set(statuses) == {401, 429}
    assert statuses[-1] == 429
    assert fleet.call("GET", "/api/devices/cam-1", code=CODE, peer="2001:db8:0:1::1").status_code == 200

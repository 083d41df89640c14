"""The outermost layer: headers, peers behind proxies, caps, odd paths, and one shape for every error."""

from __future__ import annotations

import logging

import pytest
from planes import CODE, Fleet, MakeFleet, Postgres

from meetingctl.server import front as front_module
from meetingctl.server.app import make_api


def shape_is_right(response) -> bool:
    body = response.json()
    return response.status_code >= 400 and body.keys() == {"error"} and isinstance(body["error"], str)


def test_every_answer_has_the_headers(fleet: Fleet) -> None:
    for path in ("/api", "/api/nothing", "/api/devices"):
        answer = fleet.call("GET", path)
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert len(answer.headers.get_list("x-request-id")) == 1


@pytest.mark.parametrize(
    ("given", "kept"),
    [("abc-1.2_3", True), ("x" * 64, True), ("x" * 65, False), ("a b", False), ("", False), ("é", False)],
)
def test_a_usable_request_id_is_kept(fleet: Fleet, given: str, kept: bool) -> None:
    answer = fleet.call("GET", "/api", headers={"x-request-id": given.encode("latin-1")})
    assert (answer.headers["x-request-id"] == given) is kept
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("peer", "forwarded", "trusted", "seen"),
    [
        ("203.0.113.5", "198.51.100.1", (), "203.0.113.5"),
        ("203.0.113.5", "198.51.100.1", ("10.0.0.0/8",), "203.0.113.5"),
        ("10.0.0.2", "198.51.100.1", ("10.0.0.0/8",), "198.51.100.1"),
        ("10.0.0.2", "1.1.1.1, 198.51.100.1", ("10.0.0.0/8",), "198.51.100.1"),
        ("10.0.0.2", "1.1.1.1, 198.51.100.1, 10.0.0.3", ("10.0.0.0/8",), "198.51.100.1"),
        ("10.0.0.2", "nonsense", ("10.0.0.0/8",), "10.0.0.2"),
        ("10.0.0.2", "1.1.1.1, nonsense", ("10.0.0.0/8",), "10.0.0.2"),
        ("10.0.0.2", "", ("10.0.0.0/8",), "10.0.0.2"),
        ("::ffff:10.0.0.2", "198.51.100.1", ("10.0.0.0/8",), "198.51.100.1"),
        ("::ffff:203.0.113.5", "", (), "203.0.113.5"),
        ("2001:db8::1", "2001:db8::9", ("2001:db8::1",), "2001:db8::9"),
    ],
)
def test_forwarded_addresses_count_only_from_trusted_proxies(
    make_fleet: MakeFleet, peer: str, forwarded: str, trusted: tuple[str, ...], seen: str
) -> None:
    fleet = make_fleet(trusted_proxies=trusted)
    fleet.device()
    headers = {"x-forwarded-for": forwarded} if forwarded else {}
    answer = fleet.call("POST", "/api/devices/cam-1/online", code=CODE, peer=peer, headers=headers)
    assert answer.json()["ip_address"] == seen


def test_several_forwarded_headers_are_one_list(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(trusted_proxies=("10.0.0.0/8",))
    fleet.device()

    async def call():
        import httpx

        transport = httpx.ASGITransport(fleet.app, client=("10.0.0.2", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://x", trust_env=False) as client:
            headers = [("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "198.51.100.7"), ("x-token-code", CODE)]
            return await client.post("/api/devices/cam-1/online", headers=headers)

    assert fleet.loop.run(call()).json()["ip_address"] == "198.51.100.7"


@pytest.mark.parametrize(
    "path", ["/api/api/devices", "/api/devices/", "/api/api/api/devices///", "/api/api/devices/?limit=5"]
)
def test_paths_that_clients_make_of_a_base_url(fleet: Fleet, path: str) -> None:
    assert fleet.call("GET", path, key=fleet.admin).json()["devices"] == []


@pytest.mark.parametrize("path", ["/api", "/api/", "/api/api", "/api/api/"])
def test_status_in_every_spelling(fleet: Fleet, path: str) -> None:
    assert fleet.call("GET", path).json()["status"] == "Meeting API ready"


ODD_PATHS = [
    "/",
    "//",
    "/apix",
    "//api/devices",
    "/api//devices",
    "/api/%2e%2e/devices",
    "/api/..%2fdevices",
    "/api/devices/%2e%2e",
    "/api/devices/..%2f..%2fetc%2fpasswd",
    "/api/devices/a%00b",
    "/api/devices/%00/note",
    "/api/devices/%ff%fe",
    "/api/devices/cam%201",
    "/api/devices/" + "x" * 5000,
    "/api/devices/%252e%252e",
    "/api/tunnels/99999999999999999999999",
    "/api/tunnels/-1",
    "/api/tunnels/%D9%A3",
    "/metrics/x",
]


def test_odd_paths_are_refused_in_shape(any_fleet: Fleet) -> None:
    for path in ODD_PATHS:
        for method in ("GET", "DELETE", "PUT"):
            answer = any_fleet.call(method, path, key=any_fleet.admin)
            assert answer.status_code in (400, 404, 405), (method, path)
            assert shape_is_right(answer)


def test_nul_in_a_path_is_no_failure_of_the_database(any_fleet: Fleet) -> None:
    for method, path in (
        ("POST", "/api/devices/a%00b/online"),
        ("GET", "/api/devices/a%00b/availability"),
        ("POST", "/api/devices/a%00b/register"),
        ("POST", "/api/forcecommand/request-port?device_key=a%00b"),
        ("GET", "/api/devices?prefix=a%00b"),
        ("GET", "/api/audit?object=a%00b"),
        ("GET", "/api/tunnels/stats?device_key=a%00b"),
        ("DELETE", "/api/keys/a%00b"),
    ):
        for given in ({"code": CODE}, {"key": any_fleet.admin}):
            answer = any_fleet.call(method, path, **given)
            assert answer.status_code < 500, (method, path)


def test_methods_that_are_not_offered(fleet: Fleet) -> None:
    for method, path in (("DELETE", "/api"), ("PATCH", "/api/devices/cam-1"), ("GET", "/api/devices/cam-1/online")):
        answer = fleet.call(method, path, key=fleet.admin)
        assert (answer.status_code, answer.json()) == (405, {"error": "Method not allowed"})
        assert answer.headers["allow"]


def test_errors_below_admin_have_the_shape_of_that_family(fleet: Fleet) -> None:
    answer = fleet.call("GET", "/api/admin/nothing", key=fleet.admin)
    assert answer.status_code == 404
    body = answer.json()
    assert body["ok"] is False
    assert isinstance(body["error"], str)
    assert body["error"].isupper()
    assert body["message"] == "Not found"


def test_a_bug_is_a_plain_500_and_a_logged_traceback(
    fleet: Fleet, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.device()

    def broken() -> None:
        raise ZeroDivisionError("secret detail")

    api = make_api(fleet.state, fleet.directory)  # of its own: the fixture's routes serve other tests too
    api.add_api_route("/api/broken", broken)
    app = front_module.Front(api, fleet.state)
    monkeypatch.setattr(fleet.state.heartbeats, "accept", broken)
    with caplog.at_level(logging.ERROR):
        for method, path in (("GET", "/api/broken"), ("POST", "/api/devices/cam-1/online")):
            answer = fleet.call(method, path, app=app)
            assert (answer.status_code, answer.json()) == (500, {"error": "Internal error"})
            assert answer.headers["x-request-id"]
    assert len([record for record in caplog.records if record.exc_info]) >= 2


def test_bodies_over_the_cap_are_413_announced_or_not(fleet: Fleet) -> None:
    fleet.device()
    big = b'{"note": "' + b"x" * 300_000 + b'"}'

    async def chunks():
        for start in range(0, len(big), 1000):
            yield big[start : start + 1000]

    class Chunks:
        def __aiter__(self):
            return chunks()

    for path, method in (("/api/devices/cam-1/note", "PUT"), ("/api/devices/cam-1/online", "POST")):
        for content in (big, Chunks()):
            answer = fleet.call(method, path, key=fleet.admin, content=content)
            assert answer.status_code == 413
            assert shape_is_right(answer)


def test_a_slow_body_is_cut_off(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    monkeypatch.setattr(front_module, "BODY_DEADLINE_S", 0.2)
    fleet.device()

    class Slow:
        async def __aiter__(self):
            yield b'{"note":'
            await asyncio.sleep(3)
            yield b'"x"}'

    for path, method in (("/api/devices/cam-1/note", "PUT"), ("/api/devices/cam-1/online", "POST")):
        answer = fleet.call(method, path, key=fleet.admin, content=Slow())
        assert answer.status_code == 413
        assert shape_is_right(answer)


@pytest.mark.parametrize(("peer", "status"), [("127.0.0.1", 200), ("10.1.2.3", 200), ("203.0.113.5", 403)])
def test_legacy_open_serves_only_the_listed_networks(make_fleet: MakeFleet, peer: str, status: int) -> None:
    fleet = make_fleet(mode="legacy-open", legacy_allow_from=("10.0.0.0/8",))
    fleet.device()
    assert fleet.call("GET", "/api/devices", peer=peer).status_code == status
    assert fleet.call("POST", "/api/devices/cam-1/online", peer=peer).status_code == status


def test_prometheus_figures_count_routes_not_devices(fleet: Fleet) -> None:
    fleet.device()
    fleet.call("POST", "/api/devices/cam-1/online", code=CODE)
    fleet.call("POST", "/api/devices/cam-1/online", code="000000")
    fleet.call("POST", "/api/devices/nobody/online")
    fleet.call("GET", "/api/devices/cam-1", key=fleet.admin)
    fleet.call("GET", "/nothing/at/all")
    text = fleet.call("GET", "/metrics").text
    for line in (
        'meetingctl_http_requests_total{method="POST",route="/api/devices/{device_key}/online",status="2xx"} 1.0',
        'meetingctl_http_requests_total{method="GET",route="/api/devices/{device_key}",status="2xx"} 1.0',
        'meetingctl_http_requests_total{method="GET",route="unmatched",status="4xx"} 1.0',
        'meetingctl_heartbeats_total{outcome="accepted"} 1.0',
        'meetingctl_heartbeats_total{outcome="refused"} 1.0',
        'meetingctl_heartbeats_total{outcome="unknown"} 1.0',
        "meetingctl_credentials_refused_total 1.0",
        "meetingctl_writer_pending 0.0",
    ):
        assert line in text
    assert "cam-1" not in text


@pytest.mark.parametrize(
    ("token", "peer", "key", "status"),
    [
        ("", "127.0.0.1", None, 200),
        ("", "203.0.113.5", None, 401),
        ("", "203.0.113.5", "viewer", 200),
        ("", "203.0.113.5", "proxy", 403),
        ("t" * 20, "127.0.0.1", None, 401),
        ("t" * 20, "203.0.113.5", "t" * 20, 200),
        ("t" * 20, "203.0.113.5", "u" * 20, 401),
    ],
)
def test_who_may_read_the_figures(make_fleet: MakeFleet, token: str, peer: str, key: str | None, status: int) -> None:
    from meetingctl.core.secret import Secret

    fleet = make_fleet(metrics_token=Secret(token))
    key = fleet.key(key) if key in ("viewer", "proxy") else key
    assert fleet.call("GET", "/metrics", key=key, peer=peer).status_code == status


def test_loopback_behind_a_trusted_proxy_is_not_loopback(make_fleet: MakeFleet) -> None:
    """A reverse proxy on this machine carries strangers: its socket alone must not open the figures to them."""
    fleet = make_fleet(trusted_proxies=("127.0.0.1",))
    stranger = {"x-forwarded-for": "203.0.113.5"}
    assert fleet.call("GET", "/metrics", headers=stranger).status_code == 401
    assert fleet.call("GET", "/metrics").status_code == 200


def test_health_names_mode_and_database(any_fleet: Fleet) -> None:
    body = any_fleet.call("GET", "/api/health").json()
    assert body.keys() == {"status", "version", "mode", "database", "uptime_s"}
    assert (body["status"], body["mode"]) == ("ok", "compat")
    assert body["database"] == any_fleet.url.get_backend_name()


@pytest.mark.real
def test_health_is_503_while_the_database_is_gone(postgres: Postgres, postgres_fleet: Fleet) -> None:
    name = postgres_fleet.url.database
    assert postgres_fleet.call("GET", "/api/health").status_code == 200
    postgres.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    postgres.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    answer = postgres_fleet.call("GET", "/api/health")
    assert answer.status_code == 503
    assert shape_is_right(answer)
    assert postgres_fleet.call("GET", "/api/devices", key="mk_some_key").status_code == 503
    postgres.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    assert postgres_fleet.call("GET", "/api/health").status_code == 200
    assert postgres_fleet.device("cam-9") == "cam-9", "the writer came back too"


OURS = {"user-agent": "meetingctl/9.9"}


def test_our_own_client_gets_the_hint_in_a_header(fleet: Fleet) -> None:
    path = "/api/admin/rollouts?state=odd"
    ours, other = (fleet.call("GET", path, key=fleet.admin, headers=headers) for headers in (OURS, {}))
    assert ours.headers["x-hint"].startswith("use preparing, ")
    assert "x-hint" not in other.headers
    assert ours.content == other.content
    assert set(ours.json()) == {"ok", "error", "message"}


def test_a_hint_never_breaks_the_header(fleet: Fleet) -> None:
    answer = fleet.call("DELETE", "/api/devices/cam-\u00e9", key=fleet.admin, headers=OURS)
    assert answer.status_code in (400, 404)
    assert len(answer.headers.get("x-hint", "")) <= 200

import http.client
import json
import socket

import pytest

from meetingctl.demo.page import CONNECTIONS_AT_ONCE, PageFacts, StatusPage, TunnelFact, render_page


@pytest.fixture
def page():
    page = StatusPage("127.0.0.1", 0, device="demo-cam")
    page.start()
    yield page
    page.close()


def get(page, path, method="GET", accept="text/html,*/*;q=0.8"):
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=10)
    try:
        connection.request(method, path, headers={"Accept": accept})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()
    finally:
        connection.close()


def test_the_page_shows_device_and_tunnels(page):
    page.show_tunnels([TunnelFact("ssh", "127.0.0.1:9050", 2222)])
    status, headers, text = get(page, "/")
    assert status == 200
    assert headers["Content-Type"].startswith("text/html")
    for part in ("demo-cam", "127.0.0.1:9050", "2222"):
        assert part in text
    assert "http://" not in text
    assert "src=" not in text


def test_a_terminal_gets_plain_text(page):
    page.show_tunnels([TunnelFact("ssh", "127.0.0.1:9050", 2222)])
    status, headers, text = get(page, "/", accept="*/*")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain")
    assert headers["Vary"] == "Accept"
    assert text.startswith("demo-cam: demo device, up ")
    assert text.splitlines()[2:] == [
        "service  public address         port here",
        "ssh      127.0.0.1:9050         2222",
    ]


def test_the_same_facts_come_as_json(page):
    page.show_tunnels([TunnelFact("http", "127.0.0.1:9051", 8000)])
    facts = json.loads(get(page, "/status.json")[2])
    assert facts["device"] == "demo-cam"
    assert facts["uptime_s"] >= 0
    assert facts["tunnels"] == [{"service": "http", "public": "127.0.0.1:9051", "local_port": 8000}]


def test_other_paths_and_methods_are_refused(page):
    assert get(page, "/etc/passwd")[0] == 404
    assert get(page, "/", method="POST")[0] == 501
    assert get(page, "/", method="HEAD")[2] == ""


def test_values_are_escaped():
    text = render_page(PageFacts("<b>", 0, [TunnelFact("<i>", "<u>", 1)]))
    for tag in ("<b>", "<i>", "<u>"):
        assert tag not in text


def test_visitors_beyond_the_limit_are_dropped_and_the_page_stays(page):
    silent = [socket.create_connection(("127.0.0.1", page.port), timeout=10) for _ in range(CONNECTIONS_AT_ONCE)]
    with socket.create_connection(("127.0.0.1", page.port), timeout=10) as extra:
        assert extra.recv(1) == b""
    for visitor in silent:
        visitor.close()
    for _ in range(200):
        try:
            if get(page, "/")[0] == 200:
                return
        except (ConnectionError, http.client.HTTPException):
            continue
    pytest.fail("the page did not answer again")


def test_a_taken_port_is_an_error_at_once(page):
    with pytest.raises(OSError, match="in use"):
        StatusPage("127.0.0.1", page.port, device="other")

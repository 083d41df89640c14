"""Attacks on every route at once, made from the OpenAPI document: names that climb, and a forged sender."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from planes import Fleet, MakeFleet

from meetingctl.server.db.schema import audit

STRANGER = "203.0.113.9"
SECRET = "a-secret-beside-the-tree"
CLIMBS = (
    "%2e%2e",
    "..%2foutside.txt",
    "%2e%2e%2f%2e%2e%2foutside.txt",
    "..%252f..%252foutside.txt",
    "%2e%2e%5coutside.txt",
    "%2fetc%2fpasswd",
    ".%00.%2foutside.txt",
    "%ef%bc%8e%ef%bc%8e%ef%bc%8foutside.txt",
    "meetingctl.db",
    "link.txt",
)


def operations(fleet: Fleet) -> Iterator[tuple[str, str]]:
    for path, methods in fleet.api.openapi()["paths"].items():
        for method in methods:
            yield method.upper(), path


@pytest.fixture
def stocked(make_fleet: MakeFleet, tmp_path: Path) -> Fleet:
    """A fleet with files in its tree, secrets beside it, and a planted link to one."""
    fleet = make_fleet()
    (tmp_path / "outside.txt").write_text(SECRET)
    place = {"devicetype": "rpi", "distribution": "d1"}
    for name in ("create-type", "create-distribution"):
        assert fleet.call("POST", f"/api/flash/{name}", key=fleet.admin, json=place).status_code == 200
    (tmp_path / "storage" / "rpi" / "d1" / "link.txt").symlink_to(tmp_path / "outside.txt")
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "link.txt").symlink_to(tmp_path / "outside.txt")
    fleet.device(device_type="rpi", distribution="d1")
    return fleet


def tree_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.name.startswith("meetingctl.db")}


def climbing_paths(path: str) -> Iterator[str]:
    """Give the path with each parameter in turn as a name that climbs, the others as names that exist."""
    good = {"device_key": "cam-1", "device_type": "rpi", "distribution": "d1", "filename": "a.bin", "file": "a.bin"}
    names = re.findall(r"\{(\w+)\}", path)
    for climb in CLIMBS:
        for bad in names:
            yield path.format(**{name: climb if name == bad else good.get(name, "1") for name in names})
        if len(names) > 1:
            yield path.format(**dict.fromkeys(names, climb))


def test_no_path_parameter_leads_out_of_a_folder(stocked: Fleet, tmp_path: Path) -> None:
    before = tree_of(tmp_path)
    seen = 0
    for method, path in operations(stocked):
        calls: list[tuple[str, str, dict[str, Any]]] = [
            (method, url, {"key": stocked.admin, "json": {}} if method != "GET" else {"key": stocked.admin})
            for url in climbing_paths(path)
        ]
        for (_, url, _), answer in zip(calls, stocked.call_all(calls), strict=True):
            seen += 1
            where = f"{method} {url} -> {answer.status_code} {answer.content[:200]!r}"
            assert answer.status_code < 500, where
            assert SECRET.encode() not in answer.content, where
            assert b"root:" not in answer.content, where
            assert b"SQLite format" not in answer.content, where
            assert str(tmp_path).encode() not in answer.content, where
    assert seen > 500
    assert (tmp_path / "outside.txt").read_text() == SECRET
    assert tree_of(tmp_path) - before <= {"keys", "builds", "packages", "icons"}, "nothing was made of such a name"
    stocked.write(lambda connection: None)  # the refusals are written before this
    written = stocked.rows(sa.select(audit).where(audit.c.action == "request.refuse"))
    assert {row["result"] for row in written} == {"refused"}
    assert any("outside.txt" in row["object"] for row in written), "who tried is written down"


def test_a_forged_address_opens_nothing(fleet: Fleet) -> None:
    """An address in a header counts from nobody by default: each route answers as it does without the header."""
    fleet.device()
    forged = [
        {"x-forwarded-for": "127.0.0.1"},
        {"x-forwarded-for": "::1", "x-real-ip": "127.0.0.1", "forwarded": "for=127.0.0.1"},
    ]
    opened = []
    for method, path in operations(fleet):
        url = re.sub(r"\{device_key\}", "cam-1", path)
        url = re.sub(r"\{\w+\}", "1", url)
        url += "?user=device" if path == "/api/ssh-keys" else ""
        rest: dict[str, Any] = {"peer": STRANGER} | ({} if method == "GET" else {"json": {}})
        plain, *others = fleet.call_all(
            [(method, url, rest), *((method, url, rest | {"headers": headers}) for headers in forged)]
        )
        for answer in others:
            if is_closed(plain) != is_closed(answer):
                opened.append(f"{method} {url}: {plain.status_code} -> {answer.status_code}")
    assert opened == []


def is_closed(answer: httpx.Response) -> bool:
    return answer.status_code in (401, 403)


@pytest.mark.parametrize("path", ["/metrics", "/api/ssh-keys?user=device", "/api/users/authorized-keys"])
def test_a_proxy_on_this_machine_carries_no_stranger_in(fleet: Fleet, path: str) -> None:
    """What loopback may, a request that somebody else's proxy brought to loopback may not."""
    assert not is_closed(fleet.call("GET", path)), "this machine itself"
    for headers in ({"x-forwarded-for": STRANGER}, {"x-real-ip": STRANGER}, {"forwarded": f"for={STRANGER}"}):
        assert is_closed(fleet.call("GET", path, headers=headers)), headers
    assert is_closed(fleet.call("GET", path, peer=STRANGER))


def test_failures_count_against_the_real_address(fleet: Fleet) -> None:
    """A guesser who names another address in each request is stopped all the same, and nobody else is."""
    fleet.device()
    guesses = [
        fleet.call(
            "POST",
            "/api/devices/cam-1/register",
            json={"token_code": f"{number:06X}"},
            peer=STRANGER,
            headers={"x-forwarded-for": f"198.51.100.{number}"},
        ).status_code
        for number in range(8)
    ]
    assert 429 in guesses
    fleet.write(lambda connection: None)
    written = fleet.rows(sa.select(audit.c.peer).where(audit.c.result != "ok"))
    assert {row["peer"] for row in written} == {STRANGER}

"""The order of versions, the next one, and manifests."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meetingctl.core.errors import InvalidInput
from meetingctl.core.versions import Manifest, newest_first, parse_manifest, suggest_next, version_key

ORDERED = ["0.9", "1.0-alpha", "1.0-rc1", "1.0-rc2", "1.0-rc10", "1.0", "1.0.1", "1.2", "1.10", "v2", "2.0", "10"]


def test_the_order_of_versions() -> None:
    assert newest_first(reversed(ORDERED)) == ORDERED[::-1]


@given(st.lists(st.text(alphabet="019.-avrcZ_", min_size=1, max_size=8)))
def test_the_order_is_total_and_stable(versions: list[str]) -> None:
    assert newest_first(versions) == newest_first(versions[::-1])
    keys = [version_key(version) for version in newest_first(versions)]
    assert keys == sorted(keys, reverse=True)


@pytest.mark.parametrize(
    ("versions", "expected"),
    [([], "1.0.0"), (["1.0.9", "1.0.2"], "1.0.10"), (["2.0-rc1"], "2.0-rc2"), (["1.09"], "1.10"), (["beta"], "beta.1")],
)
def test_the_next_version(versions: list[str], expected: str) -> None:
    assert suggest_next(versions) == expected


GOOD = Manifest("1.0", "rpi", "trixie", "app.zip", "a" * 64, 5, "n", "2026-11-21T00:00:00Z")


def test_a_manifest_comes_back_as_it_was_written() -> None:
    assert parse_manifest(GOOD.to_bytes()) == GOOD


@pytest.mark.parametrize(
    "change",
    [
        {"version": ".."},
        {"version": "a" * 65},
        {"version": 1},
        {"device_type": "a/b"},
        {"distribution": ""},
        {"archive": "manifest.json"},
        {"archive": "../a.zip"},
        {"archive": "a.exe"},
        {"sha256": "a" * 63},
        {"size": -1},
        {"size": True},
        {"size": "5"},
        {"notes": "\0"},
    ],
)
def test_bad_manifests_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        parse_manifest(json.dumps(json.loads(GOOD.to_bytes()) | change).encode())


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"[" * 100_000, b" " * (1024**2 + 1)])
def test_what_is_no_manifest_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidInput):
        parse_manifest(content)

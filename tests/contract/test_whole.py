"""The contract as a whole: every endpoint, every documented error and every route has its place in a slice."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
from cases import CONTRACT, ENDPOINTS, Slice, check_documented, errors_of
from planes import CODE, Fleet

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]


def load_slices() -> dict[str, Slice]:
    """Return the slice of each `test_<slice>_api.py`."""
    found = {}
    for path in sorted(FOLDER.glob("test_*_api.py")):
        spec = importlib.util.spec_from_file_location(f"whole_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found[path.name] = module.SLICE
    return found


SLICES = load_slices()


def test_the_list_is_whole() -> None:
    assert len(ENDPOINTS) == CONTRACT["counts"]["total"]


def test_each_endpoint_has_one_slice() -> None:
    named = [endpoint for one in SLICES.values() for endpoint in one.endpoints]
    assert sorted(named) == sorted(ENDPOINTS)


@pytest.mark.parametrize("file", SLICES)
def test_each_slice_checks_replies_and_errors(file: str) -> None:
    """A file that holds a slice must use its two tables: the tests are parametrized with the slice itself."""
    text = (FOLDER / file).read_text()
    assert "check_reply(" in text
    assert "SLICE.errors()" in text


@pytest.mark.parametrize("file", SLICES)
def test_what_is_shown_elsewhere_is_there(file: str) -> None:
    one = SLICES[file]
    documented = {(endpoint, text) for endpoint, _, text in errors_of(one.endpoints)}
    for error, place in one.elsewhere.items():
        assert error in documented or error in {text for _, text in documented}, f"{error} is not documented"
        path, _, name = place.partition("::")
        assert re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.MULTILINE), place


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_the_document_names_the_route_and_its_errors(document: dict[str, Any], endpoint: str) -> None:
    check_documented(document, endpoint)


@pytest.mark.real
@pytest.mark.parametrize(
    ("method", "path", "rest"),
    [
        ("POST", "/api/devices/cam-1/service", {"json": {"service": "ssh"}}),
        ("POST", "/api/devices/generate-and-register", {}),
        ("POST", "/api/devices/cam-1/flash-request", {"code": CODE}),
        (
            "POST",
            "/api/forcecommand/register_device_key",
            {"json": {"device_key": "cam-1", "pubkey": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI" + "A" * 43}},
        ),
    ],
)
def test_a_database_that_fails(postgres_fleet: Fleet, method: str, path: str, rest: dict[str, Any]) -> None:
    postgres_fleet.device(token_count=3)
    rest = {"key": None if "code" in rest else postgres_fleet.admin, **rest}
    postgres_fleet.write(lambda c: c.exec_driver_sql("ALTER TABLE audit RENAME TO lost"))
    answer = postgres_fleet.call(method, path, **rest)
    assert (answer.status_code, answer.json()) == (500, {"error": "DB error"})
    postgres_fleet.write(lambda c: c.exec_driver_sql("ALTER TABLE lost RENAME TO audit"))
    assert postgres_fleet.call(method, path, **rest).status_code == 200

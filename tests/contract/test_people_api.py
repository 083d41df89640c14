"""The contract's endpoints about users: keys of the replies, each documented error."""

from __future__ import annotations

from typing import Any

import asyncssh
import pytest
from cases import Slice, check_reply, matching
from planes import Fleet

SLICE = Slice(matching(r" /api/users"))
LINE = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
NEW = {"username": "berta", "password": "long enough"}
GOOD: dict[str, dict[str, Any]] = {
    "POST /api/users": {"json": NEW | {"role": "viewer", "ssh_pubkey": LINE, "authorized": 1}},
    "PUT /api/users/{id}": {"json": {"role": "operator"}},
}
BAD: dict[tuple[str, str], dict[str, Any]] = {
    ("GET /api/users/{id}", "User not found"): {"number": 99},
    ("PUT /api/users/{id}", "User not found"): {"number": 99},
    ("PUT /api/users/{id}", "Nothing to update"): {"json": {"nonsense": 1}},
    ("PUT /api/users/{id}", "Username already used"): {"json": {"username": "Berta"}},
    ("POST /api/users", "Missing username or password"): {"json": {"username": "carl"}},
    ("POST /api/users", "Username already used"): {"json": NEW | {"username": "ANNA"}},
    ("GET /api/users/authorized-keys", "Local access only"): {"peer": "192.0.2.7"},
}


@pytest.fixture
def peopled(fleet: Fleet) -> Fleet:
    made = fleet.call(
        "POST", "/api/users", key=fleet.admin, json={"username": "anna", "password": "long enough", "ssh_pubkey": LINE}
    )
    assert made.status_code == 200, made.text
    return fleet


def send(fleet: Fleet, endpoint: str, *, number: int = 1, **rest: Any):
    method, path = endpoint.split(" ", 1)
    given = {} if path.endswith("authorized-keys") else {"key": fleet.admin}
    return fleet.call(method, path.replace("{id}", str(number)), **(given | GOOD.get(endpoint, {}) | rest))


@pytest.mark.parametrize("endpoint", SLICE.endpoints)
def test_reply_has_the_documented_keys(peopled: Fleet, endpoint: str) -> None:
    check_reply(endpoint, send(peopled, endpoint))


@pytest.mark.parametrize(("endpoint", "status", "text"), SLICE.errors())
def test_documented_error(peopled: Fleet, endpoint: str, status: int, text: str) -> None:
    if endpoint.startswith("PUT") and "already" in text:
        send(peopled, "POST /api/users")
    answer = send(peopled, endpoint, **BAD[endpoint, text])
    assert (answer.status_code, answer.json()) == (status, {"error": text})

"""The contract's endpoints about SSH keys and relations of devices: keys of the replies, each documented error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import asyncssh
import pytest
import yaml
from cases import Slice, check_reply, matching
from planes import CODE, Fleet, MakeFleet

K = "/api/devices/{device_key}"
RELATIONS = ("parent", "ghost", "product-serial", "device-type", "bundles", "distribution", "provision")
KEYS = (
    *(f"PUT {K}/{name}" for name in RELATIONS),
    *matching(r"/ssh-|private-ppk|/api/ssh/|_device_key$"),
)
ABSENT = "tests/contract/test_keys_api.py::test_what_is_off_or_absent"
SLICE = Slice(
    KEYS,
    {
        "Disabled": ABSENT,
        "No host key": ABSENT,
        "No server key": ABSENT,
        "Key generation failed": "tests/contract/test_keys_api.py::test_a_pair_that_cannot_be_kept",
        "DB error": "tests/contract/test_whole.py::test_a_database_that_fails",
    },
)
LINE = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
OTHER = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
GOOD: dict[str, dict[str, Any]] = {
    f"PUT {K}/parent": {"json": {"parent_device_key": "above"}},
    f"PUT {K}/ghost": {"json": {"ghost_candidate_url": "http://192.0.2.1/x"}},
    f"PUT {K}/product-serial": {"json": {"product_serial": "S-1"}},
    f"PUT {K}/device-type": {"json": {"device_type": "rpi"}},
    f"PUT {K}/bundles": {"json": {"bundles": ["a", "b"]}},
    f"PUT {K}/distribution": {"json": {"distribution": "d1"}},
    f"PUT {K}/provision": {"json": {"a": {"b": 1}}},
    f"PUT {K}/ssh-key": {"json": {"pubkey": LINE}},
    "POST /api/ssh-keys/server": {"json": {"pubkey": LINE}},
    "POST /api/forcecommand/register_device_key": {"json": {"device_key": "cam-1", "pubkey": LINE}},
    "POST /api/forcecommand/validate_device_key": {"json": {"pubkey": LINE}},
    "GET /api/forcecommand/get_device_key": {"params": {"device_key": "cam-1"}},
    "DELETE /api/forcecommand/remove_device_key": {"json": {"device_key": "cam-1"}},
    "GET /api/ssh-keys/devices": {"params": {"user": "device"}},
}
UNKNOWN: dict[str, Any] = {"device_key": "nobody"}
BAD: dict[str, dict[str, Any]] = {
    "Device not found": UNKNOWN,
    "No SSH key": {"device_key": "above"},
    "Invalid parent": {"json": {"parent_device_key": "cam-1"}},
    "Parent device not found": {"json": {"parent_device_key": "nobody"}},
    "Product serial already used": {"json": {"product_serial": "TAKEN"}},
    "Invalid public key": {"json": {"pubkey": 'command="x" ' + LINE}},
    "Missing device_key or pubkey": {"json": {"device_key": "cam-1"}},
    "Missing pubkey": {"json": {}},
    "Missing device_key": {"json": {}, "params": {}},
    "Missing user": {"params": {"user": ""}},
    "No keys": {"params": {"user": "nobody"}},
    "Unauthorized": {"anonymous": True},
    "Invalid token": {"wrong": True},
    "Private key not found": {"device_key": "above"},
    "Conversion failed": {"device_key": "broken"},
    'body {"status": "invalid"}': {"json": {"pubkey": OTHER}},
    'body {"status": "not_found"}': {"params": {"device_key": "nobody"}},
    'body {"status": "not_found", "deleted": 0}': {"json": {"device_key": "nobody"}},
    **{f"Missing {name.replace('-', '_')}": {"json": {}} for name in RELATIONS},
    "Missing parent_device_key": {"json": {}},
    "Missing ghost_candidate_url": {"json": {"ghost_candidate_url": "file:///etc/passwd"}},
}
BAD_AT: dict[tuple[str, str], dict[str, Any]] = {
    ("POST /api/forcecommand/register_device_key", "Device not found"): {
        "json": {"device_key": "nobody", "pubkey": LINE}
    },
}


@pytest.fixture
def keyed(make_fleet: MakeFleet, tmp_path: Path) -> Fleet:
    """A fleet with a device that has a key, one above it without, host keys and private keys."""
    private = tmp_path / "private"
    private.mkdir()
    (private / "cam-1").write_bytes(asyncssh.generate_private_key("ssh-ed25519").export_private_key())
    (private / "broken").write_text("no key")
    host_key = asyncssh.generate_private_key("ssh-ed25519").export_public_key()
    (tmp_path / "ssh_host_ed25519_key.pub").write_bytes(host_key)
    fleet = make_fleet(device_private_keys_dir=private, ssh_host_keys=str(tmp_path / "ssh_host_*_key.pub"))
    fleet.device("cam-1")
    fleet.device("above", product_serial="TAKEN")
    fleet.device("broken")
    put = fleet.call("PUT", "/api/devices/cam-1/ssh-key", key=fleet.admin, json={"pubkey": LINE})
    assert put.status_code == 200, put.text
    made = fleet.call("POST", "/api/ssh-keys/server/regenerate", key=fleet.admin)
    assert made.status_code == 200, made.text
    return fleet


def send(fleet: Fleet, endpoint: str, device_key: str = "cam-1", *, anonymous=False, wrong=False, **rest: Any):
    method, path = endpoint.split(" ", 1)
    path = path.replace("{device_key}", device_key).replace("USERNAME", "device")
    given: dict[str, Any] = {} if anonymous else {"key": fleet.admin}
    if anonymous:
        given["peer"] = "192.0.2.7"
    if wrong:
        given = {"code": "FFFFFF"}
    if "params" in rest:
        path = path.partition("?")[0]
    return fleet.call(method, path, **(given | GOOD.get(endpoint, {}) | rest))


@pytest.mark.parametrize("endpoint", KEYS)
def test_reply_has_the_documented_keys(keyed: Fleet, endpoint: str) -> None:
    check_reply(endpoint, send(keyed, endpoint))


@pytest.mark.parametrize(("endpoint", "status", "text"), SLICE.errors())
def test_documented_error(keyed: Fleet, endpoint: str, status: int, text: str) -> None:
    answer = send(keyed, endpoint, **(BAD_AT.get((endpoint, text)) or BAD[text]))
    wanted = {"error": text}
    if text.startswith("body "):
        wanted = yaml.safe_load(text.removeprefix("body "))
    assert (answer.status_code, answer.json()) == (status, wanted)


def test_what_is_off_or_absent(fleet: Fleet, tmp_path: Path, make_fleet: MakeFleet) -> None:
    fleet.device()
    disabled = fleet.call("GET", "/api/devices/cam-1/private-ppk", key=fleet.admin)
    assert (disabled.status_code, disabled.json()) == (403, {"error": "Disabled"})
    assert fleet.call("GET", "/api/ssh/pubkey").json() == {"error": "No server key"}
    bare = make_fleet(ssh_host_keys=str(tmp_path / "nothing*"))
    assert bare.call("GET", "/api/ssh-hostkey").json() == {"error": "No host key"}


def test_a_pair_that_cannot_be_kept(fleet: Fleet) -> None:
    (fleet.data_dir / "keys").mkdir(exist_ok=True)
    (fleet.data_dir / "keys" / "server").write_text("no folder")
    answer = fleet.call("POST", "/api/ssh-keys/server/regenerate", key=fleet.admin)
    assert (answer.status_code, answer.json()) == (500, {"error": "Key generation failed"})


def test_the_device_of_the_path_may_provision_itself(fleet: Fleet) -> None:
    fleet.device()
    assert fleet.call("PUT", "/api/devices/cam-1/provision", code=CODE, json={"x": 1}).status_code == 200
    assert fleet.call("GET", "/api/devices/cam-1", code=CODE).json()["provision"] == {"x": 1}

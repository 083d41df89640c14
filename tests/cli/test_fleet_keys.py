"""SSH keys, names, tags and parents against a real server."""

from __future__ import annotations

from pathlib import Path

import asyncssh
import pytest

from .runner import Cli


@pytest.fixture
def device(admin: Cli, own_name: str) -> str:
    """Create a device that only this test uses."""
    assert admin("fleet", "create", own_name, "--type", "rpicam", "--distribution", "d1").code == 0
    return own_name


@pytest.fixture
def pubkey(tmp_path: Path) -> Path:
    path = tmp_path / "id.pub"
    path.write_bytes(asyncssh.generate_private_key("ssh-ed25519").export_public_key())
    return path


def test_a_key_is_added_shown_and_revoked(admin: Cli, device: str, pubkey: Path) -> None:
    assert admin("fleet", "keys", "show", device).code == 1
    dry = admin("fleet", "keys", "add", device, str(pubkey), "--dry-run", "--json").json
    made = admin("fleet", "keys", "add", device, str(pubkey), "--json").json
    assert (made["status"], made["ssh_user"], made["fingerprint"]) == ("authorized", "device", dry["fingerprint"])
    assert admin("fleet", "keys", "rm", device, "--dry-run").code == 0
    assert admin("fleet", "keys", "rm", device).code == 0
    assert admin("fleet", "keys", "show", device, "--json").json["status"] == "revoked"
    assert [row["action"] for row in admin("fleet", "keys", "log", device, "--json").json] == ["revoke", "add"]


def test_a_private_key_is_not_sent(admin: Cli, device: str, tmp_path: Path) -> None:
    path = tmp_path / "id"
    path.write_bytes(asyncssh.generate_private_key("ssh-ed25519").export_private_key())
    answer = admin("fleet", "keys", "add", device, str(path))
    assert (answer.code, "Invalid public key" in answer.err) == (2, True)


def test_the_servers_key_is_rotated_in_two_steps(admin: Cli) -> None:
    first = admin("fleet", "keys", "rotate", "--json").json
    second = admin("fleet", "keys", "rotate", "--json").json
    assert first["fingerprint"] != second["fingerprint"]
    assert admin("fleet", "keys", "rotate", "--confirm", "--json").json["retired"] >= 1
    assert admin("fleet", "keys", "server", "--json").json["fingerprint"] == second["fingerprint"]


def test_the_export_of_private_keys_is_off(admin: Cli, device: str, tmp_path: Path) -> None:
    answer = admin("fleet", "keys", "export-ppk", device, "--out", str(tmp_path / "x.ppk"))
    assert (answer.code, "disabled" in answer.err.lower()) == (4, True)
    assert not (tmp_path / "x.ppk").exists()


def test_tags_choose_devices(admin: Cli, device: str) -> None:
    tag = f"tag-{device}"[:40]
    assert admin("fleet", "tag", device, "--add", tag, "--add", "b").code == 0
    assert admin("fleet", "tag", device, "--remove", "b").code == 0
    assert admin("fleet", "tag", device, "--json").json == [{"device_key": device, "tags": [tag]}]
    planned = admin("remote", "run", f"tag:{tag}", "--dry-run", "--json", "--", "true").json
    assert [row["target"] for row in planned] == [device]
    assert admin("remote", "run", "tag:nobody", "--dry-run", "--", "true").code == 1
    assert admin("fleet", "tag", device, "--add", "../x").code == 2


def test_a_name_and_a_parent(admin: Cli, device: str) -> None:
    assert admin("fleet", "rename", device, "north door").code == 0
    assert admin("fleet", "show", device, "--json").json["device_name"] == "north door"
    assert admin("fleet", "create", f"{device}-up", "--type", "rpicam", "--distribution", "d1").code == 0
    assert admin("fleet", "parent", device, f"{device}-up", "--json").json["parent_device_key"] == f"{device}-up"
    circle = admin("fleet", "parent", f"{device}-up", device)
    assert (circle.code, "invalid parent" in circle.err.lower()) == (2, True)
    assert admin("fleet", "parent", device, "--none", "--json").json["parent_device_key"] is None
    assert admin("fleet", "parent", device, "x", "--none").code == 2

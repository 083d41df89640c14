"""What sshd sees: authorized_keys files, and AuthorizedKeysCommand in a real sshd."""

from __future__ import annotations

import asyncio
import getpass
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncssh
import httpx
import pytest
from planes import Live, wait_for

SCRIPT = Path(__file__).parents[3] / "packaging" / "ssh" / "meeting-authorized-keys"


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    with Live(tmp_path / "data", authorized_keys_dir=tmp_path / "authorized") as live:
        yield live


def call(live: Live, method: str, path: str, **rest: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {live.plane.first_key}"}
    answer = httpx.request(method, f"{live.url}{path}", headers=headers, trust_env=False, **rest)
    assert answer.status_code == 200, answer.text
    return answer


def new_device(live: Live, name: str, user: str) -> asyncssh.SSHKey:
    private = asyncssh.generate_private_key("ssh-ed25519")
    line = private.export_public_key("openssh").decode().strip()
    made = {"devicekey": name, "token_code": "A1B2C3", "device_type": "rpi", "distribution": "d1"}
    call(live, "POST", "/api/devices/manual-create", json=made)
    call(live, "PUT", f"/api/devices/{name}/authorize", json={"authorized": 1})
    call(live, "PUT", f"/api/devices/{name}/ssh-key", json={"pubkey": f"{line} x", "ssh_user": user})
    return private


def test_the_files_follow_every_change(live: Live, tmp_path: Path) -> None:
    folder = tmp_path / "authorized"

    def lines(user: str) -> list[str]:
        path = folder / user
        return path.read_text().splitlines()[1:] if path.exists() else []

    key = new_device(live, "cam-1", "device").export_public_key("openssh").decode().strip()
    wait_for(lambda: lines("device") == [f"{key} cam-1"], "the key is there")
    new_device(live, "cam-2", "device")
    wait_for(lambda: len(lines("device")) == 2, "two keys are there")
    (folder / "notes").write_text("somebody else's")
    call(live, "PUT", "/api/devices/cam-2/authorize", json={"authorized": 0})
    wait_for(lambda: len(lines("device")) == 1, "an unauthorized device is gone")
    call(live, "PUT", "/api/devices/cam-1/ssh-key", json={"pubkey": key, "ssh_user": "other"})
    wait_for(lambda: lines("other") == [f"{key} cam-1"] and not (folder / "device").exists(), "the user changed")
    call(live, "DELETE", "/api/devices/cam-1")
    wait_for(lambda: not (folder / "other").exists(), "a deleted device is gone")
    assert (folder / "notes").read_text() == "somebody else's"


def test_a_failure_is_made_good_later(live: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meetingctl.server.keys.files.EVERY_S", 0.2)
    folder = tmp_path / "authorized"
    wait_for(folder.exists, "the folder is made")
    blocker = folder / "device"
    blocker.mkdir()
    new_device(live, "cam-1", "device")
    blocker.rmdir()
    wait_for(lambda: blocker.is_file(), "the file is there after the obstacle is gone")


@pytest.mark.real
def test_a_real_sshd_asks_the_server(require_program, live: Live, tmp_path: Path) -> None:
    """sshd refuses programs that others could change, so the script is copied to a folder of root's."""
    sshd = require_program("sshd")
    require_program("curl")
    if os.getuid() != 0:
        pytest.skip("sshd starts AuthorizedKeysCommand only as root")
    user = getpass.getuser()
    private = new_device(live, "cam-1", "device")
    home = Path("/run") / f"meetingctl-test-{os.getpid()}"
    home.mkdir(mode=0o755)
    try:
        program = home / "authorized-keys"
        # The test's only user is root, whom the server never lists: ask for the devices' user instead.
        program.write_text(f'#!/bin/sh\nMEETING_API={live.url}/api exec sh {SCRIPT} "${{1%%{user}}}device" "$2"\n')
        program.chmod(0o755)
        port = _free_port()
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "host"], check=True)
        config = tmp_path / "sshd_config"
        config.write_text(
            f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {tmp_path / 'host'}\nPidFile none\nUsePAM no\n"
            "PermitRootLogin prohibit-password\nAuthorizedKeysFile none\nStrictModes no\n"
            f"AuthorizedKeysCommand {program} %u %f\nAuthorizedKeysCommandUser nobody\n"
        )
        Path("/run/sshd").mkdir(exist_ok=True)
        process = subprocess.Popen([sshd, "-D", "-e", "-f", config], stderr=subprocess.PIPE)
        try:
            wait_for(lambda: _login(port, user, private), "the key of the device logs in")
            path = "/api/devices/cam-1/ssh-key"
            wait_for(lambda: call(live, "GET", path).json()["last_ssh"], "the use is noted")
            assert not _login(port, user, asyncssh.generate_private_key("ssh-ed25519"))
            call(live, "DELETE", "/api/devices/cam-1/ssh-key")
            assert not _login(port, user, private)
        finally:
            process.terminate()
            process.communicate(timeout=20)
    finally:
        for path in home.iterdir():
            path.unlink()
        home.rmdir()


def _login(port: int, user: str, private: asyncssh.SSHKey) -> bool:
    async def run() -> bool:
        options: dict[str, Any] = {"username": user, "client_keys": [private], "known_hosts": None, "config": None}
        try:
            async with asyncssh.connect("127.0.0.1", port, agent_path=None, **options) as connection:
                return (await connection.run("echo in")).stdout == "in\n"
        except (OSError, asyncssh.Error):
            return False

    return asyncio.run(run())


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])

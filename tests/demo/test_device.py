import socket
import subprocess

import pytest

from meetingctl.core.errors import ConfigError
from meetingctl.demo.device import (
    DEVICE_KEY,
    agent_config,
    is_port_free,
    read_state,
    write_ssh_config,
    write_state,
)


def test_a_new_device_is_made_once_and_kept_private(tmp_path):
    path = tmp_path / "device.json"
    made = read_state(path)
    assert made.device_key == DEVICE_KEY
    write_state(path, made)
    assert read_state(path) == made
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"device_key": "../x", "token_code": "ABCDEF"}', '{"unknown": 1}'])
def test_a_broken_file_says_which_one_it_is(tmp_path, text):
    path = tmp_path / "device.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"device\.json") as broken:
        read_state(path)
    assert broken.value.hint == f"rm {path}"


def test_the_agent_reaches_the_two_services_and_nothing_else(tmp_path):
    state = read_state(tmp_path / "none")
    config = agent_config(
        state.__class__(state.device_key, state.token_code, 2201, 8001), ("127.0.0.1", 9001), "http://x"
    )
    assert config.ports == {2201, 8001}


@pytest.mark.real
def test_openssh_reads_the_configuration_as_it_is_meant(tmp_path, require_program):
    require_program("ssh", package="openssh-client")
    folder = tmp_path / "a folder 100%"
    folder.mkdir()
    (folder / "ssh_host_ed25519_key.pub").write_text("ssh-ed25519 AAAA comment\n")
    path = write_ssh_config(folder, "demo-cam", 9050)
    shown = subprocess.run(["ssh", "-G", "-F", path, "demo-cam"], capture_output=True, text=True, check=True).stdout
    settings = dict(line.split(" ", 1) for line in shown.splitlines())
    assert settings["hostname"] == "127.0.0.1"
    assert settings["port"] == "9050"
    assert settings["hostkeyalias"] == "demo-cam"
    assert settings["stricthostkeychecking"] in {"true", "yes"}
    assert settings["identityfile"].replace("%%", "%") == str(folder / "id_ed25519")


def test_a_listening_port_is_not_free():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not is_port_free("127.0.0.1", port)
    assert is_port_free("127.0.0.1", port)

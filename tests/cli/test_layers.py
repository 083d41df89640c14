"""Settings: which layer wins, what a file may hold, which server gets a key."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meetingctl.cli.layers import (
    COMMAND_LINE,
    ConfigFile,
    Sources,
    fold,
    is_same_server,
    parse_file,
    read_credentials,
)
from meetingctl.core.errors import ConfigError
from meetingctl.core.settings import Settings

from .runner import Cli

SYSTEM, USER, CREDENTIALS = Path("/etc/meetingctl/config.toml"), Path("/u/config.toml"), Path("/u/credentials.toml")

# Three settings of different types, each with values that differ from the default.
VALUES = {
    "server_url": st.sampled_from(["http://a", "http://b", "https://c.example:8443"]),
    "timeout_s": st.floats(min_value=0.1, max_value=60).map(lambda number: round(number, 2)),
    "tunnel_ports": st.sampled_from(["9050-9130", "7000-7010", "8000"]),
}
layers = st.fixed_dictionaries({}, optional=VALUES)


def as_environment(layer: dict[str, Any]) -> dict[str, str]:
    return {f"MEETINGCTL_{key.upper()}": str(value) for key, value in layer.items()}


@given(system=layers, user=layers, system_profile=layers, profile=layers, environment=layers, line=layers)
def test_the_strongest_layer_that_speaks_wins(
    system: dict[str, Any],
    user: dict[str, Any],
    system_profile: dict[str, Any],
    profile: dict[str, Any],
    environment: dict[str, Any],
    line: dict[str, Any],
) -> None:
    sources = Sources(
        ConfigFile(SYSTEM, {"default": system, "site": system_profile}),
        ConfigFile(USER, {"default": user, "site": profile}),
        ConfigFile(CREDENTIALS, {}),
        "site",
    )
    settings, origins = fold(sources, as_environment(environment), line)
    weak_to_strong = [
        (f"{SYSTEM} [default]", system),
        (f"{USER} [default]", user),
        (f"{SYSTEM} [profile.site]", system_profile),
        (f"{USER} [profile.site]", profile),
        ("environment", environment),
        (COMMAND_LINE, line),
    ]
    for key in VALUES:
        speaking = [(name, layer[key]) for name, layer in weak_to_strong if key in layer]
        name, value = speaking[-1] if speaking else ("default", getattr(Settings(), key))
        assert (origins[key], getattr(settings, key)) == (name, value)


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("http://127.0.0.1:8470", "http://localhost:8470/", True),
        ("http://127.0.0.1:8470", "http://127.0.0.1:8470/api", True),
        ("http://127.0.0.1:8470", "http://127.0.0.1:8471", False),
        ("https://Fleet.example", "https://fleet.example:443", True),
        ("https://fleet.example", "http://fleet.example", False),
        ("https://fleet.example", "https://fleet.example.evil", False),
    ],
)
def test_one_server_may_have_several_names(left: str, right: str, same: bool) -> None:
    assert is_same_server(left, right) is same


def credentials(url: str) -> ConfigFile:
    return ConfigFile(CREDENTIALS, {"default": {"server_url": url, "api_key": "mk_a_b"}})


def test_a_stored_key_goes_to_its_own_server_only() -> None:
    sources = Sources(ConfigFile(SYSTEM, {}), ConfigFile(USER, {}), credentials("https://a.example"), "default")
    assert fold(sources, {}, {}).settings.api_key.reveal() == "mk_a_b"
    assert fold(sources, {}, {"server_url": "https://a.example/api"}).settings.api_key.reveal() == "mk_a_b"
    assert not fold(sources, {}, {"server_url": "https://b.example"}).settings.api_key
    assert not fold(sources, {"MEETINGCTL_SERVER_URL": "https://b.example"}, {}).settings.api_key


def test_a_key_of_the_environment_goes_where_the_environment_says() -> None:
    sources = Sources(ConfigFile(SYSTEM, {}), ConfigFile(USER, {}), credentials("https://a.example"), "default")
    env = {"MEETINGCTL_SERVER_URL": "https://b.example", "MEETINGCTL_API_KEY": "mk_c_d"}
    assert fold(sources, env, {}).settings.api_key.reveal() == "mk_c_d"


def test_the_local_servers_key_is_the_weakest_layer() -> None:
    empty = ConfigFile(USER, {})
    local = ConfigFile(
        Path("/d/credentials.toml"), {"default": {"server_url": "http://127.0.0.1:1", "api_key": "mk_l"}}
    )
    resolved = fold(Sources(empty, empty, empty, "default"), {}, {}, local)
    assert (resolved.settings.server_url, resolved.settings.api_key.reveal()) == ("http://127.0.0.1:1", "mk_l")
    elsewhere = fold(Sources(empty, empty, empty, "default"), {"MEETINGCTL_SERVER_URL": "http://b"}, {}, local)
    assert (elsewhere.settings.server_url, bool(elsewhere.settings.api_key)) == ("http://b", False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[default\n", "not valid TOML"),
        ("timeout_s = 3\n", "stands outside of a table"),
        ("[default]\ntimeout = 3\n", "unknown setting 'timeout'"),
        ("[default]\ntimeout_s = 'soon'\n", "not a duration"),
        ("[default]\napi_key = 'mk_a_b'\n", "is a secret"),
        ("active_profile = 3\n", "active_profile is no text"),
        ("default = 3\n", "is no table"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse_file(USER, text, holds_secrets=False)
    assert str(USER) in caught.value.message


def test_secrets_do_not_show_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_file(USER, "[default]\napi_key = 'mk_a_verysecret'\n", holds_secrets=False)
    assert "verysecret" not in caught.value.message


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620])
def test_credentials_that_others_reach_are_refused(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "credentials.toml"
    path.write_text("[default]\napi_key = 'mk_a_b'\n")
    path.chmod(mode)
    with pytest.raises(ConfigError) as caught:
        read_credentials(path)
    assert caught.value.hint == f"chmod 600 {path}"
    path.chmod(0o600)
    assert read_credentials(path).profiles["default"]["api_key"] == "mk_a_b"


def test_credentials_hold_secrets_only() -> None:
    with pytest.raises(ConfigError, match="timeout_s is no secret"):
        parse_file(CREDENTIALS, "[default]\ntimeout_s = 3\n", holds_secrets=True)


def test_the_order_of_all_layers_through_the_command(cli: Cli) -> None:
    def origin() -> str:
        return str(cli("config", "get", "timeout_s", "--json", *line).json["origin"])

    line: list[str] = []
    assert origin() == "default"
    system = cli.home / "root/etc/meetingctl/config.toml"
    system.parent.mkdir(parents=True)
    system.write_text("[default]\ntimeout_s = 1\n")
    assert origin() == f"{system} [default]"
    user = cli.home / ".config/meetingctl/config.toml"
    user.parent.mkdir(parents=True)
    user.write_text("[default]\ntimeout_s = 2\n[profile.site]\ntimeout_s = 3\n")
    assert origin() == f"{user} [default]"
    line = ["--profile", "site"]
    assert origin() == f"{user} [profile.site]"
    cli.env["MEETINGCTL_TIMEOUT_S"] = "4"
    assert origin() == "environment"
    line += ["--timeout", "5s"]
    assert origin() == "command line"


def test_a_secret_from_a_file_of_the_environment(cli: Cli) -> None:
    secret = cli.home / "key"
    secret.write_text("mk_from_file\n")
    cli.env["MEETINGCTL_API_KEY_FILE"] = str(secret)
    row = cli("config", "get", "api_key", "--json").json
    assert (row["value"], row["origin"]) == ("***", "environment")


def test_config_option_moves_the_file_and_must_exist(cli: Cli) -> None:
    result = cli("config", "list", "--config", "/no/such.toml")
    assert result.code == 78
    assert "/no/such.toml: no such file" in result.err


def test_the_data_folder_of_a_server_gives_the_key(cli: Cli) -> None:
    data = cli.home / ".local/share/meetingctl"
    data.mkdir(parents=True)
    path = data / "credentials.toml"
    path.write_text("[default]\nserver_url = 'http://127.0.0.1:9999'\napi_key = 'mk_a_b'\n")
    path.chmod(0o600)
    assert cli("config", "get", "server_url").out == "http://127.0.0.1:9999\n"
    if os.geteuid() != 0:
        path.chmod(0)
        assert cli("config", "get", "server_url").out == "http://127.0.0.1:8470\n"

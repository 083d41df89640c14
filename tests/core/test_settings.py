from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meetingctl.core.errors import ConfigError
from meetingctl.core.secret import Secret
from meetingctl.core.settings import Settings, environment_layer, parse_setting, resolve, setting_infos

_LAYERS = ("system", "user", "profile", "environment", "command line")


@given(st.lists(st.one_of(st.none(), st.integers(1, 600)), min_size=5, max_size=5))
def test_the_strongest_layer_wins_and_is_named(values: list[int | None]) -> None:
    layers = [
        (name, {} if value is None else {"timeout_s": value}) for name, value in zip(_LAYERS, values, strict=True)
    ]
    resolved = resolve(*layers)
    present = [(name, value) for name, value in zip(_LAYERS, values, strict=True) if value is not None]
    name, value = present[-1] if present else ("default", 30.0)
    assert resolved.settings.timeout_s == value
    assert resolved.origins["timeout_s"] == name


def test_every_setting_has_help_and_its_default_is_legal() -> None:
    for field in fields(Settings):
        info = setting_infos()[field.name]
        assert info.help, field.name
        default = field.default
        assert parse_setting(field.name, default, source="default") == default or default is None, field.name


def test_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(("config.toml", {"api_listn": "x"}))
    assert "api_listn" in caught.value.message
    assert "api_listen" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("api_listen", "nowhere"),
        ("api_workers", 0),
        ("api_workers", True),
        ("api_workers", "2.5"),
        ("mode", "open"),
        ("tunnel_ports", "9-1"),
        ("tunnel_relay_ports", "80,99999"),
        ("trusted_proxies", "10.0.0.0/99"),
        ("server_url", "ftp://x"),
        ("timeout_s", "soon"),
        ("tunnel_local_ports", {"ssh": 0}),
        ("agent_caps", "perhaps"),
        ("db_url", 7),
    ],
)
def test_a_bad_value_names_the_key_and_the_source(key: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(("here", {key: value}))
    assert caught.value.message.startswith(f"here: {key}")


def test_the_environment_holds_settings_by_name() -> None:
    layer = environment_layer({"MEETINGCTL_MODE": "enforce", "PATH": "/bin", "MEETINGCTL_PROFILE": "x"})
    assert layer == {"mode": "enforce"}
    with pytest.raises(ConfigError, match="modes"):
        resolve(("environment", environment_layer({"MEETINGCTL_MODES": "enforce"})))


def test_a_secret_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("mk_1_abc\n")
    layer = environment_layer({"MEETINGCTL_API_KEY_FILE": str(tmp_path / "key")})
    assert resolve(("environment", layer)).settings.api_key == Secret("mk_1_abc")
    with pytest.raises(ConfigError, match="MEETINGCTL_API_KEY_FILE"):
        environment_layer({"MEETINGCTL_API_KEY_FILE": str(tmp_path / "none")})


def test_a_bad_secret_is_not_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(("here", {"api_key": ["s3cret"]}))
    assert "s3cret" not in str(caught.value)


def test_lists_and_pairs_read_from_text_and_from_toml() -> None:
    for value in ("ssh=22, http=5000", {"ssh": 22, "http": 5000}):
        resolved = resolve(("x", {"tunnel_local_ports": value})).settings
        assert dict(resolved.tunnel_local_ports) == {"ssh": 22, "http": 5000}
    for ports in ("22,80", [22, 80]):
        assert resolve(("x", {"agent_ports": ports})).settings.agent_ports == (22, 80)

"""Every setting of meetingctl: one table, one spelling, and the rule that decides which value wins.

A setting is a field of `Settings`. Its name is the TOML key, its upper-case form after `MEETINGCTL_` the environment
variable. `resolve(layers)` folds layers from weak to strong and tells where each value came from:

    default < /etc/meetingctl/config.toml < user file [default] < [profile.NAME] < credentials < environment
            < command line
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from meetingctl.core.duration import parse_duration_s
from meetingctl.core.errors import ConfigError, MeetingctlError
from meetingctl.core.net import parse_endpoint, parse_networks, parse_port_range
from meetingctl.core.paths import read_small_text
from meetingctl.core.secret import Secret, hide_url_password

Parse = Callable[[Any], Any]
_TEN_YEARS_S = 315_360_000


class SettingInfo(NamedTuple):
    """What is known of a setting beside its value; `group` is the part of the product that reads it."""

    group: str
    help: str
    parse: Parse
    choices: tuple[str, ...] = ()


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("expected text")
    if "\0" in value:
        raise ValueError("expected text without NUL")
    return value


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word in {"1", "true", "yes", "on"}:
        return True
    if word in {"0", "false", "no", "off", ""}:
        return False
    raise ValueError("expected true or false")


def _count(least: int, most: int) -> Parse:
    def parse(value: Any) -> int:
        if isinstance(value, bool) or not str(value).strip().isascii() or not str(value).strip().isdigit():
            raise ValueError(f"expected a whole number from {least} to {most}")
        number = int(str(value)[:20])
        if not least <= number <= most:
            raise ValueError(f"expected a whole number from {least} to {most}")
        return number

    return parse


def _seconds(least: float, most: float) -> Parse:
    def parse(value: Any) -> float:
        seconds = parse_duration_s(value)
        if not least <= seconds <= most:
            raise ValueError(f"expected {least:g} to {most:g} seconds")
        return seconds

    return parse


def _words(value: Any) -> tuple[str, ...]:
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)):
        raise ValueError("expected a list, or words with commas")
    return tuple(_text(item).strip() for item in items if _text(item).strip())


def _networks(value: Any) -> tuple[str, ...]:
    words = _words(value)
    parse_networks(words)
    return words


def _endpoint(value: Any) -> str:
    parse_endpoint(_text(value))
    return str(value)


def _ports(value: Any) -> str:
    parse_port_range(_text(str(value)))
    return str(value)


def _port_list(value: Any) -> tuple[int, ...]:
    items = value.split(",") if isinstance(value, str) else value if isinstance(value, (list, tuple)) else [value]
    return tuple(_count(1, 65535)(str(item).strip()) for item in items if str(item).strip())


def _service_ports(value: Any) -> tuple[tuple[str, int], ...]:
    if isinstance(value, (list, tuple)) and all(isinstance(pair, tuple) for pair in value):
        value = dict(value)
    pairs = value.items() if isinstance(value, Mapping) else (word.partition("=")[::2] for word in _words(value))
    return tuple((_text(name), _count(1, 65535)(port)) for name, port in pairs)


def _path(value: Any) -> Path | None:
    return Path(_text(str(value))).expanduser() if value else None


def _url(value: Any) -> str:
    text = _text(value).rstrip("/")
    if text and not text.startswith(("http://", "https://")):
        raise ValueError("expected a URL that begins with http:// or https://")
    return text


def _secret(value: Any) -> Secret:
    return value if isinstance(value, Secret) else Secret(_text(value).strip())


def _setting(default: Any, group: str, text: str, parse: Parse = _text, choices: tuple[str, ...] = ()) -> Any:
    info = SettingInfo(group, text, parse, choices)
    return field(default=default, metadata={"info": info})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings with their defaults. Units ride in the name; durations are seconds."""

    # What every command reads.
    output: str = _setting(
        "",
        "cli",
        "output format; empty: table on a terminal, plain elsewhere",
        _text,
        ("", "table", "json", "ndjson", "plain"),
    )
    color: str = _setting("auto", "cli", "colour on standard output", _text, ("auto", "always", "never"))
    timeout_s: float = _setting(30.0, "cli", "deadline of one request to the server", _seconds(0.1, 86400))
    log_level: str = _setting(
        "info", "log", "least severe record that is shown", _text, ("debug", "info", "warning", "error")
    )
    log_format: str = _setting(
        "", "log", "text or json; empty: json under systemd, text elsewhere", _text, ("", "text", "json")
    )

    # How a command finds the fleet server.
    server_url: str = _setting("http://127.0.0.1:8470", "server", "address of the fleet API", _url)
    api_key: Secret = _setting(Secret(""), "server", "API key that the command presents", _secret)

    # Control plane.
    data_dir: Path | None = _setting(
        None, "api", "where the server keeps its data; empty: the user's data folder", _path
    )
    db_url: str = _setting("", "api", "database; empty: SQLite in the data directory", _text)
    api_listen: str = _setting("127.0.0.1:8470", "api", "address of the API", _endpoint)
    api_workers: int = _setting(1, "api", "API processes; more than one needs PostgreSQL", _count(1, 64))
    mode: str = _setting(
        "compat", "api", "who may do what without a credential", _text, ("enforce", "compat", "legacy-open")
    )
    legacy_allow_from: tuple[str, ...] = _setting(
        (), "api", "networks that mode legacy-open serves beyond loopback", _networks
    )
    trusted_proxies: tuple[str, ...] = _setting((), "api", "reverse proxies whose X-Forwarded-For counts", _networks)
    bootstrap_token: Secret = _setting(
        Secret(""), "api", "API key of the first administrator, instead of a made one", _secret
    )
    builder_api_token: Secret = _setting(
        Secret(""), "api", "API key of the builder's clients, as the original had it; may build and publish", _secret
    )
    login_key_file: Path | None = _setting(
        None, "api", "Ed25519 private key that signs logins; empty: one is made in the data directory", _path
    )
    metrics_token: Secret = _setting(
        Secret(""), "api", "key of the Prometheus endpoint; empty: viewers and loopback", _secret
    )
    heartbeat_timeout_s: float = _setting(
        120.0, "api", "a device without a heartbeat for longer is Disconnected", _seconds(1, 86400)
    )
    heartbeat_interval_s: float = _setting(
        5.0, "api", "one heartbeat of a device per interval, burst 5", _seconds(0.001, 3600)
    )
    drain_s: float = _setting(10.0, "api", "time that requests in flight get at shutdown", _seconds(0, 600))

    public_url: str = _setting(
        "", "api", "address that replies name for this server; empty: where the request came in", _url
    )

    # Files that people upload.
    storage_quota_mib: int = _setting(102_400, "storage", "what uploaded files may take together", _count(1, 2**30))
    storage_reserve_mib: int = _setting(512, "storage", "free space that uploads leave on the disk", _count(0, 2**30))
    device_types_strict: bool = _setting(
        False, "storage", "whether a new device needs a type and a distribution that exist", _flag
    )
    flash_file_max_mib: int = _setting(512, "storage", "largest file of a distribution", _count(1, 8192))

    # Releases and updates.
    updates_public_read: bool = _setting(
        True, "updates", "whether devices may read published releases without a credential", _flag
    )
    updates_url_ttl_s: float = _setting(
        3600.0, "updates", "life of a signed address of a release, when reading is not public", _seconds(60, 604800)
    )
    updates_archive_max_mib: int = _setting(100, "updates", "largest archive of a release", _count(1, 8192))
    updates_signing_keys: tuple[str, ...] = _setting(
        (), "updates", "ed25519 public keys that sign manifests, in base64 or hex", _words
    )

    # Builds of distributions.
    builder_file_max_mib: int = _setting(512, "builder", "largest file of a build", _count(1, 8192))
    builder_jobs: int = _setting(2, "builder", "archives that are packed at the same time", _count(1, 64))
    builder_jobs_max: int = _setting(20, "builder", "package jobs that may wait or run", _count(1, 10_000))
    builder_keep_s: float = _setting(
        2_592_000.0, "builder", "a build that nobody touched for longer is deleted", _seconds(3600, 315_360_000)
    )

    # SSH keys of devices and of the server.
    authorized_keys_dir: Path | None = _setting(
        None, "keys", "folder of one authorized_keys file for each SSH user; empty: none are written", _path
    )
    authorized_keys_options: str = _setting(
        "", "keys", "options before each key of these files, for example restrict,port-forwarding", _text
    )
    ssh_key_rotation: bool = _setting(False, "keys", "whether a device may replace its own SSH key", _flag)
    ssh_host_keys: str = _setting(
        "/etc/ssh/ssh_host_*_key.pub", "keys", "public host keys of this server's sshd: a pattern of file names", _text
    )
    device_private_keys_dir: Path | None = _setting(
        None, "keys", "folder of private keys named by device, for the PPK export; empty: the export is off", _path
    )

    # Webhooks and alerts.
    alert_offline_after_s: float = _setting(
        300.0, "webhooks", "a device that is silent for longer is told offline; 0: never", _seconds(0, 604800)
    )
    webhook_networks: tuple[str, ...] = _setting(
        (), "webhooks", "networks beyond the public internet that webhooks may reach, for example 10.0.0.0/8", _networks
    )
    webhook_timeout_s: float = _setting(10.0, "webhooks", "deadline of one delivery of a webhook", _seconds(0.1, 30))
    webhook_attempts: int = _setting(
        12, "webhooks", "how often a delivery is tried before it is given up", _count(1, 100)
    )
    webhook_retry_s: float = _setting(
        10.0, "webhooks", "pause after the first failed delivery; it grows up to an hour", _seconds(0.01, 3600)
    )
    sealing_key: Secret = _setting(
        Secret(""), "webhooks", "key that encrypts stored secrets; empty: one is made in the data directory", _secret
    )

    # How long records are kept.
    keep_connection_logs_s: float = _setting(
        7_776_000.0, "retention", "age of connection log entries that are dropped; 0: never", _seconds(0, _TEN_YEARS_S)
    )
    keep_tunnel_visits_s: float = _setting(
        7_776_000.0, "retention", "age of tunnel visits that are dropped; 0: never", _seconds(0, _TEN_YEARS_S)
    )
    keep_key_log_s: float = _setting(
        31_536_000.0, "retention", "age of SSH key log entries that are dropped; 0: never", _seconds(0, _TEN_YEARS_S)
    )
    keep_update_attempts_s: float = _setting(
        31_536_000.0, "retention", "age of update attempts that are dropped; 0: never", _seconds(0, _TEN_YEARS_S)
    )
    keep_deliveries_s: float = _setting(
        2_592_000.0, "retention", "age of webhook deliveries that are dropped; 0: never", _seconds(0, _TEN_YEARS_S)
    )

    # Reverse tunnel, server side.
    tunnel_listen: str = _setting("127.0.0.1:9001", "tunnel", "address where agents dial in", _endpoint)
    tunnel_ports: str = _setting("9050-9130", "tunnel", "pool of public ports", _ports)
    tunnel_bind: str = _setting("127.0.0.1", "tunnel", "address of the public ports", _text)
    tunnel_public_host: str = _setting("127.0.0.1", "tunnel", "host that visitors are told to use", _text)
    tunnel_ttl_s: float = _setting(
        3600.0, "tunnel", "life of a tunnel, renewed by a new request; 0 for no end", _seconds(0, 31536000)
    )
    tunnel_allow_from: tuple[str, ...] = _setting(
        (),
        "tunnel",
        "who may visit: networks, requester or any; empty: requester in mode enforce, else any",
        _words,
    )
    tunnel_device_may_request: bool = _setting(
        False, "tunnel", "whether a device may request its own tunnel with POST /service", _flag
    )
    tunnel_max_last_seen_s: float = _setting(
        120.0, "tunnel", "request-port refuses a device without a heartbeat for longer", _seconds(1, 86400)
    )
    tunnel_relay_ports: tuple[int, ...] = _setting(
        (22, 80, 443, 554, 5000, 5900, 8000, 8080, 8443, 8554),
        "tunnel",
        "device ports that the relay service may reach",
        _port_list,
    )
    tunnel_local_ports: tuple[tuple[str, int], ...] = _setting(
        (), "tunnel", "device port per service, for example ssh=22,http=5000", _service_ports
    )
    tunnel_poll_s: float = _setting(
        2.0, "tunnel", "how often a separate proxy asks the API for changes", _seconds(0.1, 60)
    )
    tunnel_grace_s: float = _setting(
        2.0, "tunnel", "a visitor that accepts nothing for longer is cut when others wait", _seconds(0.1, 60)
    )
    tunnel_linger_s: float = _setting(
        3.0, "tunnel", "how long an answer may follow a visitor's half-close", _seconds(0, 60)
    )

    # Reverse tunnel, device side.
    agent_server: str = _setting("", "agent", "HOST:PORT of the tunnel server", lambda v: _endpoint(v) if v else "")
    agent_device_key: str = _setting("", "agent", "key of this device", _text)
    agent_token: Secret = _setting(Secret(""), "agent", "token code of this device", _secret)
    agent_ports: tuple[int, ...] = _setting(
        (22, 80, 443, 554, 5000, 5900, 8000, 8080, 8443, 8554),
        "agent",
        "local ports that a visitor may reach",
        _port_list,
    )
    agent_heartbeat_s: float = _setting(30.0, "agent", "time between heartbeats; 0 for none", _seconds(0, 86400))
    agent_caps: bool = _setting(
        True, "agent", "offer the extended protocol; off for servers that do not know it", _flag
    )

    # Operator to device.
    ssh_user: str = _setting("device", "remote", "user on the devices", _text)
    ssh_identity: Path | None = _setting(None, "remote", "private key for the devices", _path)
    ssh_password: Secret = _setting(Secret(""), "remote", "password on the devices, for logins and for sudo", _secret)
    ssh_connect_s: float = _setting(10.0, "remote", "deadline of a connection to a device", _seconds(0.1, 600))
    ssh_direct_s: float = _setting(
        2.0, "remote", "how long a direct address is tried before the tunnel", _seconds(0, 60)
    )


class Resolved(NamedTuple):
    """Settings, and for each key the name of the layer that set it."""

    settings: Settings
    origins: dict[str, str]


@cache
def setting_infos() -> Mapping[str, SettingInfo]:
    """Return every setting's name and facts, in the order of the table."""
    return {f.name: f.metadata["info"] for f in fields(Settings)}


def parse_setting(key: str, value: object, *, source: str) -> Any:
    """Turn a raw value (text, or a TOML value) into the setting's type.

    Raises: ConfigError that names the source, the key, what was found and what is allowed.
    """
    infos = setting_infos()
    if key not in infos:
        near = difflib.get_close_matches(key, infos, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "meetingctl config list"
        raise ConfigError(f"{source}: unknown setting {key!r}", hint=hint)
    info = infos[key]
    try:
        parsed = info.parse(value)
    except (ValueError, TypeError, AttributeError, MeetingctlError) as exc:
        shown = "***" if info.parse is _secret else repr(shown_value(value))
        raise ConfigError(f"{source}: {key} is {shown[:80]}: {exc}", hint=_correction(source, key)) from exc
    if info.choices and parsed not in info.choices:
        allowed = ", ".join(repr(choice) for choice in info.choices)
        raise ConfigError(
            f"{source}: {key} is {shown_value(value)!r}, allowed are {allowed}", hint=_correction(source, key)
        )
    return parsed


def shown_value(value: Any) -> Any:
    """Turn a setting's value into what may be shown and what JSON knows: no secret, and no password in a URL."""
    if isinstance(value, Secret):
        return "***" if value else ""
    if isinstance(value, str):
        return hide_url_password(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        is_table = bool(value) and isinstance(value[0], tuple)
        return dict(value) if is_table else list(value)
    return value


def _correction(source: str, key: str) -> str:
    """Say where to correct a value; a command that reads the settings would fail in the same way."""
    return f"unset {ENV_PREFIX}{key.upper()}" if source == ENVIRONMENT else f"correct {key} in {source}"


def resolve(*layers: tuple[str, Mapping[str, object]]) -> Resolved:
    """Fold layers, weak first, into settings and origins. Raises: ConfigError for an unknown key or a bad value."""
    values: dict[str, Any] = {}
    origins = dict.fromkeys(setting_infos(), "default")
    for source, layer in layers:
        for key, raw in layer.items():
            values[key] = parse_setting(key, raw, source=source)
            origins[key] = source
    return Resolved(Settings(**values), origins)


ENVIRONMENT = "environment"  # the name of its layer
ENV_PREFIX = "MEETINGCTL_"
# Variables of the same prefix that are no settings: they choose where settings come from, or belong to the device side.
ENV_RESERVED = frozenset({"MEETINGCTL_PROFILE", "MEETINGCTL_CONFIG", "MEETINGCTL_ROOT"})


def environment_layer(env: Mapping[str, str]) -> dict[str, object]:
    """Pick the settings out of the environment; `MEETINGCTL_X_FILE` names a file that holds the value of a secret.

    An unknown `MEETINGCTL_` variable is kept, so that `resolve` refuses it with the nearest match.
    """
    layer: dict[str, object] = {}
    infos = setting_infos()
    for name, value in sorted(env.items()):
        if not name.startswith(ENV_PREFIX) or name in ENV_RESERVED or name.startswith("MEETINGCTL_COMPLETE"):
            continue
        key = name.removeprefix(ENV_PREFIX).lower()
        base = key.removesuffix("_file")
        if key.endswith("_file") and base in infos and infos[base].parse is _secret:
            try:
                layer[base] = read_small_text(Path(value)).strip()
            except OSError as exc:
                raise ConfigError(f"{name}: cannot read {value!r}: {exc.strerror}", hint=f"unset {name}") from exc
            except MeetingctlError as exc:
                raise ConfigError(f"{name}: {exc.message}", hint=exc.hint) from exc
        else:
            layer[key] = value
    return layer

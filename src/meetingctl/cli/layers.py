"""Where settings come from: the two configuration files, the credentials file, the environment, the command line.

A configuration file has the tables `[default]` and `[profile.NAME]`, and `active_profile = "NAME"` above them chooses
the profile that is used without `--profile`. Credentials stand apart, in a file that only its owner may read, with the
same tables: secrets, and the `server_url` that an `api_key` belongs to. A key is presented to that server only.
"""

from __future__ import annotations

import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from meetingctl.core.errors import ConfigError, MeetingctlError, UsageError
from meetingctl.core.net import is_loopback
from meetingctl.core.paths import default_data_dir, read_small_text, user_cache_dir, user_config_dir
from meetingctl.core.secret import Secret
from meetingctl.core.settings import (
    ENVIRONMENT,
    Resolved,
    Settings,
    environment_layer,
    parse_setting,
    resolve,
    setting_infos,
)

Layer = Mapping[str, object]
Named = tuple[str, Layer]

DEFAULT_PROFILE = "default"
COMMAND_LINE = "command line"
CONFIG_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Places:
    """The files of one invocation."""

    system_file: Path
    user_file: Path
    is_user_file_named: bool
    credentials_file: Path
    cache_dir: Path
    data_dir: Path
    service_data_dir: Path  # that of a server under systemd on this machine


def places_of(env: Mapping[str, str], config_option: str | None) -> Places:
    """Find the files; `--config` and `MEETINGCTL_CONFIG` move the user's file and the credentials beside it."""
    named = config_option or env.get("MEETINGCTL_CONFIG") or ""
    user_file = Path(named).expanduser() if named else user_config_dir(env) / "config.toml"
    root = Path(env.get("MEETINGCTL_ROOT") or "/")
    return Places(
        system_file=root / "etc/meetingctl/config.toml",
        user_file=user_file,
        is_user_file_named=bool(named),
        credentials_file=user_file.parent / "credentials.toml",
        cache_dir=user_cache_dir(env),
        data_dir=default_data_dir(env),
        service_data_dir=root / "var/lib/meetingctl",
    )


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """One parsed file: its tables of settings by profile name, and the profile it chooses."""

    path: Path
    profiles: Mapping[str, Layer]
    chosen: str | None = None

    def layer(self, profile: str) -> Named:
        name = DEFAULT_PROFILE if profile == DEFAULT_PROFILE else f"profile.{profile}"
        return f"{self.path} [{name}]", self.profiles.get(profile, {})


def is_secret_setting(key: str) -> bool:
    """Say whether a setting's type is `Secret`."""
    return key in setting_infos() and isinstance(getattr(Settings(), key), Secret)


def parse_file(path: Path, text: str, *, holds_secrets: bool) -> ConfigFile:
    """Read a configuration or credentials file. Raises: ConfigError that names the file, the table and the key."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{path}: not valid TOML: {exc}", hint=f"meetingctl config check {path}") from exc
    chosen = content.pop("active_profile", None)
    if not isinstance(chosen, str | None):
        raise ConfigError(f"{path}: active_profile is no text", hint="meetingctl config profile use NAME")
    tables = content.pop("profile", {})
    profiles = {DEFAULT_PROFILE: content.pop("default", {}), **(tables if isinstance(tables, dict) else {})}
    if content:
        raise ConfigError(
            f"{path}: {min(content)!r} stands outside of a table",
            hint="settings belong below [default] or [profile.NAME]",
        )
    for profile, layer in profiles.items():
        if not isinstance(layer, dict):
            raise ConfigError(f"{path}: {profile!r} is no table", hint="write [default] or [profile.NAME]")
        for key, value in layer.items():
            _check_key(f"{path} [{profile}]", key, value, holds_secrets=holds_secrets)
    return ConfigFile(path, profiles, chosen)


def _check_key(source: str, key: str, value: object, *, holds_secrets: bool) -> None:
    parse_setting(key, value, source=source)
    if holds_secrets and not is_secret_setting(key) and key != "server_url":
        raise ConfigError(f"{source}: {key} is no secret", hint=f"move {key} to config.toml in the same folder")
    if not holds_secrets and is_secret_setting(key):
        raise ConfigError(
            f"{source}: {key} is a secret, and this file may be read by others",
            hint="meetingctl login" if key == "api_key" else f"meetingctl config set {key} < SECRET_FILE",
        )


def read_config(path: Path, *, must_exist: bool = False) -> ConfigFile:
    """Read a configuration file; a missing one is empty. Raises: ConfigError."""
    try:
        text = read_small_text(path, limit_bytes=CONFIG_BYTES)
    except FileNotFoundError as exc:
        if must_exist:
            raise ConfigError(f"{path}: no such file", hint="meetingctl config path") from exc
        return ConfigFile(path, {})
    except OSError as exc:
        raise ConfigError(f"{path}: cannot read: {exc}", hint="meetingctl config path") from exc
    except MeetingctlError as exc:
        raise ConfigError(exc.message, hint=exc.hint) from exc
    return parse_file(path, text, holds_secrets=False)


def read_credentials(path: Path) -> ConfigFile:
    """Read a credentials file; a missing one is empty. Raises: ConfigError when others may read it."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        text = read_small_text(path, limit_bytes=CONFIG_BYTES)
    except FileNotFoundError:
        return ConfigFile(path, {})
    except OSError as exc:
        raise ConfigError(f"{path}: cannot read: {exc}", hint="meetingctl config path") from exc
    except MeetingctlError as exc:
        raise ConfigError(exc.message, hint=exc.hint) from exc
    if mode & 0o077:
        raise ConfigError(f"{path}: mode {mode:04o} lets others read the credentials", hint=f"chmod 600 {path}")
    return parse_file(path, text, holds_secrets=True)


@dataclass(frozen=True, slots=True)
class Sources:
    """Everything that was read before the settings are folded."""

    system: ConfigFile
    user: ConfigFile
    credentials: ConfigFile
    profile: str

    @property
    def profile_names(self) -> list[str]:
        """Return all profiles of all files, `default` first."""
        names = {*self.system.profiles, *self.user.profiles, *self.credentials.profiles} - {DEFAULT_PROFILE}
        return [DEFAULT_PROFILE, *sorted(names)]


def read_sources(
    places: Places, env: Mapping[str, str], profile_option: str | None, *, may_be_new: bool = False
) -> Sources:
    """Read the files and choose the profile.

    Raises: ConfigError; UsageError for a profile that no file has, unless it may be new.
    """
    system, user = read_config(places.system_file), read_config(places.user_file, must_exist=places.is_user_file_named)
    credentials = read_credentials(places.credentials_file)
    wanted = profile_option or env.get("MEETINGCTL_PROFILE") or user.chosen or system.chosen or DEFAULT_PROFILE
    sources = Sources(system, user, credentials, wanted)
    if wanted not in sources.profile_names and not may_be_new:
        raise UsageError(f"no profile {wanted!r}", hint="meetingctl config profile list")
    return sources


def fold(sources: Sources, env: Mapping[str, str], command_line: Layer, local: ConfigFile | None = None) -> Resolved:
    """Fold all layers, weak first; an API key is kept only for the server that its file names.

    `local` holds the credentials that a server on this machine wrote: the weakest layer above the defaults.
    """
    _check_command_line(command_line)
    profile = sources.profile
    stored = sources.credentials.layer(profile)
    files: list[Named] = [sources.system.layer(DEFAULT_PROFILE), sources.user.layer(DEFAULT_PROFILE)]
    if profile != DEFAULT_PROFILE:
        files += [sources.system.layer(profile), sources.user.layer(profile)]
    strong: list[Named] = [stored, (ENVIRONMENT, environment_layer(env)), (COMMAND_LINE, command_line)]
    weak: list[Named] = [local.layer(DEFAULT_PROFILE)] if local is not None else []
    resolved = resolve(*weak, *files, *strong)
    return _without_foreign_key(resolved, [stored, *weak])


def _check_command_line(layer: Layer) -> None:
    for key, value in layer.items():
        try:
            parse_setting(key, value, source=COMMAND_LINE)
        except ConfigError as exc:
            raise UsageError(exc.message, hint=describe_setting(key) or exc.hint) from exc


def describe_setting(key: str) -> str | None:
    """Say what a setting may be, or what it is for."""
    info = setting_infos().get(key)
    if info is None:
        return None
    return f"use one of {', '.join(filter(None, info.choices))}" if info.choices else f"{key}: {info.help}"


def _without_foreign_key(resolved: Resolved, credentials: list[Named]) -> Resolved:
    for source, layer in credentials:
        owner = layer.get("server_url")
        is_used = resolved.origins["api_key"] == source
        if is_used and owner is not None and not is_same_server(str(owner), resolved.settings.server_url):
            values = {key: getattr(resolved.settings, key) for key in setting_infos()} | {"api_key": Secret("")}
            return Resolved(Settings(**values), resolved.origins | {"api_key": "default"})
    return resolved


def is_same_server(left: str, right: str) -> bool:
    """Say whether two URLs name one server; the names of this machine's loopback are one host."""

    def parts(url: str) -> tuple[str, str, int | None]:
        split = urlsplit(url.rstrip("/").removesuffix("/api"))
        host = (split.hostname or "").lower()
        port = split.port or {"http": 80, "https": 443}.get(split.scheme)
        return split.scheme, "loopback" if is_loopback(host) else host, port

    return parts(left) == parts(right)


def read_local_credentials(data_dir: Path) -> ConfigFile | None:
    """Read what a server on this machine left for its own user, or None when it is not there or not ours to read."""
    path = data_dir / "credentials.toml"
    try:
        with path.open("rb"):
            pass
    except OSError:
        return None
    return read_credentials(path)

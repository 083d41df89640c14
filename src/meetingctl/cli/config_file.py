"""Changes to the configuration and credentials files: comments and order stay, and the file is replaced in one step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meetingctl.cli.layers import DEFAULT_PROFILE, describe_setting, parse_file
from meetingctl.core.errors import ConfigError, InvalidInput, NotFound, UsageError
from meetingctl.core.ids import is_name
from meetingctl.core.paths import write_atomic
from meetingctl.core.settings import parse_setting

CONFIG_MODE = 0o644
CREDENTIALS_MODE = 0o600


def toml_value(key: str, text: str) -> Any:
    """Turn the text of a setting into the TOML value that reads back the same. Raises: UsageError."""
    try:
        parsed = parse_setting(key, text, source="command line")
    except ConfigError as exc:
        raise UsageError(exc.message, hint=describe_setting(key)) from exc
    if isinstance(parsed, bool | int):
        return parsed
    if isinstance(parsed, tuple):
        is_table = bool(parsed) and isinstance(parsed[0], tuple)
        return dict(parsed) if is_table else list(parsed)
    return text


def put_setting(path: Path, profile: str, key: str, value: Any) -> None:
    """Set one key of a profile's table; the table is made when it is missing."""
    document = _read(path)
    _table(document, profile)[key] = value
    _write(path, document, mode=CONFIG_MODE)


def drop_setting(path: Path, profile: str, key: str) -> None:
    """Remove one key of a profile's table. Raises: NotFound."""
    document = _read(path)
    table = _find_table(document, profile)
    if table is None or key not in table:
        raise NotFound(f"{key} is not set in {path} [{profile}]", hint="meetingctl config list --origin")
    del table[key]
    _write(path, document, mode=CONFIG_MODE)


def put_profile(path: Path, profile: str, values: Mapping[str, Any]) -> None:
    """Add a profile with its first settings. Raises: InvalidInput for a bad or taken name."""
    document = _read(path)
    if not is_name(profile) or profile == DEFAULT_PROFILE:
        raise InvalidInput(f"not a profile name: {profile[:80]!r}", hint="use letters, digits, dots and dashes")
    if _find_table(document, profile) is not None:
        raise InvalidInput(f"profile {profile!r} exists", hint=f"meetingctl config profile use {profile}")
    _table(document, profile).update(values)
    _write(path, document, mode=CONFIG_MODE)


def drop_profile(path: Path, profile: str) -> None:
    """Remove a profile, and the choice of it. Raises: NotFound."""
    document = _read(path)
    if profile == DEFAULT_PROFILE or _find_table(document, profile) is None:
        raise NotFound(f"no profile {profile!r} in {path}", hint="meetingctl config profile list")
    _drop_table(document, profile)
    if document.get("active_profile") == profile:
        del document["active_profile"]
    _write(path, document, mode=CONFIG_MODE)


def choose_profile(path: Path, profile: str) -> None:
    """Make a profile the one that is used without `--profile`."""
    import tomlkit

    document = _read(path)
    if profile == DEFAULT_PROFILE:
        document.pop("active_profile", None)
    elif "active_profile" in document:
        document["active_profile"] = profile
    else:
        # A key without a table must stand above the first table.
        head = tomlkit.document()
        head["active_profile"] = profile
        document = tomlkit.parse(f"{head.as_string()}\n{document.as_string()}")
    _write(path, document, mode=CONFIG_MODE)


def put_credentials(path: Path, profile: str, values: Mapping[str, str]) -> None:
    """Set secrets of a profile in the credentials file, which only its owner may read."""
    document = _read(path)
    _table(document, profile).update(values)
    _write(path, document, mode=CREDENTIALS_MODE)


def drop_credentials(path: Path, profile: str) -> None:
    """Remove the API key of a profile, and the address that it belongs to."""
    document = _read(path)
    table = _find_table(document, profile)
    if table is not None:
        table.pop("api_key", None)
        table.pop("server_url", None)
        if not table:
            _drop_table(document, profile)
    _write(path, document, mode=CREDENTIALS_MODE)


def drop_secret(path: Path, profile: str, key: str) -> None:
    """Remove one secret of a profile. Raises: NotFound."""
    document = _read(path)
    table = _find_table(document, profile)
    if table is None or key not in table:
        raise NotFound(f"{key} is not set in {path} [{profile}]", hint="meetingctl config list --origin")
    del table[key]
    _write(path, document, mode=CREDENTIALS_MODE)


def _read(path: Path) -> Any:
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        return tomlkit.parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return tomlkit.document()
    except (TOMLKitError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: not valid TOML: {exc}", hint=f"meetingctl config check {path}") from exc


def _find_table(document: Any, profile: str) -> Any:
    if profile == DEFAULT_PROFILE:
        return document.get("default")
    return document.get("profile", {}).get(profile)


def _drop_table(document: Any, profile: str) -> None:
    if profile == DEFAULT_PROFILE:
        del document["default"]
    else:
        del document["profile"][profile]


def _table(document: Any, profile: str) -> Any:
    import tomlkit

    parent, name = document, "default"
    if profile != DEFAULT_PROFILE:
        if "profile" not in document:
            document["profile"] = tomlkit.table(is_super_table=True)
        parent, name = document["profile"], profile
    if name not in parent:
        parent[name] = tomlkit.table()
    return parent[name]


def _write(path: Path, document: Any, *, mode: int) -> None:
    """Check the new text as it will be read, then replace the file."""
    text = document.as_string().rstrip("\n") + "\n"
    parse_file(path, text, holds_secrets=mode == CREDENTIALS_MODE)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomic(path, text, mode=mode)

"""Change the text of a device's configuration file: config.env by its table of keys, JSON by dotted paths.

Everything here is pure: text in, text or values out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from meetingctl.core import layout
from meetingctl.core.errors import ConfigError, InvalidInput, UsageError

Wanted = Mapping[str, str | None]

# The letters of `Key.readers` and the units behind them.
_UNITS = {
    "S": layout.STREAM_UNIT,
    "R": layout.RECORDER_UNIT,
    "W": layout.WATCHDOG_UNIT,
    "O": layout.ONVIF_UNIT,
    "A": layout.TUNNEL_AGENT_UNIT,
    "U": layout.WEB_UNIT,
}
_IDENTITY = "MEETING_"


def is_env(path: str) -> bool:
    """Say whether a file holds KEY=VALUE lines."""
    return PurePosixPath(path).suffix == ".env"


def is_known_key(path: str, word: str) -> bool:
    """Say whether a word is a key of config.env; a JSON file has no table of keys."""
    from meetingctl.device.config import find_key

    if not is_env(path):
        return False
    try:
        find_key(word)
    except InvalidInput:
        return False
    return True


def check_wanted(path: str, wanted: Wanted) -> None:
    """Check keys and values before any device is asked. Raises: InvalidInput."""
    from meetingctl.device.config import plan_changes
    from meetingctl.device.config.envfile import EnvFile

    if is_env(path):
        plan_changes(EnvFile(), wanted)


def read_values(path: str, text: str, *, reveal: bool = False) -> dict[str, Any]:
    """Return what a file sets, by key or dotted path; secrets are `***`. Raises: MeetingctlError for no JSON."""
    from meetingctl.device.config.envfile import parse_env
    from meetingctl.remote.config import flatten, mask, parse_json

    values: dict[str, Any]
    values = dict(parse_env(text).values()) if is_env(path) else flatten(parse_json(text, path)) if text.strip() else {}
    return values if reveal else {name: mask(name, value) for name, value in values.items()}


def get_values(path: str, text: str, keys: Sequence[str], *, reveal: bool) -> dict[str, Any]:
    """Return the values of these keys, of config.env also their defaults. Raises: InvalidInput, NotFound."""
    from meetingctl.remote.config import find_path, mask, parse_json

    if is_env(path):
        rows = {row["key"]: row["value"] for row in list_keys(text, reveal=reveal)}
        return {key: rows[_name_of(key)] for key in keys}
    document = parse_json(text, path)
    values = {key: find_path(document, key) for key in keys}
    return values if reveal else {key: mask(key, value) for key, value in values.items()}


def list_keys(text: str, *, reveal: bool = False) -> list[dict[str, Any]]:
    """Return every key of config.env with its value and where that comes from."""
    from meetingctl.device.config import all_keys, load_config, shown_value
    from meetingctl.device.config.envfile import parse_env

    loaded = load_config(parse_env(text))
    return [
        {
            "key": key.name,
            "value": (key.kind.write(getattr(loaded.config, key.field)) if reveal else shown_value(key, loaded.config)),
            "origin": loaded.origins[key.name],
        }
        for key in all_keys().values()
    ]


def edit(path: str, text: str, wanted: Wanted) -> str:
    """Return the text with other values; None takes a key out. What stays the same keeps every byte.

    Raises: InvalidInput, Conflict for the locked keys of a provisioned device, NotFound for no such path.
    """
    from meetingctl.device.config import plan_changes
    from meetingctl.device.config.envfile import parse_env, update_env
    from meetingctl.device.config.jsonfiles import find_faults
    from meetingctl.remote.config import parse_json, render_json, set_path, unset_path

    if is_env(path):
        file = parse_env(text)
        return update_env(file, plan_changes(file, wanted)).render()
    before = document = parse_json(text, path)
    for name, value in wanted.items():
        document = unset_path(document, name) if value is None else set_path(document, name, value)
    if document == before:
        return text
    after = render_json(document)
    if added := [fault for fault in find_faults(path, after) if fault not in find_faults(path, text)]:
        raise InvalidInput(added[0])
    return after


def check_whole(path: str, text: str) -> None:
    """Check a whole file. Raises: ConfigError naming the first fault."""
    from meetingctl.device.config import load_config
    from meetingctl.device.config.envfile import parse_env
    from meetingctl.device.config.jsonfiles import find_faults
    from meetingctl.remote.config import MASK

    masked = [name for name, value in read_values(path, text, reveal=True).items() if value == MASK]
    if masked:
        raise ConfigError(
            f"{path}: {masked[0]} is {MASK}, a mask and no value", hint="meetingctl remote config pull TARGET"
        )
    if not is_env(path):
        if found := find_faults(path, text):
            raise ConfigError(found[0], hint=f"python3 -m json.tool < {PurePosixPath(path).name}")
        return
    faults = load_config(parse_env(text)).faults()
    if faults:
        raise ConfigError(f"{path}: {faults[0].text()}", hint="meetingctl device config check FILE")


def keep_identity(old: str, new: str) -> str:
    """Return a config.env to push with the MEETING_* keys of the device that it goes to. Raises: InvalidInput."""
    from meetingctl.device.config.envfile import parse_env, update_env

    mine, pushed = parse_env(old).values(), parse_env(new)
    names = [name for name in (*mine, *pushed.values()) if name.startswith(_IDENTITY)]
    return update_env(pushed, {name: mine.get(name) for name in names}).render()


def units_for(path: str, keys: Sequence[str]) -> list[str]:
    """Return the units that read one of the changed keys; of a JSON file the web page."""
    from meetingctl.device.config import all_keys

    if not is_env(path):
        return [layout.WEB_UNIT] if keys else []
    known = all_keys()
    readers = {letter for key in keys if (name := _name_of(key)) in known for letter in known[name].readers}
    return [unit for letter, unit in _UNITS.items() if letter in readers]


def _name_of(key: str) -> str:
    """Return the present name of a key; an unknown one is its own."""
    from meetingctl.device.config import find_key

    try:
        return find_key(key).name
    except InvalidInput:
        return key


def check_keys(path: str, keys: Sequence[str]) -> None:
    """Check the names of keys before any device is asked. Raises: InvalidInput with the nearest name."""
    from meetingctl.device.config import find_key

    if not keys:
        raise UsageError("missing KEY", hint="meetingctl remote config list TARGET")
    if is_env(path):
        for key in keys:
            find_key(key)

"""config.env on the device: read it, change keys in it, keep everything else."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Callable, Mapping

from meetingctl.core.errors import Conflict, InvalidInput, NotFound
from meetingctl.core.layout import CONFIG_DIR, CONFIG_ENV, RECORDER_CONF
from meetingctl.device.config.envfile import EnvFile, parse_env, quote_value, update_env
from meetingctl.device.config.keys import Key, alias_targets, find_key
from meetingctl.device.config.kinds import MASK
from meetingctl.device.config.load import Loaded, load_config, mask_login
from meetingctl.device.system import System

_NEW_FILE_MODE = 0o640  # it holds the password of the stream
_LOCK_TIMEOUT_S = 5.0


def read_env(system: System) -> EnvFile:
    """Return config.env, or recorder.conf while there is none, or an empty file. Raises: Forbidden, TooLarge."""
    for device_path in (CONFIG_ENV, RECORDER_CONF):
        try:
            return parse_env(system.read(device_path))
        except NotFound:
            continue
    return EnvFile()


def read_config(system: System) -> Loaded:
    """Return the configuration of this device with its problems. Raises: Forbidden, TooLarge."""
    return load_config(read_env(system))


def parse_value(name: str, text: str) -> tuple[Key, str]:
    """Check a value for a key and return it in the usual spelling; empty means the default.

    Raises: InvalidInput that names the key, the value and what is allowed.
    """
    key = find_key(name)
    if not text:
        return key, ""
    try:
        written = key.kind.write(key.kind.parse(text))
        quote_value(written)
    except (ValueError, InvalidInput) as exc:
        shown = "***" if key.kind.name == "secret" else repr(mask_login(text)[:80])
        raise InvalidInput(
            f"{name} is {shown}, allowed is {key.kind.allowed}", hint=f"meetingctl device config set {key.name} VALUE"
        ) from exc
    return key, written


def plan_changes(file: EnvFile, wanted: Mapping[str, str | None], *, unlock: bool = False) -> dict[str, str | None]:
    """Decide what is written for the wanted values (None removes a key).

    Values are checked and spelled as usual. The older names VIDEO_* and OUTPUT_* are written beside the new ones, for
    programs of the original that read only those; other older names are rewritten where they stand. When both are
    wanted, the new name wins. The mask of a secret means "unchanged".
    Raises: InvalidInput; Conflict when MEETING_* of a provisioned device would change and `unlock` is false.
    """
    present = file.values()
    changes: dict[str, str | None] = {}
    older_first = sorted(wanted, key=lambda name: name not in alias_targets())
    for name in older_first:
        text = wanted[name]
        key, written = (find_key(name), None) if text is None else parse_value(name, text)
        if key.kind.name == "secret" and text == MASK:
            continue
        changes[key.name] = written
        for alias in key.aliases:
            if alias in present or alias.startswith(("VIDEO_", "OUTPUT_")):
                changes[alias] = written
    if not unlock and load_config(file).config.meeting_provisioned:
        locked = sorted(name for name, text in changes.items() if _is_locked(name) and present.get(name) != text)
        if locked:
            raise Conflict(
                f"{locked[0]} is locked: this device is provisioned",
                hint="as root, set MEETING_PROVISIONED=no in config.env with an editor",
            )
    return changes


Wanted = Mapping[str, str | None]


def change_config(system: System, wanted: Wanted | Callable[[Loaded], Wanted], *, unlock: bool = False) -> Loaded:
    """Set keys (None removes one) and return the new configuration.

    A function decides under the lock, from the configuration that is there then; what it raises changes nothing.
    Comments, order and unknown keys stay. A device that has only recorder.conf gets a config.env with its contents.
    Nothing is written when nothing changes. Raises: InvalidInput, Conflict, Forbidden, StorageFull, Busy.
    """
    with system.locked(CONFIG_DIR, timeout_s=_LOCK_TIMEOUT_S):
        file = read_env(system)
        if callable(wanted):
            wanted = wanted(load_config(file))
        changed = update_env(file, plan_changes(file, wanted, unlock=unlock))
        if changed != file:
            remove_leftovers(system, CONFIG_ENV)
            system.write(CONFIG_ENV, changed.render(), mode=_mode(system))
    return load_config(changed)


def remove_leftovers(system: System, device_path: str) -> None:
    """Remove copies of a writer that was killed: they hold passwords too. Call it under the lock of the folder."""
    path = system.path(device_path)
    for copy in path.parent.glob(f".{path.name}.????????"):
        with contextlib.suppress(OSError):
            copy.unlink()


def _is_locked(name: str) -> bool:
    return name.startswith("MEETING_")


def _mode(system: System) -> int:
    """Return the mode of the file without the rights of others."""
    try:
        return stat.S_IMODE(system.path(CONFIG_ENV).lstat().st_mode) & ~0o007
    except FileNotFoundError:
        return _NEW_FILE_MODE

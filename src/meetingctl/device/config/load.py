"""Text of config.env -> typed configuration and a list of what is wrong with it; and the difference of two."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from meetingctl.core.errors import ConfigError
from meetingctl.core.secret import Secret
from meetingctl.device.config.envfile import EnvFile
from meetingctl.device.config.keys import (
    IGNORED_KEYS,
    DeviceConfig,
    Key,
    Reload,
    alias_targets,
    all_keys,
)

# wrong: the default is used. missing: daemons that read the key must not start. The rest only deserve a look.
ProblemKind = Literal["wrong", "missing", "unknown", "repeated", "broken", "half"]
_FAULTS = frozenset({"wrong", "missing", "broken"})


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding in a configuration. `line` is 0 when no line is to blame; a secret `value` is `***`."""

    kind: ProblemKind
    key: str
    value: str
    allowed: str
    line: int = 0
    readers: str = ""

    @property
    def is_fault(self) -> bool:
        """Say whether `device config check` fails because of it."""
        return self.kind in _FAULTS

    def text(self) -> str:
        """Say it in one line: key, value and what is allowed."""
        where = f"line {self.line}: " if self.line else ""
        match self.kind:
            case "wrong":
                return f"{where}{self.key} is {self.value[:80]!r}, allowed is {self.allowed}"
            case "missing":
                return f"{where}{self.key} is missing: {self.allowed}"
            case "unknown":
                # Without its value: a misspelled password is unknown too.
                return f"{where}{self.key}: no such key is known{self.allowed}"
            case "repeated":
                return f"{where}{self.key} is set more than once, the last one counts"
            case "half":
                return f"{where}{self.key} is set without {self.allowed}: everybody may watch"
        return f"{where}not KEY=VALUE and no comment"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration, where each key came from (`default` or the name that set it), and what is wrong."""

    config: DeviceConfig
    origins: Mapping[str, str]
    problems: tuple[Problem, ...]

    def faults(self) -> tuple[Problem, ...]:
        return tuple(problem for problem in self.problems if problem.is_fault)

    def for_csi(self) -> DeviceConfig:
        """Return the configuration for a CSI camera: its own defaults where no key was set."""
        changes = {
            key.field: key.csi_default
            for key in all_keys().values()
            if key.csi_default is not None and self.origins[key.name] == "default"
        }
        return replace(self.config, **changes)

    def require(self, reader: str) -> DeviceConfig:
        """Return the configuration for a daemon (one letter of `Key.readers`).

        Wrong values have become defaults by now. Raises: ConfigError when a key that the daemon needs is missing.
        """
        for problem in self.problems:
            if problem.kind == "missing" and reader in problem.readers:
                raise ConfigError(
                    f"config.env: {problem.text()}", hint=f"meetingctl device config set {problem.key} VALUE"
                )
        return self.config


def load_config(file: EnvFile) -> Loaded:
    """Read every key. Never raises: a wrong value becomes the default and a problem."""
    texts = file.values()
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    problems: list[Problem] = []
    for key in all_keys().values():
        origin = _strongest_name(key, texts)
        origins[key.name] = origin or "default"
        if origin is None:
            continue
        try:
            values[key.field] = key.kind.parse(texts[origin])
        except ValueError:
            origins[key.name] = "default"
            problems.append(_wrong(key, origin, texts[origin], file.line_numbers(origin)[-1]))
    if pool_problem := _check_multicast_pool(values):
        problems.append(pool_problem)
        values |= {"rtsp_multicast_port_min": None, "rtsp_multicast_port_max": None}
    config = DeviceConfig(**values)
    problems += _missing(config)
    problems += _oddities(file, texts)
    problems += _half_login(config)
    return Loaded(config, origins, tuple(sorted(problems, key=lambda problem: problem.line)))


def changed_keys(old: DeviceConfig, new: DeviceConfig) -> dict[str, Reload]:
    """Return the keys whose values differ, each with its class of reload."""
    return {key.name: key.reload for key in all_keys().values() if getattr(old, key.field) != getattr(new, key.field)}


def shown_value(key: Key, config: DeviceConfig) -> str:
    """Return a value as text for lists and logs: secrets are `***`, the login in a URL too."""
    value = getattr(config, key.field)
    if isinstance(value, Secret):
        return "***" if value else ""
    return mask_login(key.kind.write(value))


def mask_login(text: str) -> str:
    """Hide the password in a URL: `rtsp://user:***@host/path`."""
    return re.sub(r"(://[^\s/@:]*):\S*@", r"\1:***@", text)


def _strongest_name(key: Key, texts: Mapping[str, str]) -> str | None:
    """Return the name that counts: the key, else its older names; an empty value means the default."""
    return next((name for name in (key.name, *key.aliases) if texts.get(name)), None)


def _wrong(key: Key, name: str, text: str, line: int) -> Problem:
    shown = "***" if key.kind.name == "secret" else mask_login(text)
    return Problem("wrong", name, shown, key.kind.allowed, line, key.readers)


def _missing(config: DeviceConfig) -> list[Problem]:
    """Find keys that others make necessary; only those of the stream daemon stop a daemon."""
    found = []
    if config.stream_source_mode in {"rtsp", "mjpeg"} and not config.stream_source_url:
        need = f"STREAM_SOURCE_MODE={config.stream_source_mode} needs a URL"
        found.append(Problem("missing", "STREAM_SOURCE_URL", "", need, readers="S"))
    if config.snmp_enabled and not config.snmp_server_host:
        found.append(Problem("missing", "SNMP_SERVER_HOST", "", "SNMP_ENABLED=yes needs a host"))
    if config.network_mode == "static" and not config.network_static_ip:
        found.append(Problem("missing", "NETWORK_STATIC_IP", "", "NETWORK_MODE=static needs an address"))
    return found


def _half_login(config: DeviceConfig) -> list[Problem]:
    """Find a login that protects nothing, because its other half is empty."""
    if bool(config.rtsp_user) == bool(config.rtsp_password):
        return []
    names = ("RTSP_USER", "RTSP_PASSWORD") if config.rtsp_user else ("RTSP_PASSWORD", "RTSP_USER")
    return [Problem("half", names[0], "", names[1])]


def _check_multicast_pool(values: Mapping[str, Any]) -> Problem | None:
    first, last = values.get("rtsp_multicast_port_min"), values.get("rtsp_multicast_port_max")
    if (first is None) == (last is None) and (first is None or last is None or first < last):
        return None
    allowed = "a port above RTSP_MULTICAST_PORT_MIN, and both or neither set"
    return Problem("wrong", "RTSP_MULTICAST_PORT_MAX", str(last or ""), allowed, readers="S")


def _oddities(file: EnvFile, texts: Mapping[str, str]) -> list[Problem]:
    """Find unknown and repeated keys and lines that say nothing."""
    known = {*all_keys(), *alias_targets(), *IGNORED_KEYS}
    found = [Problem("broken", "", "", "", line) for line in file.broken_lines()]
    for name, text in texts.items():
        lines = file.line_numbers(name)
        if len(lines) > 1:
            found.append(Problem("repeated", name, "", "", lines[-1]))
        if name not in known:
            near = difflib.get_close_matches(name.upper(), known, n=1)
            found.append(
                Problem("unknown", name, mask_login(text), f"; nearest is {near[0]}" if near else "", lines[-1])
            )
    return found

"""What the agent needs to know, from settings or from the file that provisioned devices carry."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meetingctl.core.errors import ConfigError, InvalidInput, MeetingctlError
from meetingctl.core.ids import is_device_key, parse_token_code
from meetingctl.core.layout import VERSION_FILE
from meetingctl.core.paths import read_small_text
from meetingctl.core.secret import Secret
from meetingctl.core.settings import Settings

DEFAULT_TUNNEL_PORT = 9001


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """One agent. `heartbeat_s` 0 sends no heartbeats, as does an empty `api_url`.

    The pause between two attempts grows from `backoff_first_s` to `backoff_most_s`, or to `backoff_api_up_s` while
    heartbeats get through. Raises: ConfigError for what is missing or malformed.
    """

    server_host: str
    server_port: int
    device_key: str
    token: Secret
    ports: frozenset[int] = field(default_factory=lambda: frozenset(Settings().agent_ports))
    with_caps: bool = True
    api_url: str = ""
    heartbeat_s: float = 0.0
    dial_s: float = 10.0
    backoff_first_s: float = 1.0
    backoff_most_s: float = 60.0
    backoff_api_up_s: float = 15.0
    stable_s: float = 30.0
    service_host: str = "127.0.0.1"
    installed_version: str = ""
    version_file: str = ""  # says the version in its first line, when the one above is empty

    def __post_init__(self) -> None:
        if not self.server_host or not 1 <= self.server_port <= 65535:
            raise ConfigError(
                "the agent does not know its tunnel server", hint="meetingctl tunnel agent --server HOST:9001"
            )
        if not is_device_key(self.device_key):
            raise ConfigError("the agent has no device key", hint="meetingctl tunnel agent --device-key KEY")
        if not self.token:
            raise ConfigError("the agent has no token code", hint="set MEETINGCTL_AGENT_TOKEN")
        try:
            parse_token_code(self.token.reveal())
        except InvalidInput as exc:
            raise ConfigError(f"the agent's token code: {exc.message}", hint=exc.hint) from exc


def load_meeting_json(path: Path) -> AgentConfig:
    """Read a device's `meeting.json`; keys that are not ours are left alone. Raises: ConfigError."""
    try:
        fields = json.loads(read_small_text(path))
    except MeetingctlError as exc:
        raise ConfigError(exc.message, hint=exc.hint) from exc
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror or exc}", hint=f"ls -l {path}") from exc
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"{path}: not valid JSON", hint=f"python3 -m json.tool {path}") from exc
    if not isinstance(fields, dict):
        raise ConfigError(f"{path}: not a JSON object")
    if fields.get("tunnel_ssl") is True:
        raise ConfigError(f"{path}: tunnel_ssl is on, and this agent speaks plain TCP", hint="set tunnel_ssl to false")
    return AgentConfig(
        server_host=_text(path, fields, "tunnel_host"),
        server_port=int(_number(path, fields, "tunnel_port", DEFAULT_TUNNEL_PORT)),
        device_key=_text(path, fields, "device_key"),
        token=Secret(_text(path, fields, "token_code")),
        api_url=_text(path, fields, "api_url"),
        heartbeat_s=_number(path, fields, "heartbeat_interval", 60.0),
        version_file=VERSION_FILE,
    )


def _text(path: Path, fields: dict[str, Any], key: str) -> str:
    value = fields.get(key) or ""
    if not isinstance(value, str):
        raise ConfigError(f"{path}: {key} is no text")
    return value.strip()


def _number(path: Path, fields: dict[str, Any], key: str, default: float) -> float:
    value = fields.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 86400:
        raise ConfigError(f"{path}: {key} is no number from 0 to 86400")
    return float(value)

"""onvif.conf: switch, port and login of the ONVIF service, and its agreement with the stream's login."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from meetingctl.core.errors import ConfigError, NotFound
from meetingctl.core.layout import CONFIG_DIR, ONVIF_CONF, ONVIF_PORT
from meetingctl.core.secret import Secret
from meetingctl.device.config import DeviceConfig, read_config, remove_leftovers
from meetingctl.device.onvif.auth import Credentials
from meetingctl.device.system import System

_MODE = 0o600
_COMPAT = frozenset({"synology"})
_LOGIN_LINE = re.compile(
    r"""^[ \t]*(?:export[ \t]+)?RTSP_(?:USER|PASSWORD)[ \t]*=[ \t]*(?!(?:""|'')?[ \t]*(?:\#.*)?$)""", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class OnvifConf:
    """What onvif.conf says. `compat` holds names of clients whose habits are met."""

    enabled: bool = True
    port: int = ONVIF_PORT
    username: str = ""
    password: Secret = Secret("")
    compat: frozenset[str] = frozenset()
    media2: bool = False


def parse_conf(text: str) -> OnvifConf:
    """Read onvif.conf; what is unknown or of no use there is ignored. Raises: ConfigError."""
    body = _load(text)
    port = body.get("port", ONVIF_PORT)
    if isinstance(port, str) and port.isascii() and port.isdigit():
        port = int(port)
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535:
        raise ConfigError("onvif.conf: port is no number from 1 to 65535", hint=f"edit {ONVIF_CONF}")
    compat = body.get("compat")
    return OnvifConf(
        enabled=body.get("enabled", True) not in (False, "false", "no", 0),
        port=port,
        username=str(body.get("username") or ""),
        password=Secret(str(body.get("password") or "")),
        compat=frozenset(name for name in _COMPAT if name in compat) if isinstance(compat, list) else frozenset(),
        media2=body.get("media2") is True,
    )


def read_conf(system: System) -> OnvifConf:
    """Return onvif.conf, or the defaults while there is none. Raises: ConfigError, Forbidden."""
    try:
        return parse_conf(system.read(ONVIF_CONF))
    except NotFound:
        return OnvifConf()


def login_of(config: DeviceConfig, conf: OnvifConf, *, is_meant: bool = False) -> Credentials | None:
    """Return the login that clients need: that of the stream, else that of onvif.conf, else None for everybody.

    `is_meant` says that config.env has a user or a password: when it is no login all the same (a half, a quote that is
    missing), nobody gets in.
    """
    if config.is_auth_on:
        return Credentials(config.rtsp_user, config.rtsp_password)
    if conf.username and conf.password:
        return Credentials(conf.username, conf.password)
    if is_meant or conf.username or conf.password:
        return Credentials("", Secret(secrets.token_hex(32)))
    return None


def means_login(text: str) -> bool:
    """Say whether a config.env has something at RTSP_USER or RTSP_PASSWORD, readable or not."""
    return _LOGIN_LINE.search(text) is not None


def sync_login(system: System) -> bool:
    """Copy the login of the stream into onvif.conf, where older tools read it; say whether it was written.

    An empty login of the stream changes nothing. Raises: ConfigError, Forbidden, StorageFull, Busy.
    """
    if not read_config(system).config.is_auth_on:
        return False
    with system.locked(CONFIG_DIR):
        # Whoever held the lock may have taken the login away.
        config = read_config(system).config
        if not config.is_auth_on:
            return False
        try:
            body = dict(_load(system.read(ONVIF_CONF)))
        except NotFound:
            body = {}
        wanted = {"username": config.rtsp_user, "password": config.rtsp_password.reveal()}
        mirrored = {"rtsp_port": config.rtsp_port, "rtsp_path": config.rtsp_path}
        if body | wanted | mirrored == body:
            return False
        remove_leftovers(system, ONVIF_CONF)
        system.write(ONVIF_CONF, json.dumps(body | wanted | mirrored, indent=2) + "\n", mode=_MODE)
    return True


def _load(text: str) -> Mapping[str, Any]:
    try:
        body = json.loads(text or "{}")
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"{ONVIF_CONF}: no JSON", hint=f"edit {ONVIF_CONF}") from exc
    if not isinstance(body, dict):
        raise ConfigError(f"{ONVIF_CONF}: no JSON object", hint=f"edit {ONVIF_CONF}")
    return body

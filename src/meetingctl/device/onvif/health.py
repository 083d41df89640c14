"""What `doctor` says of the ONVIF service of this device: its files, and the running service through its socket."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from meetingctl.core.errors import MeetingctlError
from meetingctl.core.layout import ONVIF_CONF, ONVIF_UNIT
from meetingctl.device.config import DeviceConfig
from meetingctl.device.onvif.clock import is_synchronized
from meetingctl.device.onvif.source import FactSource
from meetingctl.device.stream.control import ONVIF, ask_daemon
from meetingctl.device.system import System


class Health(NamedTuple):
    """One check; `hint` says what to do where something is to be done. What is `absent` is switched off."""

    check: str
    status: Literal["ok", "absent", "warning", "failed"]
    detail: str
    hint: str | None = None


def check_onvif(system: System) -> Iterator[Health]:
    """Look at the service of this device. Never raises: what cannot be read is a finding."""
    try:
        facts = FactSource(system, may_write=False).now()
    except MeetingctlError as error:
        yield Health("onvif", "failed", error.message, error.hint)
        return
    if not facts.conf.enabled:
        yield Health("onvif", "absent", f"{ONVIF_CONF} says enabled=false")
        return
    if facts.login is None:
        hint = "meetingctl device config set RTSP_USER admin, then RTSP_PASSWORD"
        yield Health("onvif login", "warning", "none: anybody on the network may see and control the camera", hint)
    elif facts.login.is_closed:
        detail = "the user or the password in config.env cannot be used: nobody gets in"
        yield Health("onvif login", "failed", detail, "meetingctl device config check")
    else:
        yield Health("onvif login", "ok", "a user and a password are set")
    yield _check_clock(system)
    yield from _check_running(system, facts.config)


def _check_clock(system: System) -> Health:
    match is_synchronized(system):
        case True:
            return Health("onvif clock", "ok", "synchronized")
        case False:
            detail = "not synchronized: right passwords are refused when it is more than 300 s off"
            return Health("onvif clock", "warning", detail, "timedatectl status")
        case _:
            return Health("onvif clock", "absent", "nobody knows whether it is synchronized")


def _check_running(system: System, config: DeviceConfig) -> Iterator[Health]:
    try:
        found = ask_daemon(system, "status", daemon=ONVIF)
    except MeetingctlError as error:
        yield Health("onvif", "warning", error.message, error.hint)
        return
    yield Health("onvif", "ok", f"port {found.get('port')}, {found.get('subscriptions')} subscriptions")
    if found.get("discovery"):
        yield Health("onvif discovery", "ok", "on")
    else:
        hint = f"journalctl -u {ONVIF_UNIT} -b"
        yield Health("onvif discovery", "warning", "off: recorders find the camera by its address only", hint)
    yield _check_relay(system, config)


def _check_relay(system: System, config: DeviceConfig) -> Health:
    try:
        found = ask_daemon(system, "relay status", daemon=ONVIF)
    except MeetingctlError as error:
        status: Literal["absent", "warning"] = "warning" if config.relay_enable else "absent"
        return Health("onvif relay", status, error.message, error.hint if config.relay_enable else None)
    return Health("onvif relay", "ok", f"{found.get('token')}: {found.get('state')}")

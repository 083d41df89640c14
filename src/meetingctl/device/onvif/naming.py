"""The name of this device, from the fleet's API: asked for in the background, the last good one kept."""

from __future__ import annotations

import http.client
import json
import logging
import random
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import quote

from meetingctl.core.errors import MeetingctlError, Unreachable
from meetingctl.core.layout import MEETING_JSON, ONVIF_NAME_JSON
from meetingctl.core.secret import Secret
from meetingctl.device.config import DeviceConfig
from meetingctl.device.onvif.facts import UNPROVISIONED
from meetingctl.device.system import System

REFRESH_S = 3600.0
_FIRST_RETRY_S = 30.0
_TIMEOUT_S = 10.0
_ANSWER_BYTES = 256 * 1024
_FIELDS = ("product_serial", "name", "device_name")
_LONGEST = 64
_MASK = "********"

log = logging.getLogger(__name__)


def identity_of(config: DeviceConfig) -> tuple[str, str, str]:
    """Return what decides whom we ask and as whom; another one means another name."""
    return config.meeting_api_url, config.meeting_device_key, config.meeting_token_code.reveal()


def can_ask(config: DeviceConfig) -> bool:
    """Say whether the device belongs to a fleet."""
    return bool(config.meeting_api_url and config.meeting_device_key)


def read_kept(system: System, config: DeviceConfig) -> str:
    """Return the last good name of this device key, UNPROVISIONNED without one."""
    if not can_ask(config):
        return UNPROVISIONED
    try:
        kept = json.loads(system.read(ONVIF_NAME_JSON))
    except (MeetingctlError, ValueError):
        return UNPROVISIONED
    is_ours = isinstance(kept, dict) and kept.get("key") == config.meeting_device_key
    return (_usable(kept.get("name")) if is_ours else "") or UNPROVISIONED


def keep(system: System, config: DeviceConfig, name: str) -> None:
    """Keep a name for the next start. Raises: MeetingctlError."""
    system.write(ONVIF_NAME_JSON, json.dumps({"key": config.meeting_device_key, "name": name}))


def token_of(system: System, config: DeviceConfig) -> Secret:
    """Return the token code of this device; on a provisioned one meeting.json has it, and config.env only a mask."""
    if (token := config.meeting_token_code.reveal()) and token != _MASK:
        return config.meeting_token_code
    try:
        facts = json.loads(system.read(MEETING_JSON))
    except (MeetingctlError, OSError, ValueError, RecursionError):
        return Secret("")
    found = facts.get("token_code") if isinstance(facts, dict) else None
    return Secret(found if isinstance(found, str) and found != _MASK else "")


def ask_name(config: DeviceConfig, token: Secret) -> str:
    """Ask the API for the name; certificates are verified, redirects refused because they would carry the token.

    Raises: Unreachable, MeetingctlError when there is no name in the answer.
    """
    url = f"{config.meeting_api_url}/devices/{quote(config.meeting_device_key, safe='')}"
    headers = {"Accept": "application/json", "X-Token-Code": token.reveal()}
    try:
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 - the key allows http and https only
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=_TIMEOUT_S) as answer:
            body = json.loads(answer.read(_ANSWER_BYTES))
    except (OSError, ValueError, http.client.HTTPException, RecursionError) as exc:
        reason = getattr(exc, "reason", "") or type(exc).__name__
        raise Unreachable(f"the fleet API tells no name: {reason}", hint="meetingctl device config check") from exc
    if name := choose_name(body):
        return name
    raise MeetingctlError("the fleet API knows no name of this device")


def choose_name(body: Any) -> str:
    """Return the first name in an answer, empty without one."""
    device = body.get("device") if isinstance(body, dict) and isinstance(body.get("device"), dict) else body
    found = (_usable(device.get(name)) for name in _FIELDS) if isinstance(device, dict) else iter(())
    return next((name for name in found if name), "")


def pause_s(failures: int) -> float:
    """Return when to ask again: hourly after a success, else 30 s doubled up to an hour; spread a little."""
    plain_s = REFRESH_S if failures == 0 else min(_FIRST_RETRY_S * 2.0 ** min(failures - 1, 10), REFRESH_S)
    return plain_s * random.uniform(0.9, 1.1)  # noqa: S311 - a fleet should not ask in the same second


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Follow nothing: the answer with its 3xx is an error then."""


def _usable(value: object) -> str:
    text = str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""
    return text[:_LONGEST] if text.isprintable() else ""

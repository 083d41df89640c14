"""What programs on the device ask through the local socket: how the service is, and the relay that it holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from meetingctl.core.errors import InvalidInput
from meetingctl.device.onvif.effects import Effects
from meetingctl.device.onvif.pullpoint import Message

_STATES = {"on": True, "off": False}


Tell = Callable[[], dict[str, Any]]


def answer_line(effects: Effects, publish: Callable[[Message], None], tell: Tell, line: str) -> dict[str, Any]:
    """Answer one line of the socket: `status` with what `tell` says, `relay on|off|status` with token and state.

    Raises: InvalidInput, NotFound without a relay, MeetingctlError.
    """
    if line == "status":
        return tell()
    noun, _, wanted = line.partition(" ")
    if noun != "relay" or wanted not in {*_STATES, "status"}:
        raise InvalidInput("commands are status, relay on, relay off and relay status")
    if wanted in _STATES:
        effects.set_relay(_STATES[wanted], publish)
    relay = effects.relay()
    return {"token": relay.token, "state": "on" if relay.is_on else "off"}

"""What the web page and the command line ask through the local socket: the relay, which one process holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from meetingctl.core.errors import InvalidInput
from meetingctl.device.onvif.effects import Effects
from meetingctl.device.onvif.pullpoint import Message

_STATES = {"on": True, "off": False}


def answer_line(effects: Effects, publish: Callable[[Message], None], line: str) -> dict[str, Any]:
    """Answer one line of the socket (`relay on`, `relay off`, `relay status`) with the relay's token and state.

    Raises: InvalidInput, NotFound without a relay, MeetingctlError.
    """
    noun, _, wanted = line.partition(" ")
    if noun != "relay" or wanted not in {*_STATES, "status"}:
        raise InvalidInput("commands are relay on, relay off and relay status")
    if wanted in _STATES:
        effects.set_relay(_STATES[wanted], publish)
    relay = effects.relay()
    return {"token": relay.token, "state": "on" if relay.is_on else "off"}

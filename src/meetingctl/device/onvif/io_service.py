"""The Device IO service (tmd): the relay, and honest counts of everything else.

Its WSDL binds the relay operations to elements of the device service and Get*Sources to those of the media service, so
their rows stand under those namespaces too.
"""

from __future__ import annotations

import logging

from meetingctl.core.errors import MeetingctlError
from meetingctl.device.onvif.call import Call, Op, Table
from meetingctl.device.onvif.facts import Facts
from meetingctl.device.onvif.fault import action_failed, invalid_args, invalid_value
from meetingctl.device.onvif.soap import NAMESPACES, Node, text

log = logging.getLogger(__name__)


def counts_of(facts: Facts) -> dict[str, int]:
    """Return how many inputs and outputs there are of each kind."""
    return {
        "VideoSources": 1,
        "VideoOutputs": 0,
        "AudioSources": 1 if facts.has_audio else 0,
        "AudioOutputs": 0,
        "RelayOutputs": 1 if facts.has_relay else 0,
        "DigitalInputs": 0,
        "SerialPorts": 0,
    }


def get_relay_outputs(call: Call) -> Node:
    config = call.facts.config
    if not call.facts.has_relay:
        return ("tds:GetRelayOutputsResponse",)
    properties = (("tt:Mode", "Bistable"), ("tt:DelayTime", "PT0S"), ("tt:IdleState", "open"))
    relay = ("tds:RelayOutputs", {"token": config.relay_output_token}, ("tt:Properties", *properties))
    return ("tds:GetRelayOutputsResponse", relay)


def set_relay_output_state(call: Call) -> Node:
    token = text(call.body, "tds:RelayOutputToken")
    state = text(call.body, "tds:LogicalState")
    _check_relay(call, token)
    if state not in {"active", "inactive"}:
        raise invalid_args("LogicalState is active or inactive")
    try:
        call.effects.set_relay(state == "active", call.publish)
    except MeetingctlError as error:
        log.error("relay", extra={"error": error.message})
        raise action_failed("the relay cannot be switched") from error
    return ("tds:SetRelayOutputStateResponse",)


def get_relay_output_options(call: Call) -> Node:
    token = text(call.body, "tmd:RelayOutputToken", "")
    if token:
        _check_relay(call, token)
    if not call.facts.has_relay:
        return ("tmd:GetRelayOutputOptionsResponse",)
    mine = call.facts.config.relay_output_token
    return (
        "tmd:GetRelayOutputOptionsResponse",
        ("tmd:RelayOutputOptions", {"token": mine}, ("tmd:Mode", "Bistable")),
    )


def get_nothing(call: Call) -> Node:
    """Answer with an empty list: there is none of what was asked for."""
    return (f"{_prefix(call)}:{call.body.tag.rpartition('}')[2]}Response",)


def _prefix(call: Call) -> str:
    uri = call.body.tag[1:].partition("}")[0]
    return next(name for name, namespace in NAMESPACES.items() if namespace == uri)


def _check_relay(call: Call, token: str) -> None:
    if not call.facts.has_relay or token != call.facts.config.relay_output_token:
        raise invalid_value("RelayToken", f"there is no relay {token[:64]!r}")


TABLE: Table = {
    (NAMESPACES["tds"], "GetRelayOutputs"): Op(get_relay_outputs, "RM"),
    (NAMESPACES["tds"], "SetRelayOutputState"): Op(set_relay_output_state, "ACT", blocks=True),
    (NAMESPACES["tmd"], "GetRelayOutputOptions"): Op(get_relay_output_options, "PRE"),
    (NAMESPACES["tmd"], "GetDigitalInputs"): Op(get_nothing, "RS"),
    (NAMESPACES["tmd"], "GetVideoOutputs"): Op(get_nothing, "RM"),
    (NAMESPACES["trt"], "GetAudioOutputs"): Op(get_nothing, "RM"),
}

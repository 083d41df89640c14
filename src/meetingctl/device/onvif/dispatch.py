"""From the bytes of a request to the bytes of its answer: one table, one way. No sockets."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from meetingctl.core.errors import MeetingctlError
from meetingctl.device.onvif import (
    device_service,
    event_service,
    imaging_service,
    io_service,
    media2_service,
    media_service,
)
from meetingctl.device.onvif.auth import Caller, Gate
from meetingctl.device.onvif.call import Call, Op, Table
from meetingctl.device.onvif.effects import Effects
from meetingctl.device.onvif.facts import Facts
from meetingctl.device.onvif.fault import Fault, not_supported
from meetingctl.device.onvif.pullpoint import Message, Pull, PullPoints
from meetingctl.device.onvif.soap import NAMESPACES, Node, Request, envelope, parse_request

TABLE: Table = {
    **device_service.TABLE,
    **media_service.TABLE,
    **imaging_service.TABLE,
    **io_service.TABLE,
    **event_service.TABLE,
    **media2_service.TABLE,
}
# The port types of services whose actions are not `namespace/operation`.
_WSNT_ACTIONS = {
    "Renew": "http://docs.oasis-open.org/wsn/bw-2/SubscriptionManager/RenewResponse",
    "Unsubscribe": "http://docs.oasis-open.org/wsn/bw-2/SubscriptionManager/UnsubscribeResponse",
}
_EVENT_PORT_TYPES = {
    "PullMessages": "PullPointSubscription",
    "SetSynchronizationPoint": "PullPointSubscription",
}
_FAULT_ACTION = "http://www.w3.org/2005/08/addressing/soap/fault"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """The bytes and status of a response; `fault` is what was refused, None when all went well."""

    body: bytes
    status: int = 200
    fault: Fault | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """A request that may run: its operation and call, and how its answer is wrapped."""

    op: Op
    call: Call
    request: Request

    def run(self) -> Node | Pull:
        return self.op.handler(self.call)


class Service:
    """The operations of one daemon over its facts. Nothing here waits."""

    def __init__(self, effects: Effects, gate: Gate, points: PullPoints, publish: Callable[[Message], None]) -> None:
        self._effects, self._gate, self._points, self._publish = effects, gate, points, publish

    def admit(self, data: bytes, caller: Caller, facts: Facts, *, host: str, port: int, now_s: float) -> Ready:
        """Read a request, find its operation and check who calls. Raises: Fault."""
        if not data.strip() and facts.login is not None:
            # Clients on libcurl send an empty body first and wait to be asked for the login.
            self._gate.check_call("RS", facts.login, caller, None, now_s=now_s)
        request = parse_request(data)
        try:
            return self._admit(request, caller, facts, host=host, port=port, now_s=now_s)
        except Fault as fault:
            fault.relates_to = request.message_id
            raise

    def _admit(self, request: Request, caller: Caller, facts: Facts, *, host: str, port: int, now_s: float) -> Ready:
        op = TABLE.get((request.namespace, request.operation))
        if op is None or (request.namespace == NAMESPACES["tr2"] and not facts.conf.media2):
            # An unknown operation tells a stranger nothing either.
            self._gate.check_call("RS", facts.login, caller, request.header, now_s=now_s)
            raise not_supported(request.operation)
        authenticated = self._gate.check_call(op.access, facts.login, caller, request.header, now_s=now_s)
        call = Call(
            request.body,
            facts,
            self._effects,
            self._points,
            self._publish,
            host,
            port,
            caller.target.partition("?")[0],
            now_s,
            authenticated,
        )
        return Ready(op, call, request)


def write_answer(request: Request, node: Node) -> Answer:
    """Wrap the node of an operation."""
    return Answer(envelope(node, action=action_of(request), relates_to=request.message_id))


def write_fault(error: Exception, request: Request | None = None) -> Answer:
    """Wrap what was raised; only faults tell their reason, everything else is a fault of ours and goes to the log."""
    if isinstance(error, Fault):
        fault = error
    else:
        log.error("operation failed", exc_info=None if isinstance(error, MeetingctlError) else error)
        fault = Fault("Receiver", ("ter:Action",), "the operation failed")
    relates_to = request.message_id if request else fault.relates_to
    body = envelope(fault.node(), action=_FAULT_ACTION if relates_to else "", relates_to=relates_to)
    return Answer(body, fault.status, fault)


def action_of(request: Request) -> str:
    """Return the addressing action of an answer, empty where the service has none."""
    if request.namespace == NAMESPACES["wsnt"]:
        return _WSNT_ACTIONS.get(request.operation, "")
    if request.namespace == NAMESPACES["tev"]:
        port_type = _EVENT_PORT_TYPES.get(request.operation, "EventPortType")
        return f"{NAMESPACES['tev']}/{port_type}/{request.operation}Response"
    return ""

"""What a SOAP request is refused with: code, nested subcodes, reason, status."""

from __future__ import annotations

from meetingctl.core.errors import MeetingctlError

_SENDER_STATUS = 400
_RECEIVER_STATUS = 500


class Fault(MeetingctlError):
    """A SOAP fault. `subcodes` are qualified names, the outer one first; `detail` is a node or None."""

    def __init__(
        self, role: str, subcodes: tuple[str, ...], reason: str, *, detail: object = None, status: int | None = None
    ) -> None:
        super().__init__(reason)
        self.role = role
        self.subcodes = subcodes
        self.detail = detail
        self.relates_to = ""  # the message that is refused, where it has an id
        self.status = status or (_SENDER_STATUS if role == "Sender" else _RECEIVER_STATUS)

    def node(self) -> tuple[object, ...]:
        """Return the fault as a node of a body."""
        subcode: tuple[object, ...] | None = None
        for name in reversed(self.subcodes):
            subcode = ("s:Subcode", ("s:Value", name), subcode)
        return (
            "s:Fault",
            ("s:Code", ("s:Value", f"s:{self.role}"), subcode),
            ("s:Reason", ("s:Text", {"xml:lang": "en"}, self.message)),
            None if self.detail is None else ("s:Detail", self.detail),
        )


def not_authorized(reason: str = "the sender is not authorized", *, status: int = 400) -> Fault:
    return Fault("Sender", ("ter:NotAuthorized",), reason, status=status)


def not_supported(what: str) -> Fault:
    return Fault("Receiver", ("ter:ActionNotSupported",), f"{what[:100]} is not supported")


def invalid_args(reason: str) -> Fault:
    return Fault("Sender", ("ter:InvalidArgs",), reason)


def invalid_value(subcode: str, reason: str) -> Fault:
    """Refuse the value of an argument: NoProfile, ConfigModify, RelayToken and so on."""
    return Fault("Sender", ("ter:InvalidArgVal", f"ter:{subcode}"), reason)


def action_failed(reason: str, *subcodes: str) -> Fault:
    return Fault("Receiver", ("ter:Action", *(f"ter:{name}" for name in subcodes)), reason)

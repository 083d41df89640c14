"""Write down who was refused what: too low a role, another's build, a name that would lead out of its folder.

A client that repeats a refused call is written down once in a quarter of an hour, so that it cannot fill the log.
Refused credentials are not here: who presents one is nobody yet (`identity/credentials.py`).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from meetingctl.core.errors import Forbidden, MeetingctlError, NotYours, UnsafeName
from meetingctl.core.limits import FailureLimiter
from meetingctl.server.audit.chain import Actor, append

if TYPE_CHECKING:
    from fastapi import Request

WINDOW_S = 900.0
_NOTED = (Forbidden, NotYours, UnsafeName)
_LONGEST_OBJECT = 200


class Refusals:
    """Which refusals were written down lately."""

    def __init__(self) -> None:
        self._noted = FailureLimiter(limit=1, window_s=WINDOW_S)

    def is_news(self, caller: str, peer: str, call: str, now_s: float) -> bool:
        """Say whether this refusal has not been written down yet, and remember it."""
        subject = (caller, peer, call)
        if self._noted.has_failed(subject, now_s):
            return False
        self._noted.fail(subject, now_s)
        return True


def note_refusal(request: Request, error: MeetingctlError) -> None:
    """Write a refusal into the audit log without waiting for it; other errors are no refusals."""
    if not isinstance(error, _NOTED):
        return
    server, facts = request.app.state.server, request.scope["facts"]
    principal = getattr(request.state, "principal", None)
    caller = "anonymous" if principal is None else principal.name
    call = f"{request.method} {request.url.path}"[:_LONGEST_OBJECT]
    if server.refusals.is_news(caller, facts.peer, call, time.monotonic()):
        actor = Actor(caller, facts.peer, facts.request_id)
        reason = {"error": error.message}
        server.writer.post(lambda c: append(c, actor, "request.refuse", call, result="refused", after=reason))

"""Restart or switch off a device, and tell by the boot id that it came back."""

from __future__ import annotations

import asyncio
import random
import shlex
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from meetingctl.core.errors import HostKeyChanged, MeetingctlError
from meetingctl.core.layout import BOOT_ID_FILE
from meetingctl.remote.visit import Privilege, Visit

# The answer has to leave the device before its network goes down.
_LEAVE_S = 1
_PAUSE_S = (1.0, 3.0)

AskBootId = Callable[[], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Reboot:
    """A restart that was seen from both sides."""

    boot_id_before: str
    boot_id_after: str
    waited_s: float


async def read_boot_id(visit: Visit) -> str:
    """Return the id of the running boot. Raises: MeetingctlError."""
    boot_id = (await visit.ask(f"cat {BOOT_ID_FILE}")).strip()
    if not boot_id:
        raise MeetingctlError(f"{visit.target}: {BOOT_ID_FILE} is empty")
    return boot_id


async def begin_power_change(visit: Visit, verb: str) -> str:
    """Let the device restart (`reboot`) or switch itself off (`poweroff`); return the id of the boot that ends.

    Raises: AuthError when sudo refuses.
    """
    boot_id = await read_boot_id(visit)
    later = shlex.quote(f"sleep {_LEAVE_S}; exec systemctl {verb}")
    await visit.ask(f"nohup sh -c {later} </dev/null >/dev/null 2>&1 &", privilege=Privilege.needed)
    return boot_id


async def wait_for_boot(before: str, ask: AskBootId, *, within_s: float, target: str) -> Reboot:
    """Ask again and again until another boot id answers.

    Raises: MeetingctlError when it is not back in time; never Unreachable, for which everything would be begun again;
    HostKeyChanged.
    """
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    failure: MeetingctlError | None = None
    while (left_s := started_s + within_s - loop.time()) > 0:
        await asyncio.sleep(min(left_s, random.uniform(*_PAUSE_S)))  # noqa: S311 - spreads load, hides nothing
        try:
            async with asyncio.timeout_at(started_s + within_s):
                after = await ask()
        except HostKeyChanged:
            raise
        except TimeoutError:
            break
        except MeetingctlError as error:
            # Refused logins belong to a system that goes down or comes up.
            failure = error
            continue
        failure = None
        if after != before:
            return Reboot(before, after, loop.time() - started_s)
    if failure is None:
        raise MeetingctlError(f"{target}: did not restart within {within_s:g} s: the boot id is still {before}")
    raise MeetingctlError(f"{target}: not back within {within_s:g} s: {failure.message}", hint=failure.hint)

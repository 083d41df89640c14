"""Does a device do its work? One check each; what it found out is judged by pure functions.

A check is a row of `CHECKS`; others join by a row of their own.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncssh

from meetingctl.client import FleetClient
from meetingctl.core.clock import now_ms, parse_wire
from meetingctl.core.errors import MeetingctlError, Unreachable, UsageError
from meetingctl.core.layout import CACHE_DIR, ONVIF_UNIT, RECORDER_STATE_JSON, RECORDER_UNIT, RECOVERY_UNIT, UNITS
from meetingctl.core.target import DeviceTarget
from meetingctl.remote.parsers import parse_df, parse_number
from meetingctl.remote.services import UnitState, read_states
from meetingctl.remote.visit import SudoRefused, Visit

CHECK_S = 20.0
DESCRIBE_S = 10.0
START_S = 12.0  # what a unit of ours may take until it says that it is ready
LEAST_FREE_BYTES = 500 * 1024 * 1024
MOST_CLOCK_ERROR_S = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check came to; `ok` is None when it could not apply."""

    ok: bool | None
    detail: str


@dataclass(frozen=True, slots=True)
class Stream:
    """Where the stream of a device is; `describe` asks for it at a host and port and says what it consists of."""

    port: int
    describe: Callable[[str, int], str]


@dataclass(frozen=True, slots=True)
class Onvif:
    """Where the ONVIF service of a device is; `inspect` asks at a host and port what a recorder asks."""

    port: int
    inspect: Callable[[str, int], str]


@dataclass(frozen=True, slots=True)
class Round:
    """What the checks of one device may use; `fleet` is None when no server is known.

    `find_onvif` gives None where the service is switched off.
    """

    visit: Visit
    fleet: FleetClient | None
    find_stream: Callable[[Visit], Awaitable[Stream]]
    find_onvif: Callable[[Visit], Awaitable[Onvif | None]] | None = None


async def check_units(round_: Round) -> Finding:
    """Every unit that starts with the device is active, or was switched off in its configuration and ended well."""
    states = await _read_settled(round_.visit)
    ended = {state.unit for state in states if state.active == "inactive" and state.result == "success"}
    off = set()
    if RECORDER_UNIT in ended and await _is_recorder_off(round_.visit):
        off.add(RECORDER_UNIT)
    if ONVIF_UNIT in ended and round_.find_onvif is not None and await round_.find_onvif(round_.visit) is None:
        off.add(ONVIF_UNIT)
    return judge_units(states, off)


async def _read_settled(visit: Visit) -> list[UnitState]:
    """Ask for our units; those that are just starting are given some seconds."""
    until_s = time.monotonic() + START_S
    while True:
        states = await read_states(visit, UNITS)
        is_starting = any(state.is_enabled and state.active == "activating" for state in states)
        if not is_starting or time.monotonic() > until_s:
            return states
        await asyncio.sleep(1)


async def _is_recorder_off(visit: Visit) -> bool:
    """Say whether the recorder itself tells that RECORD_ENABLE is no."""
    answer = await visit.answer(f"cat {RECORDER_STATE_JSON}")
    try:
        state = json.loads(answer.stdout)
    except (ValueError, RecursionError):
        return False
    return isinstance(state, dict) and state.get("state") == "off"


async def check_disk(round_: Round) -> Finding:
    """There is space on the system's disk and on that of the recordings."""
    answer = await round_.visit.answer(f"LC_ALL=C df -P -k / {CACHE_DIR}")
    return judge_disks(parse_df(answer.stdout))


async def check_clock(round_: Round) -> Finding:
    """The clock of the device goes as ours does."""
    asked_s = time.time()
    there_s = parse_number(await round_.visit.ask("date +%s.%N"))
    return judge_clock(there_s, asked_s, time.time())


async def check_rtsp(round_: Round) -> Finding:
    """The stream describes itself to us: directly where the device is reached so, else through the SSH connection."""
    stream = await round_.find_stream(round_.visit)
    route, direct = round_.visit.route, None
    if route.way != "tunnel":
        try:
            return Finding(True, await asyncio.to_thread(stream.describe, route.host, stream.port))
        except Unreachable as error:
            direct = error
    listener = await round_.visit.connection.forward_local_port("127.0.0.1", 0, "127.0.0.1", stream.port)
    async with listener:
        try:
            found = await asyncio.to_thread(stream.describe, "127.0.0.1", listener.get_port())
        except Unreachable as error:
            # The port at our end of the connection says nothing to anybody.
            there = error.message.replace(f":{listener.get_port()}", f":{stream.port}")
            raise direct or Unreachable(there, hint=error.hint) from error
    return Finding(True, f"{found}; only through SSH, directly: {direct.message}" if direct else found)


async def check_agent(round_: Round) -> Finding:
    """The device's agent is connected to the tunnel server."""
    match round_.visit.target, round_.fleet:
        case DeviceTarget(key), FleetClient() as fleet:
            stats = await asyncio.to_thread(fleet.tunnel_stats, key)
            return judge_agent(key, stats.get("agents") or ())
    return Finding(None, "an address has no record in the fleet")


async def check_heartbeat(round_: Round) -> Finding:
    """The fleet has heard of the device not long ago."""
    match round_.visit.target, round_.fleet:
        case DeviceTarget(key), FleetClient() as fleet:
            return judge_heartbeat(await asyncio.to_thread(fleet.get_device, key), now_ms())
    return Finding(None, "an address has no record in the fleet")


async def check_onvif(round_: Round) -> Finding:
    """A recorder could add the camera: it connects, finds profiles and addresses, and pulls events.

    The service tells the address at which it was reached, so it must be reached directly.
    """
    states = await read_states(round_.visit, (ONVIF_UNIT,))
    if round_.find_onvif is None or not any(state.is_active for state in states):
        return Finding(None, f"{ONVIF_UNIT} does not run")
    if round_.visit.route.way == "tunnel":
        return Finding(None, "recorders reach the device directly, which is not possible from here")
    service = await round_.find_onvif(round_.visit)
    if service is None:
        return Finding(None, "switched off in onvif.conf")
    return Finding(True, await asyncio.to_thread(service.inspect, round_.visit.route.host, service.port))


CHECKS: Mapping[str, Callable[[Round], Awaitable[Finding]]] = {
    "units": check_units,
    "disk": check_disk,
    "clock": check_clock,
    "rtsp": check_rtsp,
    "onvif": check_onvif,
    "agent": check_agent,
    "heartbeat": check_heartbeat,
}


def choose_checks(only: str) -> tuple[str, ...]:
    """Read `--only rtsp,disk`; empty means all. Raises: UsageError for an unknown word."""
    words = tuple(word.strip() for word in only.split(",") if word.strip())
    if unknown := next((word for word in words if word not in CHECKS), None):
        raise UsageError(f"no check {unknown[:40]!r}", hint=f"--only {','.join(CHECKS)}")
    return tuple(name for name in CHECKS if name in words) or tuple(CHECKS)


async def run_checks(round_: Round, names: Sequence[str]) -> list[dict[str, Any]]:
    """Run checks one after another; each has a deadline, and a failure of one ends no other.

    Raises: SudoRefused at the first refusal.
    """
    rows = []
    for name in names:
        try:
            async with asyncio.timeout(CHECK_S):
                finding = await CHECKS[name](round_)
        except SudoRefused:
            raise
        except TimeoutError:
            finding = Finding(False, f"no answer within {CHECK_S:g} s")
        except (MeetingctlError, asyncssh.Error, OSError) as error:
            finding = Finding(False, str(error))
        rows.append({"check": name, "ok": finding.ok, "detail": finding.detail})
    return rows


def judge_units(states: Sequence[UnitState], off: Collection[str] = ()) -> Finding:
    """Pure. A unit that is not enabled, or one of `off`, need not run; whole words are compared."""
    installed = [state for state in states if state.is_installed and state.unit != RECOVERY_UNIT]
    wanted = [state for state in installed if state.is_enabled and state.unit not in off]
    if not installed:
        return Finding(False, "none of our units is installed")
    wrong = [f"{state.unit} is {state.active or 'unknown'}" for state in wanted if not state.is_active]
    if wrong:
        return Finding(False, ", ".join(wrong))
    if not wanted:
        return Finding(False, "none of our units is enabled")
    more = f"; switched off: {', '.join(sorted(off))}" if off else ""
    return Finding(True, f"{len(wanted)} enabled, all active{more}")


def judge_disks(disks: Sequence[Mapping[str, Any]]) -> Finding:
    """Pure."""
    if not disks:
        return Finding(False, "df tells of no disk")
    shown = ", ".join(f"{disk['mount']}: {disk['free_bytes'] // 2**20} MiB free" for disk in disks)
    return Finding(all(disk["free_bytes"] >= LEAST_FREE_BYTES for disk in disks), shown)


def judge_clock(there_s: float | None, asked_s: float, answered_s: float) -> Finding:
    """Compare a time on the device with when it was asked for and when the answer came, seconds since 1970. Pure.

    How long the question and the answer took is not held against the device.
    """
    if there_s is None:
        return Finding(False, "date tells no time")
    error_s = there_s - min(max(there_s, asked_s), answered_s)
    shown = "as ours" if abs(error_s) < 1 else f"{abs(error_s):.0f} s {'ahead' if error_s > 0 else 'behind'}"
    return Finding(abs(error_s) <= MOST_CLOCK_ERROR_S, shown)


def judge_agent(key: str, agents: Sequence[Mapping[str, Any]]) -> Finding:
    """Pure."""
    mine = [agent for agent in agents if agent.get("device_key") == key]
    return Finding(bool(mine), "connected" if mine else "not connected")


def judge_heartbeat(device: Mapping[str, Any], at_ms: int) -> Finding:
    """Judge the device's record by the status that the server gives it. Pure."""
    heard = device.get("last_heartbeat") or device.get("last_seen")
    if not heard:
        return Finding(False, "never heard of it")
    try:
        age_s = max(0, at_ms - parse_wire(str(heard))) // 1000
    except ValueError:
        return Finding(False, f"the record holds no time: {str(heard)[:40]!r}")
    return Finding(device.get("status") == "Available", f"{age_s} s ago, {device.get('status')}")

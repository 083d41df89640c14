"""From what an operator wrote to the list of devices it means."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from meetingctl.client import FleetClient
from meetingctl.core.errors import InvalidInput, NotFound, UsageError
from meetingctl.core.target import (
    AddressTarget,
    AllTarget,
    DeviceTarget,
    GroupTarget,
    StdinTarget,
    TagTarget,
    Target,
    parse_target,
)
from meetingctl.remote.seen import SeenDevices

MAX_TARGETS = 100_000


def parse_targets(texts: Iterable[str], read_lines: Callable[[], Iterable[str]]) -> list[Target]:
    """Read TARGETs; `-` stands for the lines of standard input, where blank lines and `#` comments do not count.

    Raises: InvalidInput naming the first text that is no target, and its line.
    """
    targets: list[Target] = []
    for text in texts:
        target = parse_target(text)
        targets.extend(_parse_lines(read_lines()) if isinstance(target, StdinTarget) else [target])
    return targets


def _parse_lines(lines: Iterable[str]) -> Iterator[Target]:
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        try:
            target = parse_target(text)
        except InvalidInput as exc:
            raise InvalidInput(f"standard input, line {number}: {exc.message}", hint=exc.hint) from exc
        if isinstance(target, StdinTarget):
            raise InvalidInput(f"standard input, line {number}: `-` inside the list")
        yield target
        if number > MAX_TARGETS:
            raise InvalidInput(f"standard input: over {MAX_TARGETS} lines")


def is_single(targets: Sequence[Target]) -> bool:
    """Say whether this is one device that the operator named."""
    return len(targets) == 1 and isinstance(targets[0], DeviceTarget | AddressTarget)


def expand_targets(
    targets: Sequence[Target], client: FleetClient | None, seen: SeenDevices | None = None
) -> list[Target]:
    """Replace selectors by the devices they stand for, each device once, in the order given.

    `client` may be None when only devices and addresses are named; `seen` keeps what the server says of the devices.
    Raises: NotFound for a selector without devices.
    """
    expanded: dict[Target, None] = {}
    for target in targets:
        if isinstance(target, DeviceTarget | AddressTarget):
            expanded[target] = None
            continue
        if client is None:
            raise UsageError(f"{target}: needs the fleet server", hint="meetingctl login")
        found = []
        for device in _devices(target, client):
            found.append(DeviceTarget(str(device["device_key"])))
            if seen is not None:
                seen.keep(device)
        if not found:
            raise NotFound(f"{target}: no device", hint="meetingctl fleet list")
        expanded |= dict.fromkeys(found)
    return list(expanded)


def _devices(target: Target, client: FleetClient) -> Iterable[dict[str, object]]:
    match target:
        case AllTarget():
            return client.list_devices()
        case TagTarget():
            # Not left to the server alone: one that does not know tags would answer with the whole fleet.
            return (row for row in client.list_devices(tag=target.tag) if target.tag in (row.get("tags") or ()))
        case GroupTarget():
            raise NotFound(f"{target}: there are no groups", hint=f"tag the devices and use tag:{target.group}")
        case _:
            raise InvalidInput(f"{target}: not a selector")

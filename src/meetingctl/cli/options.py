"""Options that several commands share, declared once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer

from meetingctl.core.duration import parse_duration_s
from meetingctl.core.errors import InvalidInput, UsageError

DryRun = Annotated[bool, typer.Option("--dry-run", help="show what would be done, and do nothing")]
Fields = Annotated[str, typer.Option("--fields", metavar="A,B", help="show these fields only", show_default=False)]
Filters = Annotated[
    list[str],
    typer.Option("--filter", metavar="KEY=VALUE", help="keep matching rows; * and ? match any text; repeatable"),
]
AcceptRisk = Annotated[
    list[str], typer.Option("--accept-risk", metavar="NAME", help="go on in spite of this risk, which a refusal names")
]
Watch = Annotated[bool, typer.Option("--watch", help="show it again every 2 s until Ctrl-C")]
Device = Annotated[str, typer.Argument(metavar="DEVICE", help="device key", show_default=False)]
Devices = Annotated[list[str], typer.Argument(metavar="DEVICE...", help="device keys", show_default=False)]


def parse_life_s(text: str, option: str) -> float:
    """Read how long something lives, in seconds. Raises: InvalidInput for less than a second."""
    life_s = parse_duration_s(text)
    if life_s < 1:
        raise InvalidInput(f"{option} {text}: shorter than 1 s", hint=f"use for example {option} 1h")
    return life_s


def need_risk(accepted: Iterable[str], name: str, danger: str) -> None:
    """Refuse a dangerous action until its risk is accepted by name; --yes is not enough. Raises: UsageError."""
    if name not in accepted:
        raise UsageError(danger, hint=f"add --accept-risk {name}")

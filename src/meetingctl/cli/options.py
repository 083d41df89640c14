"""Options that several commands share, declared once."""

from __future__ import annotations

from typing import Annotated

import typer

DryRun = Annotated[bool, typer.Option("--dry-run", help="show what would be done, and do nothing")]
Fields = Annotated[str, typer.Option("--fields", metavar="A,B", help="show these fields only", show_default=False)]
Filters = Annotated[
    list[str],
    typer.Option("--filter", metavar="KEY=VALUE", help="keep matching rows; * and ? match any text; repeatable"),
]
Watch = Annotated[bool, typer.Option("--watch", help="show it again every 2 s until Ctrl-C")]
Device = Annotated[str, typer.Argument(metavar="DEVICE", help="device key", show_default=False)]
Devices = Annotated[list[str], typer.Argument(metavar="DEVICE...", help="device keys", show_default=False)]

"""The command line: the only part that knows Typer and Rich. One file per noun; no logic."""

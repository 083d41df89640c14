"""Options that a decorator adds to a command: what Typer reads is a signature, put together here."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Sequence
from typing import Any, get_type_hints

import typer


def parameters_of(holder: Callable[..., Any], without: Collection[str] = ()) -> list[inspect.Parameter]:
    """Return the declarations of a function as options that are given by name."""
    hints = get_type_hints(holder, include_extras=True)
    return [
        parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in inspect.signature(holder).parameters.items()
        if name not in without
    ]


def declare_command(
    body: Callable[..., Any], call: Callable[..., Any], parameters: Sequence[inspect.Parameter]
) -> Callable[..., Any]:
    """Return a command with the name and help of `body` and these parameters; `call` gets the context and values."""

    @functools.wraps(body)
    def command(ctx: typer.Context, **values: Any) -> Any:
        return call(ctx, values)

    context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    declared = [context, *parameters]
    vars(command)["__signature__"] = inspect.Signature(declared)
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in declared}
    return command

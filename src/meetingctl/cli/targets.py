"""One action on several things: what failed on one does not stop the others, and the exit code says how it went."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from meetingctl.cli.invocation import Invocation
from meetingctl.core.errors import AuthError, MeetingctlError, SomeFailed, Unreachable


def fold_exit_code(errors: Sequence[MeetingctlError | None]) -> int:
    """Choose one exit code for many results: 0 when all went well, 3 when some failed, else what they share or 1."""
    failed = [error for error in errors if error is not None]
    if not failed:
        return 0
    if len(failed) < len(errors):
        return SomeFailed.exit_code
    codes = {error.exit_code for error in failed}
    return codes.pop() if len(codes) == 1 else 1


def for_each(
    run: Invocation, word: str, names: Sequence[str], act: Callable[[str], object], *, dry_run: bool = False
) -> int:
    """Do one thing for each name, print a row each, return the exit code. In a dry run `act` only looks.

    A refused credential or an absent server ends the run, because it would fail the same way for all.
    """
    rows: list[dict[str, Any]] = []
    errors: list[MeetingctlError | None] = []
    for name in dict.fromkeys(names):
        error = None
        try:
            act(name)
        except (AuthError, Unreachable):
            raise
        except MeetingctlError as caught:
            error = caught
        errors.append(error)
        if dry_run and run.out.is_json:
            rows.append(plan_of(word, name, would_change=error is None) | _reason(error))
        else:
            rows.append({"name": name, "result": _result(word, error, dry_run), **_reason(error)})
    if len(rows) == 1 and errors[0] is not None:
        raise errors[0]
    run.out.rows(rows, ("name", "result", "error"), empty=f"nothing to {word}")
    return fold_exit_code(errors)


def plan_of(action: str, name: str, *, would_change: bool = True, **details: object) -> dict[str, Any]:
    """Return what every dry run says in JSON; `details` follow the four common keys."""
    return {"dry_run": True, "action": action, "object": name, "would_change": would_change, **details}


def tell_plan(run: Invocation, action: str, name: str, *, would_change: bool = True, **details: object) -> None:
    """Say what a command would do: `would ACTION NAME` on stderr, or the plan as JSON."""
    if run.out.is_json:
        run.out.value(plan_of(action, name, would_change=would_change, **details))
    else:
        run.out.note(f"would {action} {name}" if would_change else f"nothing to {action}: {name}")


def _result(word: str, error: MeetingctlError | None, dry_run: bool) -> str:
    if error is not None:
        return "failed"
    return f"would {word}" if dry_run else "ok"


def _reason(error: MeetingctlError | None) -> dict[str, str | None]:
    return {"error": None if error is None else error.message}

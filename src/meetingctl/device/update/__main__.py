"""`python3 -m meetingctl.device.update apply|check|status|rollback|list`, also straight from the wheel in a package."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from meetingctl.core.errors import MeetingctlError
from meetingctl.core.plan import as_rows
from meetingctl.device.system import System
from meetingctl.device.update.check import judge_package, plan_update
from meetingctl.device.update.job import Options, apply_package, plan_rollback, roll_back, settle_device
from meetingctl.device.update.releases import list_releases
from meetingctl.device.update.status import read_status


def main(argv: list[str]) -> int:
    """Run one verb; the exit codes are those of the command line."""
    options = _parser().parse_args(argv)
    system = System(options.root.resolve())
    try:
        value, code = _run(system, options)
    except MeetingctlError as error:
        if options.json:
            print(
                json.dumps({"ok": False, "error": {"code": error.code, "message": error.message, "hint": error.hint}})
            )
        else:
            print(f"error: {error.message}", file=sys.stderr)
            if error.hint:
                print(f"\nhint: {error.hint}", file=sys.stderr)
        return error.exit_code
    if options.json:
        print(json.dumps(value, indent=2))
    else:
        for row in value if isinstance(value, list) else [value]:
            print("\t".join(f"{name}={_text(item)}" for name, item in row.items()))
    return code


def _run(system: System, options: argparse.Namespace) -> tuple[Any, int]:
    def tell(text: str) -> None:
        if not options.json:
            print(text, file=sys.stderr, flush=True)

    match options.verb:
        case "check":
            record = judge_package(system, options.package, force=options.force).as_record()
            return record, 0 if record["ok"] else 1
        case "apply":
            if options.dry_run:
                verdict = judge_package(system, options.package, force=options.force)
                verdict.findings.refuse_errors(options.package.name)
                reboot = not options.no_reboot and verdict.as_record()["requires_reboot"]
                flags = {"restart": not options.no_restart, "reset_settings": options.reset_settings}
                return as_rows(plan_update(system, verdict, reboot=reboot, **flags)), 0
            wanted = Options(options.force, not options.no_restart, not options.no_reboot, options.reset_settings)
            return apply_package(system, options.package, wanted, tell), 0
        case "rollback":
            if options.dry_run:
                back = plan_rollback(system)
                return {"from": back.origin, "to": back.target}, 0
            return roll_back(system, tell), 0
        case "settle":
            return {"done": settle_device(system, tell)}, 0
        case "list":
            return [release.as_row() for release in list_releases(system)], 0
    return read_status(system), 0


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--root", type=Path, default=Path("/"), metavar="DIR", help="the device's file system lies here"
    )
    common.add_argument("--json", action="store_true", help="write JSON")
    parser = argparse.ArgumentParser(prog="python3 -m meetingctl.device.update", description="Updates of this device.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name, text in (("check", "judge a package"), ("apply", "apply a package")):
        verb = verbs.add_parser(name, help=text, parents=[common])
        verb.add_argument("package", type=Path, metavar="FILE|DIR")
        verb.add_argument("--force", action="store_true", help="also when this version is installed")
    for flag, text in (
        ("--no-restart", "restart nothing"),
        ("--no-reboot", "do not reboot, whatever the package says"),
        ("--reset-settings", "begin with an empty configuration; the former one is kept"),
        ("--dry-run", "show what would be done"),
    ):
        verb.add_argument(flag, action="store_true", help=text)
    verbs.add_parser("status", help="how the last update went, or goes", parents=[common])
    back = verbs.add_parser("rollback", help="return to the former version", parents=[common])
    back.add_argument("--dry-run", action="store_true", help="show what would be done")
    verbs.add_parser("settle", help="end what an interrupted update left", parents=[common])
    verbs.add_parser("list", help="the releases on this device", parents=[common])
    return parser


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

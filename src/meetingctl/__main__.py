"""Where the command begins, as `meetingctl` and as `python -m meetingctl`: nothing is loaded before Ctrl-C is heard."""

from __future__ import annotations

EXIT_INTERRUPTED = 130


def main() -> None:
    """Load the command line, run it, and exit with its code; an interrupt while it loads ends it without a word."""
    try:
        from meetingctl.cli.main import main as run_command_line

        run_command_line()
    except KeyboardInterrupt:
        raise SystemExit(EXIT_INTERRUPTED) from None


if __name__ == "__main__":
    main()

"""How long `meetingctl --help` takes, against `import typer` alone: CPU seconds of child processes, in turns.

    python bench/help_time.py [ROUNDS]

Prints medians and their ratio. The ratio is the figure to compare; the times depend on the machine.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys

CONTESTANTS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import typer": [sys.executable, "-c", "import typer"],
    "meetingctl --help": [sys.executable, "-m", "meetingctl", "--help"],
}


def cpu_s(argv: list[str]) -> float:
    """Run one child and return its user and system time in seconds."""
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{argv}: exit code {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def measure(rounds: int) -> dict[str, list[float]]:
    """Run every contestant once per round, in reverse order on odd rounds; the first round only warms up."""
    times: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    for number in range(rounds + 1):
        names = list(CONTESTANTS)[:: -1 if number % 2 else 1]
        for name in names:
            spent_s = cpu_s(CONTESTANTS[name])
            if number:
                times[name].append(spent_s)
    return times


def main() -> None:
    medians = {name: statistics.median(spent) for name, spent in measure(int((sys.argv[1:] or ["15"])[0])).items()}
    for name, median_s in medians.items():
        print(f"{name:<20}{median_s * 1000:7.1f} ms CPU")
    ratio = medians["meetingctl --help"] / medians["import typer"]
    print(f"meetingctl --help costs {ratio:.2f} times `import typer`")


if __name__ == "__main__":
    main()

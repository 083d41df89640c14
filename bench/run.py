"""Run every benchmark beside this file, one after the other; end with 1 when a claim does not hold.

    python bench/run.py [NAME ...] [-- OPTIONS]

Each file stands for one claim, prints ratios rather than bare times, and can be run alone.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def main(arguments: list[str]) -> int:
    names, _, options = " ".join(arguments).partition("--")
    chosen = names.split() or sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "run")
    failed = []
    for name in chosen:
        print(f"== {name}", flush=True)
        if subprocess.run([sys.executable, FOLDER / f"{name}.py", *options.split()], check=False).returncode:
            failed.append(name)
    if failed:
        print(f"does not hold: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Ctrl-C while the program still loads: the exit code of an interrupt, and not a word."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Python loads this before anything else: the import of one module then waits to be interrupted, and says so.
SLOW_IMPORT = """
import pathlib, sys, time
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            pathlib.Path({mark!r}).touch()
            time.sleep(60)
sys.meta_path.insert(0, Slow())
"""


def console_script() -> list[str]:
    """Return what the installed command does, whatever is installed here."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["meetingctl"]
    module, _, function = declared.partition(":")
    return ["-c", f"import sys; from {module} import {function}; sys.exit({function}())"]


@contextmanager
def loading(tmp_path: Path, start: list[str], *args: str, module: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the program up to the import of a module."""
    mark = tmp_path / "loading"
    (tmp_path / "sitecustomize.py").write_text(SLOW_IMPORT.format(module=module, mark=str(mark)))
    env = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)}
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, *start, *args], env=env, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe
    )
    try:
        deadline_s = time.monotonic() + 30
        while not mark.exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline_s, f"{module} was never loaded"
            time.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("start", [console_script(), ["-m", "meetingctl"]], ids=["script", "module"])
@pytest.mark.parametrize(
    ("module", "args"),
    [
        ("meetingctl.cli.main", ("--version",)),
        ("typer", ("fleet", "list")),
        ("meetingctl.cli.tree", ("remote", "run", "cam-7", "--", "true")),
        ("meetingctl.cli.completion_tree", ("completion", "show", "bash")),
    ],
)
def test_an_interrupt_while_it_loads(tmp_path: Path, start: list[str], module: str, args: tuple[str, ...]) -> None:
    with loading(tmp_path, start, *args, module=module) as process:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, b"", b"")


def test_both_ways_to_start_do_the_same(tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    for args in (["--version"], ["completion", "show", "bash"], ["no-such-command"]):
        done = [
            subprocess.run([sys.executable, *start, *args], env=env, capture_output=True, timeout=60)
            for start in (console_script(), ["-m", "meetingctl"])
        ]
        assert [one.stdout for one in done] == [done[0].stdout] * 2
        assert [one.returncode for one in done] == [2 if args == ["no-such-command"] else 0] * 2

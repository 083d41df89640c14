"""Run `meetingctl` through `main()`, in this process or in its own, with an environment that holds nothing else."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from meetingctl.cli.main import main


@dataclass(frozen=True)
class Result:
    """What one command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Stream(io.StringIO):
    """A text stream that may say it is a terminal."""

    def __init__(self, text: str = "", *, is_terminal: bool = False) -> None:
        super().__init__(text)
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


@dataclass
class Cli:
    """The command line of somebody with an empty home."""

    home: Path
    env: dict[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        root = self.home / "root"
        return {"HOME": str(self.home), "PATH": os.environ["PATH"], "MEETINGCTL_ROOT": str(root), **self.env}

    def __call__(self, *args: str, stdin: str = "", terminal: bool = False, asks: bool = False) -> Result:
        """Run `main()` here. `terminal`: stdout is one; `asks`: somebody sits at stdin and stderr."""
        out, err = Stream(is_terminal=terminal), Stream(is_terminal=terminal or asks)
        root = logging.getLogger()
        handlers, level = root.handlers[:], root.level
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["meetingctl", *args])
            patch.setattr(sys, "stdin", Stream(stdin, is_terminal=asks))
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            patch.setattr(os, "environ", self.environment())
            try:
                with pytest.raises(SystemExit) as left:
                    main()
            finally:
                root.handlers[:] = handlers
                root.setLevel(level)
        code = left.value.code
        return Result(code if isinstance(code, int) else 0, out.getvalue(), err.getvalue())

    def process(self, *args: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run the command as a program of its own."""
        argv = [sys.executable, "-m", "meetingctl", *args]
        return subprocess.run(argv, env=self.environment(), capture_output=True, text=True, timeout=60, **more)

"""Fixtures that every area shares."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

import pytest


@pytest.fixture(scope="session")
def require_program() -> Callable[..., str]:
    """Return a function that finds a program, and skips the test without it; under CI=true it fails instead."""

    def require(name: str, *, package: str | None = None) -> str:
        path = shutil.which(name)
        if path is None:
            reason = f"needs {name}: apt install {package or name}"
            if os.environ.get("CI") == "true":
                pytest.fail(reason)
            pytest.skip(reason)
        return path

    return require

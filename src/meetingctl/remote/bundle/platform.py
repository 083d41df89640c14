"""The device that a package is built for: its Python and its architecture, in the words of pip and of markers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import MappingProxyType

from meetingctl.core.errors import InvalidInput

# Debian's name -> that of wheels and of `uname -m`.
ARCHITECTURES = MappingProxyType({"arm64": "aarch64", "armhf": "armv7l", "amd64": "x86_64"})
# glibc of the Debian release that has this Python; wheels for a newer one would not load.
_GLIBC_MINOR = MappingProxyType({"3.11": 36, "3.13": 41})
_OLDEST_GLIBC_MINOR = 17
_FALLBACK_GLIBC_MINOR = 36
_OLDEST_PYTHON = (3, 11)


@dataclass(frozen=True, slots=True)
class Platform:
    """`python` is major and minor (3.13), `architecture` a name of Debian."""

    python: str
    architecture: str

    def __post_init__(self) -> None:
        """Check both. Raises: InvalidInput."""
        if not re.fullmatch(r"3\.[0-9]{1,2}", self.python) or self._python_numbers < _OLDEST_PYTHON:
            raise InvalidInput(f"no Python that devices have: {self.python[:20]!r}", hint="use for example 3.13")
        if self.architecture not in ARCHITECTURES:
            raise InvalidInput(
                f"no architecture {self.architecture[:20]!r}", hint=f"use one of {', '.join(ARCHITECTURES)}"
            )

    @property
    def _python_numbers(self) -> tuple[int, int]:
        major, minor = self.python.split(".")
        return int(major), int(minor)

    @property
    def machine(self) -> str:
        return ARCHITECTURES[self.architecture]

    def pip_options(self) -> list[str]:
        """Return the options that make pip download for this device instead of for this machine."""
        newest = _GLIBC_MINOR.get(self.python, _FALLBACK_GLIBC_MINOR)
        tags = [f"manylinux_2_{minor}_{self.machine}" for minor in range(newest, _OLDEST_GLIBC_MINOR - 1, -1)]
        tags += [f"manylinux2014_{self.machine}", f"linux_{self.machine}"]
        abis = [f"cp{self.python.replace('.', '')}", "abi3", "none"]
        return [
            "--only-binary=:all:",
            "--implementation=cp",
            f"--python-version={self.python}",
            *(f"--platform={tag}" for tag in tags),
            *(f"--abi={abi}" for abi in abis),
        ]

    def markers(self) -> dict[str, str]:
        """Return the environment that the markers of requirements are judged by; of the kernel nothing is known."""
        return {
            "implementation_name": "cpython",
            "implementation_version": f"{self.python}.0",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": "linux",
        }

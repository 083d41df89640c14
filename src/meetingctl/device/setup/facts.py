"""What was found on a device before anything is decided; plain values, so that a table of JSON can stand for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

PackageState = Literal["installed", "missing", "unavailable"]


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or folder. `owner` is `user:group`, empty where the device's names cannot be read."""

    kind: Literal["file", "folder", "link", "other"]
    mode: int
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Shipped:
    """A file of the release and its place on the device: whether something stands there, and whether it is the same."""

    source: str
    is_there: bool
    is_same: bool
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class UnitFact:
    """What systemd says of a unit, in its own words."""

    load: str = "not-found"
    enabled: str = ""
    active: str = "inactive"

    @property
    def is_installed(self) -> bool:
        return self.load not in {"", "not-found"}

    @property
    def is_enabled(self) -> bool:
        return self.enabled == "enabled"

    @property
    def is_masked(self) -> bool:
        return self.load == "masked" or self.enabled == "masked"


@dataclass(frozen=True, slots=True)
class Cloud:
    """cloud-init: which modules that set a name are on, whether our file is in place, whether it remembers a name."""

    modules_on: tuple[str, ...] = ()
    has_dropin: bool = True
    remembers_name: bool = False


@dataclass(frozen=True, slots=True)
class Camera:
    """What is configured and what was found. `kind` is usb or csi, empty without one or when nobody looked."""

    is_looked_for: bool = False
    kind: Literal["", "usb", "csi"] = ""
    device: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """One look at a device. None stands for what could not be read; `unreadable` says why, a sentence each."""

    is_live: bool = True  # else only files are looked at: a folder is not the machine that this runs on
    is_booted: bool = True  # else no systemd runs, as in a container, and there are no units to look at
    unfinished_update: str = ""
    version: str = ""
    has_program: bool = False
    folders: Mapping[str, Entry | None] = field(default_factory=dict)
    files: Mapping[str, Entry | None] = field(default_factory=dict)
    shipped: Mapping[str, Shipped] = field(default_factory=dict)
    systemd_answers: bool = True
    udev_runs: bool = True
    units: Mapping[str, UnitFact] = field(default_factory=dict)
    needs_reload: bool = False
    packages: Mapping[str, PackageState] = field(default_factory=dict)
    dpkg_is_broken: bool = False
    elements: Mapping[str, bool] = field(default_factory=dict)
    cloud: Cloud | None = None
    groups: tuple[str, ...] = ()
    memberships: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    wants_agent: bool | None = False
    is_access_point: bool = False
    camera: Camera = Camera()
    unreadable: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the facts as JSON; `from_json` reads them back."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read facts; what is left out has its default. Modes are numbers, or text such as "0640"."""
        nested = {
            "folders": _each(_entry),
            "files": _each(_entry),
            "shipped": _each(lambda value: Shipped(**value)),
            "units": _each(lambda value: UnitFact(**value)),
            "cloud": lambda value: value and Cloud(**{**value, "modules_on": tuple(value.get("modules_on", ()))}),
            "camera": lambda value: Camera(**value),
            "groups": tuple,
            "memberships": _each(tuple),
            "unreadable": tuple,
        }
        return cls(**{name: nested.get(name, lambda value: value)(value) for name, value in values.items()})


def _each(read: Any) -> Any:
    return lambda values: {name: read(value) for name, value in values.items()}


def _entry(value: Mapping[str, Any] | None) -> Entry | None:
    if value is None:
        return None
    mode = value["mode"]
    return Entry(value["kind"], int(mode, 8) if isinstance(mode, str) else mode, value.get("owner", ""))

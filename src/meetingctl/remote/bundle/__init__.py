"""Build the update package of a camera: the program, what it needs, units and rules, for one kind of device."""

from meetingctl.remote.bundle.build import RESTARTED_UNITS, Recipe, Sources, build_bundle, find_sources
from meetingctl.remote.bundle.platform import ARCHITECTURES, Platform

__all__ = ["ARCHITECTURES", "RESTARTED_UNITS", "Platform", "Recipe", "Sources", "build_bundle", "find_sources"]

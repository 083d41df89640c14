"""Refusals of the updates slice that have a code of their own in the admin family."""

from __future__ import annotations

from meetingctl.core.errors import Conflict, InvalidInput, UnsafeName


class HarmfulArchive(UnsafeName):
    """The archive would harm a device that unpacks it."""


class HashMismatch(InvalidInput):
    """The archive is not the one that the manifest describes."""

    code = "sha256_mismatch"


class ChannelExists(Conflict):
    """A channel of this name is there."""

    code = "channel_exists"


class VersionExists(Conflict):
    """The version is published with other bytes."""

    code = "version_exists"

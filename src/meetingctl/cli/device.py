"""`device`: this machine is the camera."""

from __future__ import annotations

from meetingctl.cli import device_config
from meetingctl.cli.tree import Noun

app = Noun()
app.add("config", device_config.app, "Read, change and check config.env.")

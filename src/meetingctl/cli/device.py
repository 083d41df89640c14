"""`device`: this machine is the camera."""

from __future__ import annotations

from meetingctl.cli import (
    device_check,
    device_config,
    device_onvif,
    device_record,
    device_services,
    device_status,
    device_stream,
    device_update,
    device_watchdog,
)
from meetingctl.cli.tree import Noun

app = Noun()
app.add("config", device_config.app, "Read, change and check config.env.")
app.add("stream", device_stream.app, "Serve the camera over RTSP.")
app.add("record", device_record.app, "Record the stream and look after the recordings.")
app.add("onvif", device_onvif.app, "Serve the camera to recorders over ONVIF.")
app.add("watchdog", device_watchdog.app, "Restart what hangs on this camera.")
app.add("services", device_services.app, "See, start and stop the units of this camera.")
app.add("update", device_update.app, "Apply a package to this camera, and go back.")
app.command("status")(device_status.show_status)
app.command("check")(device_check.check_device)

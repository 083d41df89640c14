"""How a camera is set up: folders, modes, files of the release, units and packages, as tables.

Source: the install script and the layout of the device operations contract; modes are stricter where a file holds a
secret.
"""

from __future__ import annotations

from types import MappingProxyType

from meetingctl.core import layout

# Folder -> mode; the owner is root, the group the web page's. The same as packaging/tmpfiles.d.
FOLDERS = MappingProxyType(
    {
        layout.CONFIG_DIR: 0o775,
        layout.LOG_DIR: 0o755,
        layout.CACHE_DIR: 0o755,
        layout.RECORDINGS_DIR: 0o755,
        layout.THUMBNAILS_DIR: 0o755,
        layout.RUN_DIR: 0o755,
        layout.STATE_DIR: 0o755,
    }
)

# Configuration file -> (widest mode that is left alone, mode that it gets otherwise). All may hold a secret.
CONFIG_MODES = MappingProxyType(
    {
        layout.CONFIG_ENV: (0o660, 0o640),
        layout.RECORDER_CONF: (0o660, 0o640),
        layout.WIFI_FAILOVER_JSON: (0o660, 0o640),
        layout.AP_MODE_JSON: (0o660, 0o640),
        layout.ONVIF_CONF: (0o600, 0o600),
        layout.MEETING_JSON: (0o600, 0o600),
    }
)

# Where a release brings what `core.layout.PACKAGED_DIRS` says.
PACKAGING_DIR = f"{layout.WEB_DIR}/packaging"
# Its programs for /usr/local/bin, as `device update` unpacked them.
PROGRAMS_DIR = f"{layout.WEB_DIR}/{layout.RELEASE_FACTS_DIR_NAME}/system{layout.BIN_DIR}"
NEW_CONFIG_MODE = 0o640

# The parts of the original's installer, in its order, and the units of each; the agent is ours.
COMPONENTS = MappingProxyType(
    {
        "gstreamer": (),
        "rtsp": (layout.STREAM_UNIT, layout.RECOVERY_UNIT),
        "recorder": (layout.RECORDER_UNIT,),
        "webui": (layout.WEB_UNIT,),
        "onvif": (layout.ONVIF_UNIT,),
        "watchdog": (layout.WATCHDOG_UNIT,),
        "agent": (layout.TUNNEL_AGENT_UNIT,),
    }
)
# What udev starts for a moment is never enabled.
NEVER_ENABLED = frozenset({layout.RECOVERY_UNIT})

# Units of the distribution. An access point is started by our own code when it is wanted, and never at boot.
AVAHI_UNIT = "avahi-daemon"
ACCESS_POINT_UNITS = ("hostapd", "dnsmasq")

# User -> groups that it is to be in, where both exist.
MEMBERSHIPS = MappingProxyType({layout.DEVICE_USER: ("audio", "systemd-journal", "video", layout.WEB_GROUP)})

# Elements without which no camera is streamed; others are only needed for some configurations.
ELEMENTS = ("v4l2src", "videotestsrc", "h264parse", "rtph264pay", "x264enc")

# Modules of cloud-init that would give the device another name at the next boot.
CLOUD_MODULES = ("set_hostname", "update_hostname", "update_etc_hosts")
CLOUD_DROPIN_TEXT = "# The name of a camera is that of its records: it is not set at each boot.\n" + (
    "preserve_hostname: true\nmanage_etc_hosts: false\n"
)
NEW_CONFIG_TEXT = "# Settings of this camera: meetingctl device config list\n"

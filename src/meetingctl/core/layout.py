"""Every path, port and unit name on a device, in one place.

Paths are written as the device sees them (`/etc/rpi-cam/config.env`); `below(root, path)` moves them under the root of
the moment, so that the whole device side also runs in a folder or a chroot. Names are those of the systems in the
field, so their tools, units and files stay valid. Source: seed 002 section 4 and the contract of the device operations.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from meetingctl.core.errors import InvalidInput

# Configuration. The folder is root:www-data 0775; files that hold a secret are 0640 or 0600.
CONFIG_DIR = "/etc/rpi-cam"
CONFIG_ENV = f"{CONFIG_DIR}/config.env"
RECORDER_CONF = f"{CONFIG_DIR}/recorder.conf"  # read only while config.env is absent
ONVIF_CONF = f"{CONFIG_DIR}/onvif.conf"
MEETING_JSON = f"{CONFIG_DIR}/meeting.json"
WIFI_FAILOVER_JSON = f"{CONFIG_DIR}/wifi_failover.json"
AP_MODE_JSON = f"{CONFIG_DIR}/ap_mode.json"
CAMERA_PROFILES_JSON = f"{CONFIG_DIR}/camera_profiles.json"
CSI_TUNING_JSON = f"{CONFIG_DIR}/csi_tuning.json"
LOCKED_RECORDINGS_JSON = f"{CONFIG_DIR}/locked_recordings.json"
RTC_CONFIG_JSON = f"{CONFIG_DIR}/rtc_config.json"
DEBUG_STATE_JSON = f"{CONFIG_DIR}/debug_state.json"
REBOOT_SCHEDULE_JSON = f"{CONFIG_DIR}/reboot_schedule.json"
UPDATE_KEY = f"{CONFIG_DIR}/update_key.pub"  # ed25519 in PEM; only packages that it signed are taken
LOCALES_DIR = f"{CONFIG_DIR}/locales"
WIFI_SIMPLE_JSON = "/var/lib/rpi-cam/wifi_simple.json"

# Programs.
WEB_DIR = "/opt/rpi-cam-webmanager"
WEB_RELEASES_DIR = f"{WEB_DIR}.releases"
WEB_STAGING_DIR = f"{WEB_DIR}.staging"  # packages that an operator puts together, each in a folder of its own
VERSION_FILE = f"{WEB_DIR}/VERSION"
DEPENDENCIES_JSON = f"{WEB_DIR}/DEPENDENCIES.json"
REQUIREMENTS_TXT = f"{WEB_DIR}/requirements.txt"
PROGRAM = f"{WEB_DIR}/venv/bin/meetingctl"  # what the units start; WEB_DIR is a link to one of the releases
RELEASE_FACTS_DIR_NAME = ".release"  # in each release: where it came from, and what it replaced
BIN_DIR = "/usr/local/bin"
UNIT_DIR = "/etc/systemd/system"

# Where the folders below `packaging/` of a release go.
PACKAGED_DIRS = {
    "systemd": UNIT_DIR,
    "udev": "/etc/udev/rules.d",
    "tmpfiles.d": "/etc/tmpfiles.d",
    "logrotate.d": "/etc/logrotate.d",
}

# Data.
CACHE_DIR = "/var/cache/rpi-cam"
RECORDINGS_DIR = f"{CACHE_DIR}/recordings"  # the default of RECORD_DIR
LIVE_SEGMENTS_NAME = ".live"  # below RECORD_DIR: the segment being written
THUMBNAILS_DIR = f"{CACHE_DIR}/thumbnails"
MEDIA_CACHE_DB = f"{CACHE_DIR}/media_cache.db"
ONVIF_NAME_JSON = f"{CACHE_DIR}/onvif-name.json"  # the last good name of this device

# Logs; the folder is the default of LOG_DIR.
LOG_DIR = "/var/log/rpi-cam"
STREAM_LOG_NAME = "rpi_av_rtsp_recorder.log"
RECORDER_LOG_NAME = "rtsp_recorder.log"
WATCHDOG_LOG_NAME = "rtsp_watchdog.log"
DNSMASQ_LOG = f"{LOG_DIR}/dnsmasq.log"
UPDATE_LOG = f"{LOG_DIR}/update_from_file.log"

# Sockets and facts that daemons on the device share; gone after a reboot.
RUN_DIR = "/run/rpi-cam"
STREAM_STATE_SOCKET = f"{RUN_DIR}/stream.sock"
ONVIF_SOCKET = f"{RUN_DIR}/onvif.sock"  # for the web page and the command line: state and relay
RECORDER_STATE_JSON = f"{RUN_DIR}/recorder.json"  # what the recorder does; see device/recorder/progress.py
RECORDER_INPUT = f"{RUN_DIR}/recorder-input.ffconcat"  # the address for ffmpeg, a password included; 0600
# {"host", "port", "path"} of the RTSP listener without a password; 0600.
STREAM_LOCAL_JSON = f"{RUN_DIR}/stream-local.json"
RPICAM_OVERLAY_JSON = f"{RUN_DIR}/rpicam-overlay.json"  # the text that rpicam-vid draws
ENCODER_TRIAL_JSON = f"{RUN_DIR}/encoder-trial.json"  # results are good until the next boot

# State of jobs and schedulers; the originals kept these three in /tmp.
STATE_DIR = "/run/meetingctl"
ONVIF_TOKENS = f"{STATE_DIR}/onvif-tokens"  # digests of tokens that were used; 0600
SCHEDULER_STATE_JSON = f"{STATE_DIR}/scheduler-state.json"
WATCHDOG_STATE_JSON = f"{STATE_DIR}/watchdog-state.json"
UPDATE_STATUS_JSON = f"{STATE_DIR}/update-status.json"
SYSTEMD_BOOTED_DIR = "/run/systemd/system"  # there while systemd runs this system, see sd_booted(3)

# Files of the operating system that the device side writes.
HOSTAPD_CONF = "/etc/hostapd/hostapd.conf"
DNSMASQ_AP_CONF = "/etc/dnsmasq.d/rpi-cam-ap.conf"
REBOOT_CRON = "/etc/cron.d/rpi-cam-reboot"
APT_CRON = "/etc/cron.d/rpi-cam-apt-autoupdate"
UDEV_CONTROL_SOCKET = "/run/udev/control"  # there while udev runs
UDEV_RULE = "/etc/udev/rules.d/99-rtsp-camera.rules"
I2C_MODULES_CONF = "/etc/modules-load.d/rpi-cam-i2c.conf"
BOOT_CONFIG = "/boot/firmware/config.txt"
ROOT_SSH_DIR = "/root/.ssh"
DEVICE_SSH_DIR = "/home/device/.ssh"

# Files of the kernel and the system that are only read.
BOOT_ID_FILE = "/proc/sys/kernel/random/boot_id"
MACHINE_MODEL_FILE = "/proc/device-tree/model"
FIRST_VIDEO_DEVICE = "/dev/video0"

# Files of the distribution that an installation looks at or changes.
CLOUD_CFG = "/etc/cloud/cloud.cfg"
CLOUD_DROPIN = "/etc/cloud/cloud.cfg.d/99-rpi-cam.cfg"
CLOUD_HOSTNAME_MEMORY = "/var/lib/cloud/data/previous-hostname"
APT_LISTS_DIR = "/var/lib/apt/lists"
DPKG_DIR = "/var/lib/dpkg"
USER_TABLE = "/etc/passwd"
GROUP_TABLE = "/etc/group"
WEB_GROUP = "www-data"
DEVICE_USER = "device"

# Units, without the suffix `.service`.
STREAM_UNIT = "rpi-av-rtsp-recorder"
RECORDER_UNIT = "rtsp-recorder"
WATCHDOG_UNIT = "rtsp-watchdog"
RECOVERY_UNIT = "rtsp-camera-recovery"
WEB_UNIT = "rpi-cam-webmanager"
ONVIF_UNIT = "rpi-cam-onvif"
TUNNEL_AGENT_UNIT = "meeting-tunnel-agent"
UNITS = (STREAM_UNIT, RECORDER_UNIT, WATCHDOG_UNIT, RECOVERY_UNIT, WEB_UNIT, ONVIF_UNIT, TUNNEL_AGENT_UNIT)

# Ports. RTSP, web and ONVIF are defaults that config.env or onvif.conf may change.
RTSP_PORT = 8554
WEB_PORT = 5000
ONVIF_PORT = 8080
WS_DISCOVERY_PORT = 3702  # UDP
CSI_CONTROL_HOST = "127.0.0.1"
CSI_CONTROL_PORT = 8085
MEETING_TUNNEL_PORT = 9001


def below(root: Path, device_path: str | PurePosixPath) -> Path:
    """Return where a path of the device lies under `root`.

    Raises: InvalidInput for a relative path, a `..` or a NUL, or when a symbolic link on the way leaves the root.
    """
    pure = PurePosixPath(device_path)
    if not pure.is_absolute() or ".." in pure.parts or "\0" in str(pure):
        raise InvalidInput(
            f"not a path of the device: {str(device_path)[:140]!r}",
            hint="give an absolute path without '..', for example /etc/rpi-cam/config.env",
        )
    path = root.joinpath(*pure.parts[1:])
    try:
        is_inside = path.resolve().is_relative_to(root.resolve())
    except (RuntimeError, OSError):  # a circle of links, or a name that is too long
        raise InvalidInput(f"{pure}: its symbolic links lead in a circle", hint=f"ls -l {pure}") from None
    if not is_inside:
        raise InvalidInput(f"{pure}: a symbolic link leads out of {root}")
    return path


def thumbnail_path(recording_stem: str) -> str:
    """Return the device path of the thumbnail of `<stem>.ts`."""
    return f"{THUMBNAILS_DIR}/{recording_stem}.jpg"


def unit_file_path(unit: str) -> str:
    """Return the device path of the file of one of our units."""
    return f"{UNIT_DIR}/{unit}.service"

"""What the watchdog goes by: the keys of config.env that it reads, and its own limits."""

from __future__ import annotations

from dataclasses import dataclass

from meetingctl.core import layout
from meetingctl.device.config import DeviceConfig
from meetingctl.device.rtsp import Endpoint, Login

# From the start of a unit until it is judged.
START_GRACE_S = 10.0
# Viewers are there and the newest buffer is older. The stream daemon itself drops viewers after 3 s without data.
STALL_LIMIT_S = 15.0
# A DESCRIBE opens an idle camera, so it is rare while it succeeds.
DESCRIBE_EVERY_S = 600.0
# The recorder itself restarts ffmpeg after 15 s, and waits at most 10 s between two tries.
RECORDER_STALL_S = 90.0

# Waits between two restarts of one unit: 2, 4, 8 .. 60 minutes; an hour of health and the next one waits 2 again.
FIRST_WAIT_S = 120.0
LONGEST_WAIT_S = 3600.0
CALM_S = 3600.0
JITTER = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The configuration as far as the watchdog reads it."""

    interval_s: float = 30.0
    max_failures: int = 3
    camera_wait_s: float = 10.0
    alsa_threshold: int = 50
    source_mode: str = "camera"
    camera_type: str = "auto"
    camera_device: str = layout.FIRST_VIDEO_DEVICE
    has_audio: bool = True
    is_recording: bool = False
    stream_unit: str = layout.STREAM_UNIT
    recorder_unit: str = layout.RECORDER_UNIT
    stream_log: str = f"{layout.LOG_DIR}/{layout.STREAM_LOG_NAME}"
    endpoint: Endpoint = Endpoint("127.0.0.1", layout.RTSP_PORT, "stream")


def rules_of(config: DeviceConfig) -> Rules:
    """Take from a configuration what the watchdog needs."""
    login = Login(config.rtsp_user, config.rtsp_password) if config.is_auth_on else None
    return Rules(
        interval_s=config.check_interval,
        max_failures=config.max_failures,
        camera_wait_s=config.camera_wait_time,
        alsa_threshold=config.alsa_error_threshold,
        source_mode=config.stream_source_mode,
        camera_type=config.camera_type,
        camera_device=config.videoin_device,
        has_audio=config.audio_enable != "no",
        is_recording=config.record_enable,
        stream_unit=config.rtsp_service.removesuffix(".service"),
        recorder_unit=config.recorder_service.removesuffix(".service"),
        stream_log=f"{config.log_dir}/{layout.STREAM_LOG_NAME}",
        endpoint=Endpoint("127.0.0.1", config.rtsp_port, config.rtsp_path, login),
    )

"""Ask this machine for the facts: run the tools, try encoders and sound cards, remember trials until the next boot."""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Sequence
from dataclasses import replace

from meetingctl.core.errors import MeetingctlError
from meetingctl.core.layout import BOOT_ID_FILE, ENCODER_TRIAL_JSON
from meetingctl.device.config import DeviceConfig
from meetingctl.device.rtsp import Media, describe, parse_url
from meetingctl.device.stream import detect
from meetingctl.device.stream.csi import libcamera_properties, read_tuning
from meetingctl.device.stream.encoders import (
    AAC_ORDER,
    H264_DECODERS,
    H264_ORDER,
    HARDWARE,
    EncoderSettings,
    encode_h264,
)
from meetingctl.device.stream.facts import CsiCamera, Facts, Origin, UsbCamera
from meetingctl.device.stream.gstreamer import Gstreamer, present_elements
from meetingctl.device.system import System

_TOOL_TIMEOUT_S = 5.0
_CSI_TIMEOUT_S = 10.0  # libcamera wakes the sensor
_TRIAL_TIMEOUT_S = 10.0  # the first start after an installation also looks at every plugin
_MOST_NODES = 40

log = logging.getLogger(__name__)


def read_facts(system: System, gst: Gstreamer, config: DeviceConfig) -> Facts:
    """Collect what the pipeline of this configuration depends on, and nothing else."""
    elements = present_elements(gst, (*AAC_ORDER, *H264_DECODERS, *H264_ORDER, "libcamerasrc"))
    facts = Facts(elements=elements, encoders=find_encoders(system, elements, gst.GLib.get_user_cache_dir()))
    if config.stream_source_mode == "camera":
        facts = read_cameras(system, config, facts)
    if config.stream_source_mode == "rtsp":
        return replace(facts, origin=read_origin(config))
    return replace(facts, sound_device=find_sound(system, config))


def read_cameras(system: System, config: DeviceConfig, facts: Facts) -> Facts:
    """Look for a USB camera and, unless USB was asked for or one is there, for a CSI camera."""
    usb = find_usb_camera(system, config.videoin_device) if config.camera_type != "csi" else None
    csi = None
    if config.camera_type == "csi" or (config.camera_type == "auto" and (usb is None or config.csi_enable == "yes")):
        csi = find_csi_camera(system)
    has_picamera2 = importlib.util.find_spec("picamera2") is not None
    tuning = libcamera_properties(read_tuning(system)) if csi is not None else {}
    wants_rpicam = csi is not None and config.csi_overlay_mode == "libcamera"
    return replace(
        facts,
        usb=usb,
        csi=csi,
        has_picamera2=has_picamera2,
        has_rpicam_vid=wants_rpicam and system.run("rpicam-vid", "--version", timeout_s=_TOOL_TIMEOUT_S).ok,
        tuning=tuning,
    )


def find_usb_camera(system: System, wanted: str) -> UsbCamera | None:
    """Return the camera at the configured node, or the first other one that delivers pictures."""
    listed = system.run("v4l2-ctl", "--list-devices", timeout_s=_TOOL_TIMEOUT_S)
    if listed.code == 127:
        present = system.path(wanted).exists()
        log.warning("v4l2-ctl is missing", extra={"hint": "sudo apt-get install -y v4l-utils"})
        return UsbCamera(wanted, "") if present else None
    for node in detect.order_nodes(wanted, detect.parse_device_list(listed.out))[:_MOST_NODES]:
        asked = system.run("v4l2-ctl", "-d", node, "--info", "--list-formats-ext", timeout_s=_TOOL_TIMEOUT_S)
        if not asked.ok:
            continue
        info = detect.parse_driver_info(asked.out)
        modes = detect.parse_modes(asked.out)
        if detect.is_usb_capture(info) and modes:
            return UsbCamera(node, info.get("Card type", ""), modes)
    return None


def find_csi_camera(system: System) -> CsiCamera | None:
    """Return the first camera that libcamera lists; the tool had another name in older releases."""
    for tool in ("rpicam-hello", "libcamera-hello"):
        ran = system.run(tool, "--list-cameras", timeout_s=_CSI_TIMEOUT_S)
        if ran.code != 127:
            cameras = detect.parse_csi_cameras(ran.out + ran.err)
            return cameras[0] if cameras else None
    return None


def find_sound(system: System, config: DeviceConfig) -> str:
    """Return the first wanted ALSA device that opens, or nothing."""
    if config.audio_enable == "no":
        return ""
    if config.audio_device == "pulse":
        return "pulse"
    listed = system.run("arecord", "-l", timeout_s=_TOOL_TIMEOUT_S)
    for device in detect.sound_devices_to_try(config, detect.parse_sound_cards(listed.out)):
        if can_open_sound(system, device, config):
            return device
        log.warning("sound card does not open", extra={"device": device, "hint": "fuser -v /dev/snd/*"})
    return ""


def can_open_sound(system: System, device: str, config: DeviceConfig) -> bool:
    """Record a moment outside the pipeline, so that a broken card cannot take the video along."""
    format = ("-f", "S16_LE", "-r", str(config.audio_rate), "-c", str(config.audio_channels))
    ran = system.run("arecord", "-q", "-D", device, *format, "-d", "1", "/dev/null", timeout_s=_TOOL_TIMEOUT_S)
    return ran.ok


def read_origin(config: DeviceConfig) -> Origin | None:
    """Read the description of a proxied stream; None when the origin does not answer.

    Without it, a launch line that waits for sound of an origin without sound holds every viewer for 15 s.
    """
    try:
        return origin_of(describe(parse_url(config.stream_source_url), timeout_s=_TOOL_TIMEOUT_S))
    except MeetingctlError as error:
        log.warning("origin does not answer", extra={"error": error.message})
        return None


def origin_of(media: Sequence[Media]) -> Origin:
    """Say what of a description can be passed on."""
    codecs = {(track.kind, track.codec) for track in media}
    return Origin(("video", "H264") in codecs, ("audio", "MPEG4-GENERIC") in codecs)


def find_encoders(system: System, elements: frozenset[str], cache_dir: str) -> tuple[str, ...]:
    """Return the encoders that pass a trial, best first; the hardware only where a driver says that it encodes.

    A trial runs in its own process, because a broken driver may hang or crash it. Results count until the next boot.
    `cache_dir` is where GStreamer keeps its list of plugins.
    """
    boot_id = _boot_id(system)
    known = _read_trials(system, boot_id)
    trials = dict(known)
    for element in H264_ORDER:
        if element in elements and element not in trials:
            may_work = element not in HARDWARE or has_hardware_encoder(system)
            trials[element] = may_work and try_encoder(system, element, cache_dir)
    if trials != known:
        _write_trials(system, boot_id, trials)
    return tuple(element for element in H264_ORDER if element in elements and trials.get(element))


def try_encoder(system: System, element: str, cache_dir: str) -> bool:
    """Encode a second of a test picture and look whether anything comes out."""
    encoding = encode_h264(element, EncoderSettings(1000, 15))
    words = (
        "videotestsrc num-buffers=15 ! video/x-raw,format=I420,width=640,height=480,framerate=15/1"
        f" ! {encoding.launch} ! h264parse ! fdsink fd=1"
    ).split()
    program = ("env", f"XDG_CACHE_HOME={cache_dir}", "gst-launch-1.0", "-q")
    ran = system.run(*program, *(word.replace('"', "") for word in words), timeout_s=_TRIAL_TIMEOUT_S)
    if ran.code == 127:
        log.warning("gst-launch-1.0 is missing", extra={"hint": "sudo apt-get install -y gstreamer1.0-tools"})
        return element not in HARDWARE
    works = ran.ok and len(ran.out) > 0
    if not works:
        log.warning("encoder failed its trial", extra={"encoder": element, "code": ran.code})
    return works


def has_hardware_encoder(system: System) -> bool:
    """Say whether some video node encodes H.264 from memory to memory."""
    listed = system.run("v4l2-ctl", "--list-devices", timeout_s=_TOOL_TIMEOUT_S)
    nodes = [node for _, nodes in detect.parse_device_list(listed.out) for node in nodes]
    return any(_encodes(system, node) for node in nodes[:_MOST_NODES])


def _encodes(system: System, node: str) -> bool:
    ran = system.run("v4l2-ctl", "-d", node, "--info", "--list-formats", timeout_s=_TOOL_TIMEOUT_S)
    return ran.ok and detect.is_h264_encoder(detect.parse_driver_info(ran.out), ran.out)


def _boot_id(system: System) -> str:
    try:
        return system.read(BOOT_ID_FILE).strip()
    except MeetingctlError:
        return ""


def _read_trials(system: System, boot_id: str) -> dict[str, bool]:
    try:
        stored = json.loads(system.read(ENCODER_TRIAL_JSON))
    except (MeetingctlError, ValueError):
        return {}
    if not isinstance(stored, dict) or stored.get("boot_id") != boot_id or not isinstance(stored.get("works"), dict):
        return {}
    return {name: works for name, works in stored["works"].items() if isinstance(works, bool)}


def _write_trials(system: System, boot_id: str, trials: dict[str, bool]) -> None:
    try:
        system.write(ENCODER_TRIAL_JSON, json.dumps({"boot_id": boot_id, "works": trials}), mode=0o644)
    except MeetingctlError as error:
        log.warning("trial results are not kept", extra={"error": error.message})


def is_incomplete(config: DeviceConfig, facts: Facts) -> bool:
    """Say whether something that the configuration wants is absent and may appear later."""
    if config.stream_source_mode == "camera" and facts.usb is None and facts.csi is None:
        return True
    if config.stream_source_mode == "rtsp":
        return facts.origin is None
    wants_sound = config.audio_enable != "no" and config.stream_source_mode not in {"test", "mjpeg"}
    return wants_sound and not facts.sound_device

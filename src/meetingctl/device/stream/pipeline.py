"""Configuration and facts -> the launch line of GStreamer. Nothing here touches GStreamer or the machine.

Texts of people (URLs, overlay, device names) are properties that are set on named elements, never part of the line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction

from meetingctl.core.errors import MeetingctlError
from meetingctl.device.config import DeviceConfig
from meetingctl.device.config.load import mask_login
from meetingctl.device.stream import encoders, overlay
from meetingctl.device.stream.facts import Facts, Mode
from meetingctl.device.stream.origin import AUDIO_PLACE, VIDEO_PLACE
from meetingctl.device.stream.source import SoundKind, Source, choose_sound, choose_source

Value = str | int | float | bool
Properties = Mapping[str, Mapping[str, Value]]

# Properties of these elements may change while they run; a change of any other one needs new media.
LIVE_ELEMENTS = frozenset({"encoder", "label", "clock", "gain"})

_PAY = "rtph264pay name=pay0 pt=96 config-interval=0"
_PARSE = "h264parse config-interval=-1"
# I420 directly before a leaky queue, and nothing between the queue and the encoder: in another order texts vanish
# after a few frames, and without I420 x264 chooses 4:4:4 or 10 bit, which recorders and browsers cannot decode.
_TO_ENCODER = "videoconvert ! video/x-raw,format=I420 ! queue leaky=downstream max-size-buffers=3"
_ORIGIN_TIMEOUT_US = 5_000_000


@dataclass(frozen=True, slots=True)
class Picture:
    """Size and rate of a video."""

    width_px: int
    height_px: int
    fps: Fraction

    def __str__(self) -> str:
        return f"{self.width_px}x{self.height_px} at {float(self.fps):g} fps"


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """What one mount runs. `encoder` is empty for a stream that is passed on as it is."""

    launch: str
    properties: Properties
    source: Source
    captured: Picture
    sent: Picture
    encoder: str = ""
    sound: SoundKind = "none"
    notes: tuple[str, ...] = field(default=())
    drawn: tuple[str, int] | None = None  # text and font size that rpicam-vid draws; None: Picamera2 feeds the stream

    @property
    def opens_once(self) -> bool:
        return self.source.opens_once or self.sound in {"alsa", "pulse"}

    @property
    def can_force_keyframe(self) -> bool:
        return bool(self.encoder) or self.source.kind == "csi"

    def describe(self) -> str:
        """Say in one line what comes in, what goes out, and how."""
        how = f"encoded by {self.encoder}" if self.encoder else "passed on as it is"
        comes = f"{self.source.kind} {self.source.mode.format}".strip()
        if self.source.kind == "rtsp":
            return f"{comes}: {how}, sound {self.sound}"
        scaled = "" if self.captured == self.sent else f" -> {self.sent}"
        return f"{comes}: {self.captured}{scaled}, {how}, sound {self.sound}"


def build_stream(config: DeviceConfig, facts: Facts) -> LaunchSpec:
    """Build the main stream. Raises: MeetingctlError when no encoder works or a needed element is absent."""
    source = choose_source(config, facts)
    sound, sound_notes = choose_sound(config, facts, source)
    spec = _build_video(config, facts, source)
    notes = (*source.notes, *spec.notes, *sound_notes)
    if sound == "none":
        return replace(spec, launch=f"( {spec.launch} )", notes=notes)
    launch, properties = _sound(config, facts, source, sound)
    return replace(
        spec,
        launch=f"( {spec.launch} {launch} )",
        properties={**spec.properties, **properties},
        sound=sound,
        notes=notes,
    )


def build_substream(config: DeviceConfig, facts: Facts, location: str) -> LaunchSpec:
    """Build the small second stream: it decodes the main one, so that any source is opened only once.

    `location` is the URL of the main stream on the listener without a password.
    """
    decoder = _decoder(facts)
    sent = Picture(config.substream_width, config.substream_height, Fraction(config.substream_fps))
    settings = encoders.EncoderSettings(config.substream_bitrate_kbps, 2 * config.substream_fps, config.h264_profile)
    element = encoders.choose_encoder(facts.encoders)
    encoding = encoders.encode_h264(element, settings)
    launch = (
        f"rtspsrc name=origin protocols=tcp latency=0 {_timeouts()}"
        f" {VIDEO_PLACE} wait-for-keyframe=true ! h264parse"
        f" ! {decoder} ! {_TO_SIZE} ! {_raw_caps(sent)} ! {_TO_ENCODER} ! {encoding.launch} ! {_PARSE} ! {_PAY}"
    )
    properties: Properties = {"origin": {"location": location}, "encoder": encoding.live}
    mode = Mode("H264", sent.width_px, sent.height_px, sent.fps)
    return LaunchSpec(f"( {launch} )", properties, Source("rtsp", mode), sent, sent, element)


def sent_picture(config: DeviceConfig) -> Picture:
    """Return size and rate that viewers get when the stream is encoded here."""
    return Picture(config.output_width_px, config.output_height_px, Fraction(config.output_fps))


def shown_properties(spec: LaunchSpec) -> dict[str, dict[str, Value]]:
    """Return the properties for people and logs, without the password of a source."""
    return {
        name: {key: mask_login(value) if isinstance(value, str) else value for key, value in values.items()}
        for name, values in spec.properties.items()
    }


def pretty(launch: str) -> str:
    """Break a launch line for people: one element a line."""
    return launch.replace(" ! ", " !\n  ")


_TO_SIZE = "videoconvert ! videoscale ! videorate"


def _build_video(config: DeviceConfig, facts: Facts, source: Source) -> LaunchSpec:
    captured = Picture(source.mode.width_px, source.mode.height_px, source.mode.fps)
    if source.kind == "rtsp":
        launch, properties = _proxy(config)
        return LaunchSpec(launch, properties, source, captured, captured)
    if source.kind == "csi":
        return _build_csi(config, facts, source, captured)
    launch, properties = _capture(config, facts, source)
    if source.is_passthrough:
        return LaunchSpec(f"{launch} ! {_PARSE} ! {_PAY}", properties, source, captured, captured)
    # The size of a web camera or a screen is known only when it runs: these always go through the scaler.
    must_scale = captured != sent_picture(config) or source.kind in {"mjpeg", "screen"}
    return _encode(config, facts, source, launch, properties, must_scale=must_scale)


def _build_csi(config: DeviceConfig, facts: Facts, source: Source, captured: Picture) -> LaunchSpec:
    """Take encoded access units from the camera's own encoder; only an overlay or a scaling decodes them again."""
    launch = (
        "appsrc name=camera is-live=true format=time do-timestamp=true max-buffers=30 leaky-type=downstream"
        " caps=video/x-h264,stream-format=byte-stream,alignment=au"
    )
    # Random offsets of the two payloaders make some viewers play the sound seconds late.
    pay = f"{_PAY} timestamp-offset=0 seqnum-offset=0"
    sent = sent_picture(config)
    if sent == captured and not (config.video_overlay_enable and config.csi_overlay_mode == "software"):
        passed_on = LaunchSpec(f"{launch} ! {_PARSE} ! {pay}", {}, source, captured, captured)
        return _draw_by_rpicam(config, facts, passed_on) if config.video_overlay_enable else passed_on
    decoded = f"{launch} ! h264parse ! {_decoder(facts)}"
    spec = _encode(config, facts, source, decoded, {}, must_scale=sent != captured)
    return replace(spec, launch=spec.launch.replace(_PAY, pay))


def _draw_by_rpicam(config: DeviceConfig, facts: Facts, spec: LaunchSpec) -> LaunchSpec:
    """Let rpicam-vid draw the text, in pieces of its output that are no whole pictures; say what it does not draw."""
    if not facts.has_rpicam_vid:
        note = "CSI_OVERLAY_MODE=libcamera: no text is drawn, rpicam-vid is missing: sudo apt-get install -y"
        return replace(spec, notes=(f"{note} rpicam-apps rpicam-apps-opencv-postprocess",))
    tokens = _overlay_tokens(config, spec.source, spec.sent)
    text = overlay.expand_text(config.video_overlay_text, tokens)
    notes = ("CSI_OVERLAY_MODE=libcamera: date and time are not drawn",) if overlay.has_clock(config) else ()
    launch = spec.launch.replace(",alignment=au", "", 1)
    return replace(spec, launch=launch, notes=notes, drawn=(text, config.video_overlay_font_size))


def _overlay_tokens(config: DeviceConfig, source: Source, sent: Picture) -> dict[str, str]:
    return overlay.overlay_tokens(
        camera_type=source.kind.upper(),
        device=source.device or config.videoin_device,
        size_px=(sent.width_px, sent.height_px),
        fps=f"{float(sent.fps):g}",
        format=source.mode.format,
    )


def _encode(
    config: DeviceConfig,
    facts: Facts,
    source: Source,
    launch: str,
    properties: Properties,
    *,
    must_scale: bool,
) -> LaunchSpec:
    captured = Picture(source.mode.width_px, source.mode.height_px, source.mode.fps)
    sent = sent_picture(config)
    element = encoders.choose_encoder(facts.encoders)
    encoding = encoders.encode_h264(element, encoders.settings_of(config))
    if must_scale:
        launch += f" ! {_TO_SIZE} ! {_raw_caps(sent)}"
    tokens = _overlay_tokens(config, source, sent)
    launch += f"{overlay.overlay_launch(config)} ! {_TO_ENCODER} ! {encoding.launch} ! {_PARSE} ! {_PAY}"
    all_properties: dict[str, Mapping[str, Value]] = {**properties, **overlay.overlay_properties(config, tokens)}
    if encoding.live:
        all_properties["encoder"] = encoding.live
    return LaunchSpec(launch, all_properties, source, captured, sent, element)


def _capture(config: DeviceConfig, facts: Facts, source: Source) -> tuple[str, Properties]:
    """Return the start of a pipeline that delivers raw pictures, or H264 for a camera that does."""
    mode = source.mode
    size = f"width={mode.width_px},height={mode.height_px},framerate={_fraction(mode.fps)}"
    match source.kind:
        case "usb":
            formats = {
                "H264": f"video/x-h264,{size}",
                "MJPG": f"image/jpeg,{size} ! jpegdec",
                "YUYV": f"video/x-raw,format=YUY2,{size}",
                "raw": f"video/x-raw,{size}",
            }
            return f"v4l2src name=camera do-timestamp=true ! {formats[mode.format]}", {
                "camera": {"device": source.device}
            }
        case "libcamera":
            camera: dict[str, Value] = {"camera-name": source.device} if source.device else {}
            return (
                f"libcamerasrc name=camera ! video/x-raw,format=NV12,{size} ! queue",
                {"camera": {**facts.tuning, **camera}},
            )
        case "mjpeg":
            return (
                "souphttpsrc name=origin is-live=true do-timestamp=true timeout=5 retries=0"
                " ! multipartdemux single-stream=true ! jpegdec",
                {"origin": {"location": config.stream_source_url}},
            )
        case "screen":
            return (
                f"ximagesrc name=screen use-damage=false ! video/x-raw,framerate={_fraction(mode.fps)}",
                {"screen": {"display-name": config.screen_display}},
            )
    return f"videotestsrc name=camera is-live=true pattern=ball ! video/x-raw,format=I420,{size}", {}


def _proxy(config: DeviceConfig) -> tuple[str, Properties]:
    transport = {"auto": "", "tcp": " protocols=tcp", "udp": " protocols=udp"}[config.rtsp_proxy_transport]
    launch = (
        f"rtspsrc name=origin latency={config.rtsp_proxy_latency_ms}{transport} {_timeouts()}"
        f" {VIDEO_PLACE} ! {_PARSE} ! {_PAY}"
    )
    return launch, {"origin": {"location": config.stream_source_url}}


def _sound(config: DeviceConfig, facts: Facts, source: Source, sound: SoundKind) -> tuple[str, Properties]:
    if sound == "origin":
        return (
            f"{AUDIO_PLACE} ! aacparse ! rtpmp4gpay name=pay1 pt=97",
            {},
        )
    encoder = encoders.first_present(encoders.AAC_ORDER, facts.elements)
    if encoder is None:
        raise MeetingctlError("no AAC encoder is installed", hint="sudo apt-get install -y gstreamer1.0-plugins-bad")
    properties: dict[str, Mapping[str, Value]] = {"gain": {"volume": config.audio_gain}}
    if sound == "alsa":
        properties["microphone"] = {"device": facts.sound_device}
    caps = f"audio/x-raw,rate={config.audio_rate},channels={config.audio_channels}"
    offsets = " timestamp-offset=0 seqnum-offset=0" if source.kind == "csi" else ""
    return (
        f"{_MICROPHONES[sound]} ! queue leaky=downstream max-size-time=500000000 max-size-buffers=0 max-size-bytes=0"
        f" ! audioconvert ! volume name=gain ! audioresample ! audioconvert ! {caps}"
        f" ! {encoders.encode_aac(encoder, config.audio_bitrate_kbps)} ! aacparse"
        f" ! rtpmp4gpay name=pay1 pt=97{offsets}",
        properties,
    )


_MICROPHONES: dict[SoundKind, str] = {
    "alsa": "alsasrc name=microphone buffer-time=200000 latency-time=25000",
    "pulse": "pulsesrc name=microphone",
    "test": "audiotestsrc name=microphone is-live=true volume=0.1",
}


def _decoder(facts: Facts) -> str:
    decoder = encoders.first_present(encoders.H264_DECODERS, facts.elements)
    if decoder is None:
        raise MeetingctlError("no H.264 decoder is installed", hint="sudo apt-get install -y gstreamer1.0-libav")
    return decoder


def _timeouts() -> str:
    """Give up on an origin that does not answer: the defaults wait for 20 s."""
    return f"tcp-timeout={_ORIGIN_TIMEOUT_US} timeout={_ORIGIN_TIMEOUT_US}"


def _raw_caps(picture: Picture) -> str:
    size = f"width={picture.width_px},height={picture.height_px},framerate={_fraction(picture.fps)}"
    return f"video/x-raw,{size},pixel-aspect-ratio=1/1"


def _fraction(fps: Fraction) -> str:
    return f"{fps.numerator}/{fps.denominator}"

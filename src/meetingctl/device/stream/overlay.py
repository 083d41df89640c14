"""Text and clock in the picture. Texts are properties, never part of a launch line."""

from __future__ import annotations

from meetingctl.device.config import DeviceConfig

_HORIZONTAL = {"left": 0, "right": 2}  # GstBaseTextOverlayHAlign
_VERTICAL = {"bottom": 1, "top": 2}  # GstBaseTextOverlayVAlign


def overlay_tokens(*, camera_type: str, device: str, size_px: tuple[int, int], fps: str, format: str) -> dict[str, str]:
    """Return what the tokens of VIDEO_OVERLAY_TEXT stand for."""
    return {
        "{CAMERA_TYPE}": camera_type,
        "{VIDEO_DEVICE}": device,
        "{VIDEO_RESOLUTION}": f"{size_px[0]}x{size_px[1]}",
        "{VIDEO_FPS}": fps,
        "{VIDEO_FORMAT}": format,
    }


def expand_text(text: str, tokens: dict[str, str]) -> str:
    """Replace the tokens; what is not a token stays as it is."""
    for token, value in tokens.items():
        text = text.replace(token, value)
    return text


def overlay_launch(config: DeviceConfig) -> str:
    """Return the overlay elements with their leading `!`, or nothing."""
    # The text element stays while its text is empty, so that a reload can make one appear.
    text = " ! textoverlay name=label" if config.video_overlay_enable else ""
    return text + (" ! clockoverlay name=clock" if has_clock(config) else "")


def overlay_properties(config: DeviceConfig, tokens: dict[str, str]) -> dict[str, dict[str, str | int]]:
    """Return the properties of the overlay elements of `overlay_launch`."""
    found: dict[str, dict[str, str | int]] = {}
    font: dict[str, str | int] = {"font-desc": f"Sans {config.video_overlay_font_size}", "shaded-background": True}
    if config.video_overlay_enable:
        text = expand_text(config.video_overlay_text, tokens)
        found["label"] = {**font, **_corner(config.video_overlay_position), "text": text}
    if has_clock(config):
        place = _corner(config.video_overlay_clock_position)
        found["clock"] = {**font, **place, "time-format": config.video_overlay_datetime_format}
    return found


def has_clock(config: DeviceConfig) -> bool:
    """Say whether date and time are drawn: VIDEO_OVERLAY_ENABLE switches both, as in the original."""
    return config.video_overlay_enable and config.video_overlay_show_datetime


def _corner(position: str) -> dict[str, int]:
    vertical, _, horizontal = position.partition("-")
    return {"halignment": _HORIZONTAL[horizontal], "valignment": _VERTICAL[vertical]}

"""Read what v4l2-ctl, rpicam-hello and arecord print, and choose among what they show. Text in, facts out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fractions import Fraction

from meetingctl.device.config import DeviceConfig
from meetingctl.device.stream.facts import CsiCamera, Mode, SoundCard

# Capture nodes of the Pi that are no USB camera: sensors, codecs and image processors of the board itself.
_BOARD_DRIVERS = ("unicam", "bcm2835", "rp1-cfe", "pispbe", "rpivid", "rpi-hevc")

_SIZE = re.compile(r"Size: Discrete (\d+)x(\d+)")
_STEPWISE = re.compile(r"Size: (?:Stepwise|Continuous) (\d+)x(\d+) - (\d+)x(\d+)")
_INTERVAL = re.compile(r"Interval: (?:Discrete|Stepwise|Continuous).*?\(([\d.]+)(?:-([\d.]+))? fps\)")
_FORMAT = re.compile(r"\[\d+\]: '(.{4})'")


def parse_device_list(text: str) -> list[tuple[str, list[str]]]:
    """Read `v4l2-ctl --list-devices`: the name of each device with its video nodes."""
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.strip() and not line[0].isspace():
            found.append((line.rstrip().removesuffix(":"), []))
        elif found and line.strip().startswith("/dev/video"):
            found[-1][1].append(line.strip())
    return found


def parse_driver_info(text: str) -> dict[str, str]:
    """Read `v4l2-ctl --info`: driver name, card type, bus info and the capabilities of this node."""
    found: dict[str, str] = {}
    in_node = False
    capabilities: list[str] = []
    for line in text.splitlines():
        name, colon, value = (part.strip() for part in line.partition(":"))
        if colon and name in {"Driver name", "Card type", "Bus info"}:
            found[name] = value
        elif name == "Device Caps":
            in_node = True
        elif in_node and line.startswith("\t\t"):
            capabilities.append(line.strip())
        else:
            in_node = False
    found["capabilities"] = ", ".join(capabilities)
    return found


def is_usb_capture(info: dict[str, str]) -> bool:
    """Say whether a node is a camera outside the board; a USB camera also has nodes for metadata."""
    capabilities = info.get("capabilities", "").split(", ")
    driver = info.get("Driver name", "").lower()
    return any(item in {"Video Capture", "Video Capture Multiplanar"} for item in capabilities) and not any(
        driver.startswith(name) for name in _BOARD_DRIVERS
    )


def is_h264_encoder(info: dict[str, str], formats_text: str) -> bool:
    """Say whether a node turns raw pictures in memory into H.264."""
    is_codec = "Memory-to-Memory" in info.get("capabilities", "")
    return is_codec and "H264" in _FORMAT.findall(formats_text)


def parse_modes(text: str) -> tuple[Mode, ...]:
    """Read `v4l2-ctl --list-formats-ext`: every format, size and rate; of a range of sizes the largest."""
    modes: list[Mode] = []
    format, size = "", (0, 0)
    for line in text.splitlines():
        if found := _FORMAT.search(line):
            format, size = _spelling(found.group(1)), (0, 0)
        elif found := _SIZE.search(line):
            size = int(found.group(1)), int(found.group(2))
        elif found := _STEPWISE.search(line):
            size = int(found.group(3)), int(found.group(4))
        elif (found := _INTERVAL.search(line)) and format and size[0]:
            rates = [rate for rate in found.groups() if rate]
            modes += [Mode(format, *size, parse_rate(rate)) for rate in rates]
    return tuple(dict.fromkeys(modes))


def parse_rate(text: str) -> Fraction:
    """Turn a printed rate into the fraction that the driver means: 30.000 is 30, 29.970 is 30000/1001."""
    value = float(text)
    whole = round(value)
    if abs(value - whole) < 0.005:
        return Fraction(whole)
    ntsc = Fraction(round(value * 1.001) * 1000, 1001)
    if abs(value - float(ntsc)) < 0.005:
        return ntsc
    return Fraction(text).limit_denominator(100)


def parse_csi_cameras(text: str) -> tuple[CsiCamera, ...]:
    """Read `rpicam-hello --list-cameras`."""
    cameras: list[CsiCamera] = []
    heads = list(re.finditer(r"^\s*(\d+)\s*:\s*(\S+)\s*\[[^\]]*\]\s*(?:\(([^)]*)\))?", text, re.MULTILINE))
    ends = [*(head.start() for head in heads[1:]), len(text)]
    for head, end in zip(heads, ends, strict=False):
        body = text[head.end() : end]
        sizes = tuple(dict.fromkeys((int(w), int(h)) for w, h in re.findall(r"(\d+)x(\d+) \[", body)))
        cameras.append(CsiCamera(int(head.group(1)), head.group(2), head.group(3) or "", sizes))
    return tuple(cameras)


def parse_sound_cards(text: str) -> tuple[SoundCard, ...]:
    """Read `arecord -l`."""
    line = re.compile(r"^card (\d+): (\S+) \[([^\]]*)\], device (\d+): .*?(?:\[([^\]]*)\])?\s*$", re.MULTILINE)
    return tuple(
        SoundCard(int(card), int(device), id, name, description)
        for card, id, name, device, description in line.findall(text)
    )


def sound_devices_to_try(config: DeviceConfig, cards: Sequence[SoundCard]) -> tuple[str, ...]:
    """Return the ALSA devices to try, best first.

    A device that is named wins, then cards whose name holds AUDIO_DEVICE_NAME, then USB cards; other cards only when
    sound was asked for with `yes`.
    """
    if config.audio_device != "auto":
        return (config.audio_device,)
    if config.audio_device_name:
        wanted = config.audio_device_name.lower()
        named = [card for card in cards if wanted in f"{card.id} {card.name} {card.description}".lower()]
        if named:
            return _names(named)
    usb = [card for card in cards if card.is_usb]
    others = [card for card in cards if not card.is_usb] if config.audio_enable == "yes" else []
    return _names([*usb, *others])


def order_nodes(wanted: str, devices: Iterable[tuple[str, list[str]]]) -> list[str]:
    """Return the video nodes to look at: the one that is configured first, then those of USB devices."""
    listed = [(name, node) for name, nodes in devices for node in nodes]
    usb = [node for name, node in listed if "(usb-" in name]
    return list(dict.fromkeys([wanted, *usb, *(node for _, node in listed)]))


def _names(cards: Sequence[SoundCard]) -> tuple[str, ...]:
    return tuple(card.alsa_device for card in cards)


def _spelling(format: str) -> str:
    return {"MJPG": "MJPG", "JPEG": "MJPG", "YUY2": "YUYV"}.get(format.strip(), format.strip())

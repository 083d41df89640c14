"""The one module that imports GStreamer's bindings; everything else gets them from `load_gstreamer`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from meetingctl.core.errors import MeetingctlError

DEBIAN_PACKAGES = Path("/usr/lib/python3/dist-packages")
ALL_PACKAGES = (
    "sudo apt-get install -y python3-gi python3-gst-1.0 gir1.2-gst-plugins-base-1.0 gir1.2-gst-rtsp-server-1.0"
    " gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly"
)

# Typelib -> Debian package.
_TYPELIBS = {
    "Gst": "gir1.2-gstreamer-1.0",
    "GstApp": "gir1.2-gst-plugins-base-1.0",
    "GstRtsp": "gir1.2-gst-plugins-base-1.0",
    "GstVideo": "gir1.2-gst-plugins-base-1.0",
    "GstRtspServer": "gir1.2-gst-rtsp-server-1.0",
}

# Element -> Debian package, for elements that are not in plugins-base.
_ELEMENTS = {
    "alsasrc": "gstreamer1.0-alsa",
    "avdec_h264": "gstreamer1.0-libav",
    "avenc_aac": "gstreamer1.0-libav",
    "clockoverlay": "gstreamer1.0-x",
    "textoverlay": "gstreamer1.0-x",
    "libcamerasrc": "gstreamer1.0-libcamera",
    "x264enc": "gstreamer1.0-plugins-ugly",
} | dict.fromkeys(
    ("h264parse", "openh264enc", "openh264dec", "voaacenc", "hlssink2", "mpegtsmux"), "gstreamer1.0-plugins-bad"
) | dict.fromkeys(
    (
        "aacparse",
        "jpegdec",
        "jpegenc",
        "multipartdemux",
        "pulsesrc",
        "rtph264depay",
        "rtph264pay",
        "rtpmp4gdepay",
        "rtpmp4gpay",
        "rtspsrc",
        "souphttpsrc",
        "v4l2h264enc",
        "v4l2src",
        "ximagesrc",
    ),
    "gstreamer1.0-plugins-good",
)  # fmt: skip


class Gstreamer(NamedTuple):
    """The bindings. They carry no types, so they are Any; nothing outside device/stream sees them."""

    GLib: Any
    Gst: Any
    GstApp: Any
    GstRtsp: Any
    GstRtspServer: Any
    GstVideo: Any


@cache
def load_gstreamer() -> Gstreamer:
    """Import and start GStreamer, once per process.

    A virtual environment that hides Debian's packages still finds them when they are built for this Python.
    Raises: MeetingctlError that names the missing package.
    """
    try:
        gi = _import_gi()
        for name in _TYPELIBS:
            gi.require_version(name, "1.0")
        modules = [import_module(f"gi.repository.{name}") for name in Gstreamer._fields]
    except (ImportError, ValueError) as exc:
        raise explain_import_error(exc) from exc
    gst = Gstreamer(*modules)
    ok, _ = gst.Gst.init_check(None)
    if not ok:
        raise MeetingctlError("media support is not available: GStreamer does not start", hint=ALL_PACKAGES)
    return gst


def explain_import_error(exc: Exception) -> MeetingctlError:
    """Turn an error of the bindings into ours, with the package that is missing."""
    text = str(exc)
    if isinstance(exc, ModuleNotFoundError) and exc.name == "gi":
        return MeetingctlError(
            "media support is not available: Python cannot import gi (GObject introspection)",
            hint=f"{ALL_PACKAGES}; a virtual environment needs --system-site-packages",
        )
    if "_gi" in text:
        return MeetingctlError(
            f"media support is not available: gi is built for another Python than {sys.version_info[0]}."
            f"{sys.version_info[1]}",
            hint="make the virtual environment with /usr/bin/python3 -m venv --system-site-packages",
        )
    if found := re.search(r"Namespace (\w+) not available|introspection typelib not found.*?(\w+)", text):
        name = found.group(1) or found.group(2)
        package = _TYPELIBS.get(name, "python3-gst-1.0")
        return MeetingctlError(
            f"media support is not available: GStreamer typelib {name}-1.0 is missing",
            hint=f"sudo apt-get install -y {package}",
        )
    return MeetingctlError(f"media support is not available: {text}", hint=ALL_PACKAGES)


def package_of(element: str) -> str:
    """Return the Debian package of an element."""
    return _ELEMENTS.get(element, "gstreamer1.0-plugins-base")


def missing_element_error(element: str) -> MeetingctlError:
    """Return the error for an element that is not installed."""
    return MeetingctlError(
        f"GStreamer element {element} is missing", hint=f"sudo apt-get install -y {package_of(element)}"
    )


def check_launch(gst: Gstreamer, launch: str) -> None:
    """Parse a launch line, which otherwise fails only when the first viewer comes. Raises: MeetingctlError."""
    try:
        gst.Gst.parse_launch(launch)
    except gst.GLib.Error as exc:
        if found := re.search(r'no element "([^"]+)"', exc.message):
            raise missing_element_error(found.group(1)) from exc
        raise MeetingctlError(
            f"the pipeline does not parse: {exc.message}", hint="meetingctl device stream --print-pipeline"
        ) from exc


def present_elements(gst: Gstreamer, names: tuple[str, ...]) -> frozenset[str]:
    """Return those of the elements that are installed."""
    return frozenset(name for name in names if gst.Gst.ElementFactory.find(name) is not None)


@contextmanager
def open_structure(caps: Any) -> Iterator[Any]:
    """Give the first structure of caps, to be read inside the block only.

    The bindings of GStreamer 1.26 wrap it, so that it is not used after its caps are gone; those of 1.22 do not.
    """
    found = caps.get_structure(0)
    with found if hasattr(found, "__enter__") else nullcontext(found) as structure:
        yield structure


def _import_gi() -> Any:
    try:
        return import_module("gi")
    except ModuleNotFoundError as exc:
        folder = debian_packages_for(sys.version_info[:2])
        if exc.name != "gi" or folder is None:
            raise
        # At the end, so that nothing of Debian hides a package of this environment.
        sys.path.append(str(folder))
        return import_module("gi")


def debian_packages_for(version: tuple[int, int], folder: Path = DEBIAN_PACKAGES) -> Path | None:
    """Return Debian's package folder when its gi is built for this Python version."""
    pattern = f"gi/_gi.cpython-{version[0]}{version[1]}-*.so"
    return folder if any(folder.glob(pattern)) else None

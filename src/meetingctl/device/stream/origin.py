"""Take the tracks of an RTSP origin that a pipeline has a place for, and no others.

A launch line could link them itself (`origin. ! application/x-rtp,media=video ! ...`), but GStreamer 1.22 does that in
the threads of all tracks at once, and now and then frees what another thread still uses: the media then fails with
"not-linked", or the process with it. So the lines only name the places, and the pads are linked here.
"""

from __future__ import annotations

import logging
from typing import Any

from meetingctl.device.stream.gstreamer import Gstreamer, open_structure

# What stands where a track comes in; `find_place` looks for these names.
VIDEO_PLACE = "rtph264depay name=video_in"
AUDIO_PLACE = "rtpmp4gdepay name=audio_in"

# media and encoding-name of a track (RFC 6184, RFC 3640) -> the place of it.
_PLACES = {("video", "H264"): "video_in", ("audio", "MPEG4-GENERIC"): "audio_in"}

log = logging.getLogger(__name__)


def link_origin(gst: Gstreamer, element: Any) -> None:
    """Connect the `rtspsrc` called `origin` in a bin to its places; do nothing when there is none.

    Call it before the bin starts. Tracks without a place are not even asked for.
    """
    origin = element.get_by_name("origin")
    if origin is None or origin.get_factory().get_name() != "rtspsrc":
        return

    def choose(_origin: Any, _number: int, caps: Any) -> bool:
        return _find_place(element, caps) is not None

    def link(_origin: Any, pad: Any) -> None:
        place = _find_place(element, pad.get_current_caps() or pad.query_caps(None))
        if place is None:
            return
        sink = place.get_static_pad("sink")
        if not sink.is_linked() and pad.link(sink) != gst.Gst.PadLinkReturn.OK:
            log.warning("a track of the origin does not fit", extra={"pad": pad.get_name()})

    origin.connect("select-stream", choose)
    origin.connect("pad-added", link)


def _find_place(element: Any, caps: Any) -> Any:
    if caps is None or caps.get_size() == 0:
        return None
    with open_structure(caps) as track:
        name = _PLACES.get((track.get_string("media") or "", (track.get_string("encoding-name") or "").upper()))
    return element.get_by_name(name) if name else None

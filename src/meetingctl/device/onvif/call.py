"""One call of an operation: everything its handler may look at, and nothing of sockets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from meetingctl.device.onvif.auth import Access
from meetingctl.device.onvif.effects import Effects
from meetingctl.device.onvif.facts import Facts
from meetingctl.device.onvif.pullpoint import Message, Pull, PullPoints
from meetingctl.device.onvif.soap import Element, Node


@dataclass(frozen=True, slots=True)
class Call:
    """What a handler gets. `host` is our address as this client reaches it; `path` is the requested one."""

    body: Element
    facts: Facts
    effects: Effects
    points: PullPoints
    publish: Callable[[Message], None]
    host: str
    port: int
    path: str
    now_s: float
    is_authenticated: bool

    def url(self, path: str) -> str:
        return f"http://{self.host}:{self.port}{path}"


Handler = Callable[[Call], "Node | Pull"]


class Op(NamedTuple):
    """A row of the dispatch table. What `blocks` runs in a thread."""

    handler: Handler
    access: Access
    blocks: bool = False


Table = dict[tuple[str, str], Op]

SERVICE_PATHS = {
    "tds": "/onvif/device_service",
    "trt": "/onvif/media_service",
    "timg": "/onvif/imaging_service",
    "tmd": "/onvif/deviceio_service",
    "tev": "/onvif/event_service",
    "tr2": "/onvif/media2_service",
}
POINT_PATH = "/onvif/events/"
SNAPSHOT_PATH = "/onvif/snapshot.jpg"

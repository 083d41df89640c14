"""A device in a folder, with recorded tools, and the service over it without sockets."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from meetingctl.core.netlink import Interface
from meetingctl.device.onvif.auth import Caller, Gate
from meetingctl.device.onvif.dispatch import Answer, Service, write_answer, write_fault
from meetingctl.device.onvif.effects import Effects
from meetingctl.device.onvif.facts import Facts
from meetingctl.device.onvif.fault import Fault
from meetingctl.device.onvif.pullpoint import Pull, PullPoints
from meetingctl.device.onvif.source import FactSource
from meetingctl.device.system import PLAIN_ENV, System

from .schemas import request

ETH0 = Interface("eth0", "b8:27:eb:00:00:01", (("10.0.0.7", 24),), index=2)
V4L2_CTL = """#!/bin/sh
state="$(dirname "$0")/controls"
[ -e "$state" ] || echo "128 1 40" >"$state"
read -r brightness auto focus <"$state"
echo "$*" >>"$(dirname "$0")/v4l2.log"
case "$3" in
--list-ctrls)
  echo "User Controls"
  echo "                     brightness 0x00980900 (int)    : min=0 max=255 step=1 default=128 value=$brightness"
  echo "                       contrast 0x00980901 (int)    : min=0 max=95 step=1 default=32 value=32"
  echo "                 focus_absolute 0x009a090a (int)    : min=0 max=250 step=5 default=0 value=$focus"
  echo "     focus_automatic_continuous 0x009a090c (bool)   : default=1 value=$auto" ;;
--set-ctrl=*)
  for pair in $(echo "${3#--set-ctrl=}" | tr ',' ' '); do
    case "$pair" in
    brightness=*) brightness=${pair#*=} ;;
    focus_automatic_continuous=*) auto=${pair#*=} ;;
    focus_absolute=*) focus=${pair#*=} ;;
    esac
  done
  echo "$brightness $auto $focus" >"$state" ;;
*) exit 127 ;;
esac
"""


class Device:
    """One device below a folder and its ONVIF service; `facts` may be replaced in parts."""

    def __init__(self, root: Path) -> None:
        self.root = root
        tools = root / "tools"
        tools.mkdir()
        (tools / "v4l2-ctl").write_text(V4L2_CTL)
        (tools / "v4l2-ctl").chmod(0o755)
        self.system = System(root, env={"PATH": f"{tools}:{PLAIN_ENV['PATH']}"})
        self.more: dict[str, Any] = {"interfaces": (ETH0,)}
        self.effects = Effects(self.system)
        self.points = PullPoints()
        self.gate = Gate()
        self.service = Service(self.effects, self.gate, self.points, self.points.publish)
        self.keys: dict[str, str] = {}

    def configure(self, **keys: object) -> None:
        self.keys |= {name: str(value) for name, value in keys.items()}
        self.system.write("/etc/rpi-cam/config.env", "".join(f'{key}="{text}"\n' for key, text in self.keys.items()))

    @property
    def facts(self) -> Facts:
        return replace(FactSource(self.system).now(), **self.more)

    def env(self) -> str:
        return self.system.read("/etc/rpi-cam/config.env")

    def call(
        self, operation: str, inner: str = "", *, path: str = "/onvif/service", now_s: float | None = None, **more: Any
    ) -> Answer:
        return self.send(request(operation, inner, **more), path=path, now_s=now_s)

    def send(
        self,
        data: bytes,
        *,
        path: str = "/onvif/service",
        now_s: float | None = None,
        authorization: str = "",
        address: str = "10.0.0.9",
    ) -> Answer:
        """Answer as the daemon does; a pull that would wait ends at once."""
        from meetingctl.device.onvif.event_service import pulled

        now_s = time.time() if now_s is None else now_s
        caller = Caller(address, "POST", path, authorization)
        ready = None
        try:
            ready = self.service.admit(data, caller, self.facts, host="10.0.0.7", port=8080, now_s=now_s)
            result = ready.run()
            if isinstance(result, Pull):
                result = pulled(result.point, result.point.take(result.limit), now_s)
            return write_answer(ready.request, result)
        except Fault as error:
            return write_fault(error, ready.request if ready else None)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    """A provisioned-looking camera without login."""
    made = Device(tmp_path)
    made.configure(VIDEOIN_WIDTH=1280, VIDEOIN_HEIGHT=720, VIDEOIN_FPS=30)
    yield made
    made.effects.close()


@pytest.fixture
def call(device: Device) -> Callable[..., Answer]:
    return device.call

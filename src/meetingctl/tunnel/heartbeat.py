"""Heartbeats of a device: one small request per interval, on a thread of its own."""

from __future__ import annotations

import logging
import random
import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, urlsplit

from meetingctl.core.errors import InvalidInput, MeetingctlError
from meetingctl.core.net import is_mac
from meetingctl.core.secret import Secret
from meetingctl.core.versions import check_version

log = logging.getLogger(__name__)

_JITTER = 0.1


class Heartbeat:
    """Tell the API every interval that the device lives. A failure is logged when it begins and when it ends."""

    def __init__(
        self,
        api_url: str,
        *,
        device_key: str,
        token: Secret,
        interval_s: float,
        installed_version: str = "",
        version_file: str = "",
    ) -> None:
        """Prepare; nothing is sent yet. The version is what is given, else what the file says at that moment.

        Raises: InvalidInput for a bad URL.
        """
        from meetingctl.client import FleetClient  # an agent without heartbeats stays on the standard library

        self._client = FleetClient(api_url, token_code=token, timeout_s=min(10.0, max(1.0, interval_s)))
        self._api_url = api_url
        self._path = f"/api/devices/{quote(device_key, safe='')}/online"
        self._interval_s = interval_s
        self._installed_version = installed_version
        self._version_file = version_file
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self.last_error = ""
        self.accepted = 0

    @property
    def is_accepted(self) -> bool:
        """Say whether the last heartbeat got through."""
        return self.accepted > 0 and not self.last_error

    def start(self) -> None:
        """Start sending."""
        self._thread.start()

    def close(self, timeout_s: float = 5.0) -> None:
        """Stop sending; a request in flight is waited for at most the timeout."""
        self._stop.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        with self._client:
            while not self._stop.is_set():
                self._beat()
                self._stop.wait(self._interval_s * random.uniform(1 - _JITTER, 1 + _JITTER))  # noqa: S311 - spreads load

    def _beat(self) -> None:
        version = self._installed_version or read_version(self._version_file)
        try:
            self._client.request("POST", self._path, json=read_identity(self._api_url, version))
        except MeetingctlError as exc:
            if not self.last_error:
                log.warning("heartbeat failed", extra={"error": exc.message})
            self.last_error = exc.message
        else:
            if self.last_error:
                log.info("heartbeat accepted again")
            self.last_error = ""
            self.accepted += 1


def read_identity(api_url: str, installed_version: str) -> Mapping[str, str]:
    """Return what a heartbeat says of this machine; what cannot be found out is left away."""
    address = _outgoing_address(api_url)
    fields = {"ip_lan": address, "mac": _mac_of(address), "installed_version": installed_version}
    return {key: value for key, value in fields.items() if value}


def read_version(path: str) -> str:
    """Return the first line of a file with a version; empty without a file, or when it is no version."""
    if not path:
        return ""
    try:
        with Path(path).open("rb") as file:
            line = file.read(200).split(b"\n")[0].decode("ascii").strip()
        return check_version(line)
    except (OSError, ValueError, InvalidInput):
        return ""


def _outgoing_address(api_url: str) -> str:
    """Ask the routing table which local address leads to the API; nothing is sent."""
    parts = urlsplit(api_url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        family, _, _, _, address = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    except (OSError, ValueError):
        return ""


def _mac_of(address: str) -> str:
    """Return the hardware address of the interface that has the default route, empty when there is none."""
    if not address:
        return ""
    try:
        routes = Path("/proc/net/route").read_text(encoding="ascii").splitlines()[1:]
        names = [fields[0] for fields in map(str.split, routes) if len(fields) > 1 and fields[1] == "00000000"]
        mac = Path("/sys/class/net", names[0], "address").read_text(encoding="ascii").strip() if names else ""
    except OSError:
        return ""
    return mac.upper() if is_mac(mac) else ""

"""Where facts come from: configuration files when they change, network and stream every few seconds."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from meetingctl.core.errors import MeetingctlError
from meetingctl.core.layout import CONFIG_ENV, ONVIF_CONF, RECORDER_CONF
from meetingctl.core.netlink import Interface, read_interfaces
from meetingctl.device.config import DeviceConfig, Loaded, load_config, read_env
from meetingctl.device.onvif.conf import OnvifConf, means_login, read_conf, sync_login
from meetingctl.device.onvif.facts import Facts, read_board, read_gateways, read_name_servers, read_stream
from meetingctl.device.onvif.naming import read_kept
from meetingctl.device.stream.control import ask_daemon
from meetingctl.device.system import System

_ASK_TIMEOUT_S = 2.0
_READER = "O"  # this service in the table of keys

log = logging.getLogger(__name__)


class Look(NamedTuple):
    """What changes by itself: the stream's state and the network."""

    stream: Mapping[str, Any]
    interfaces: tuple[Interface, ...]
    name_servers: tuple[str, ...]
    gateways: tuple[str, ...]


class FactSource:
    """Keeps the facts of the moment. `now` is cheap enough for every request."""

    def __init__(self, system: System, *, may_write: bool = True) -> None:
        """Read everything that answers at once; `may_write` copies the stream's login into onvif.conf.

        Raises: ConfigError, Forbidden.
        """
        self.needs_sync = may_write
        self._may_write = may_write
        self._system = system
        # Looked at for every request: to let the system check the whole path each time costs thirty times as much.
        self._watched = tuple(str(system.root / path.lstrip("/")) for path in (CONFIG_ENV, RECORDER_CONF, ONVIF_CONF))
        file = read_env(system)
        self._loaded: Loaded = load_config(file)
        self._marks = self._read_marks()
        interfaces = read_interfaces()
        config = self._loaded.config
        self._facts = Facts(
            config=config,
            conf=read_conf(system),
            board=read_board(system, interfaces),
            interfaces=interfaces,
            name=read_kept(system, config),
            name_servers=read_name_servers(system),
            gateways=read_gateways(),
            means_login=means_login(file.render()),
        )
        self._tell_problems()
        self.sync()

    def now(self) -> Facts:
        """Return the facts, with the files read again when they were replaced."""
        marks = self._read_marks()
        if marks != self._marks:
            self._marks = marks
            self._read_files()
        return self._facts

    def look(self) -> Look:
        """Look at network and stream; may take two seconds, so it belongs into a thread. Changes nothing here."""
        return Look(self._ask_stream(), read_interfaces(), read_name_servers(self._system), read_gateways())

    def adopt(self, look: Look) -> Facts:
        """Take over what was seen, and what has changed in the files."""
        self._facts = replace(
            self.now(),
            stream=look.stream,
            config=self._effective(look.stream),
            interfaces=look.interfaces,
            name_servers=look.name_servers,
            gateways=look.gateways,
        )
        return self._facts

    def set_name(self, name: str) -> None:
        self._facts = replace(self._facts, name=name)

    def set_relay(self, has_relay: bool) -> None:
        self._facts = replace(self._facts, has_relay=has_relay)

    def _effective(self, stream: Mapping[str, Any]) -> DeviceConfig:
        """Return the configuration with the defaults of the camera that streams."""
        is_csi = stream.get("source") in {"csi", "libcamera"}
        return self._loaded.for_csi() if is_csi else self._loaded.config

    def _read_files(self) -> None:
        """Read both files; one that is broken changes nothing."""
        try:
            file = read_env(self._system)
            loaded = load_config(file)
            conf: OnvifConf = read_conf(self._system)
        except MeetingctlError as error:
            log.error("configuration kept", extra={"error": error.message, "hint": error.hint})
            return
        self._loaded = loaded
        self._tell_problems()
        config = self._effective(self._facts.stream)
        self._facts = replace(self._facts, config=config, conf=conf, means_login=means_login(file.render()))
        self.needs_sync = self._may_write

    def _tell_problems(self) -> None:
        """Say what is wrong with the keys that this service reads; their defaults are used."""
        if self._may_write:
            for problem in self._loaded.problems:
                if _READER in problem.readers or problem.kind in {"broken", "half"}:
                    log.warning("config.env", extra={"problem": problem.text()})

    def sync(self) -> None:
        """Copy the login of the stream into onvif.conf; may wait for the lock of the folder, so not for requests.

        `needs_sync` stays true when that failed, and the next `now` sees the new file.
        """
        if not self.needs_sync:
            return
        try:
            # Not the facts of the moment: they may be older than the file.
            if sync_login(self._system):
                log.info("onvif.conf has the login of the stream now")
            self.needs_sync = False
        except MeetingctlError as error:
            log.warning("onvif.conf is not in step", extra={"error": error.message})

    def _ask_stream(self) -> Mapping[str, Any]:
        try:
            return read_stream(ask_daemon(self._system, "status", timeout_s=_ASK_TIMEOUT_S))
        except MeetingctlError:
            return {}

    def _read_marks(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(map(_mark, self._watched))


def _mark(path: str) -> tuple[int, int, int] | None:
    """Return what changes whenever a file is replaced or written."""
    try:
        found = os.stat(path)  # noqa: PTH116 - pathlib would cost more than the call
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino

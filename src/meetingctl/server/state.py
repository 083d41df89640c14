"""Everything long-lived that the slices share, made once by the lifespan."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meetingctl.core.net import IpNetwork, parse_networks
from meetingctl.core.settings import Settings
from meetingctl.server.audit.refusals import Refusals
from meetingctl.server.changes import Changes
from meetingctl.server.db.engine import Database
from meetingctl.server.db.writer import GroupWriter
from meetingctl.server.devices.heartbeat import Heartbeats
from meetingctl.server.devices.index import DeviceIndex
from meetingctl.server.identity.credentials import CredentialCheck
from meetingctl.server.identity.keys import KeyRing
from meetingctl.server.identity.sessions import Signer
from meetingctl.server.metrics.prometheus import Metrics

FleetCounts = dict[Any, tuple[float, dict[str, int]]]


@dataclass(frozen=True, slots=True)
class ServerState:
    """The parts of a running server. A request finds them at `request.app.state.server`."""

    settings: Settings
    data_dir: Path
    database: Database
    writer: GroupWriter
    index: DeviceIndex
    ring: KeyRing
    credentials: CredentialCheck
    metrics: Metrics
    heartbeats: Heartbeats
    changes: Changes
    trusted_proxies: tuple[IpNetwork, ...] = ()
    refusals: Refusals = field(default_factory=Refusals)
    fleet_counts: FleetCounts = field(default_factory=dict)  # filter -> until when (monotonic), counts per state
    started_s: float = field(default_factory=time.monotonic)


def make_state(settings: Settings, data_dir: Path, database: Database) -> ServerState:
    """Wire the parts together; nothing runs yet."""
    writer = GroupWriter(database.writing)
    index, ring, metrics = DeviceIndex(database), KeyRing(), Metrics()
    credentials = CredentialCheck(database, writer, index, ring, Signer(settings, data_dir))
    credentials.refused = metrics.refused_credential
    writer.observe = metrics.observe_commit
    metrics.watch_writer(lambda: writer.pending)
    has_others = database.dialect == "postgresql"
    return ServerState(
        settings=settings,
        data_dir=data_dir,
        database=database,
        writer=writer,
        index=index,
        ring=ring,
        credentials=credentials,
        metrics=metrics,
        heartbeats=Heartbeats(settings, writer, index, credentials, metrics),
        changes=Changes(index, ring, writer if has_others else None),
        trusted_proxies=parse_networks(settings.trusted_proxies),
    )

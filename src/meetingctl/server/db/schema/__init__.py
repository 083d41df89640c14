"""Every table, one module per slice. Times are integer milliseconds since the epoch.

The migrations under `migrations/versions` build the same tables; a test compares the two.
"""

from meetingctl.server.db.schema.audit import audit, audit_head
from meetingctl.server.db.schema.base import metadata
from meetingctl.server.db.schema.builder import build_files, builds, package_jobs
from meetingctl.server.db.schema.catalog import device_types, distribution_files
from meetingctl.server.db.schema.devices import connection_logs, device_tags, devices, presence, presence_reports
from meetingctl.server.db.schema.identity import api_keys, refresh_tokens, users
from meetingctl.server.db.schema.keys import device_key_log, device_keys, server_keys
from meetingctl.server.db.schema.tunnels import tunnel_agents, tunnel_ports, tunnel_status, tunnel_visits
from meetingctl.server.db.schema.updates import (
    current_releases,
    device_updates,
    release_history,
    releases,
    rollout_devices,
    rollouts,
    update_attempts,
    update_channels,
)
from meetingctl.server.db.schema.webhooks import webhook_deliveries, webhooks

__all__ = [
    "api_keys",
    "audit",
    "audit_head",
    "build_files",
    "builds",
    "connection_logs",
    "current_releases",
    "device_key_log",
    "device_keys",
    "device_tags",
    "device_types",
    "device_updates",
    "devices",
    "distribution_files",
    "metadata",
    "package_jobs",
    "presence",
    "presence_reports",
    "refresh_tokens",
    "release_history",
    "releases",
    "rollout_devices",
    "rollouts",
    "server_keys",
    "tunnel_agents",
    "tunnel_ports",
    "tunnel_status",
    "tunnel_visits",
    "update_attempts",
    "update_channels",
    "users",
    "webhook_deliveries",
    "webhooks",
]

"""The shapes of a device on the wire. Pure."""

from __future__ import annotations

import secrets
import string
from collections.abc import Sequence
from typing import Any, Protocol

from meetingctl.core.clock import wire_text
from meetingctl.core.ids import DeviceKey


class Row(Protocol):
    """A database row, or a dictionary of the same columns."""

    def __getitem__(self, name: str, /) -> Any: ...


_READABLE = "".join(sorted(set(string.ascii_letters + string.digits) - set("0O1lI")))
SECRETS = ("token_code", "ap_ssid", "ap_password")
ADMIN_SECRETS = ("http_pw_low", "http_pw_medium", "http_pw_high")


def presence_status(last_seen_ms: int | None, now_ms: int, timeout_s: float) -> str:
    """Return `Available`, `Disconnected`, or `Unknown` for a device never seen."""
    if last_seen_ms is None:
        return "Unknown"
    return "Available" if now_ms - last_seen_ms <= timeout_s * 1000 else "Disconnected"


def availability(last_seen_ms: int | None, now_ms: int, timeout_s: float) -> dict[str, Any]:
    """Return the availability object; `uptime` is seconds since the last heartbeat (decision D-SINCE)."""
    seen = wire_text(last_seen_ms)
    return {
        "status": presence_status(last_seen_ms, now_ms, timeout_s),
        "last_heartbeat": seen,
        "since": seen,
        "uptime": None if last_seen_ms is None else max(0, (now_ms - last_seen_ms) // 1000),
    }


def device_object(row: Row, now_ms: int, timeout_s: float, tags: Sequence[str] = ()) -> dict[str, Any]:
    """Return a device without its secrets. `row` joins `devices` with `presence` and the parent's key."""
    status = presence_status(row["last_seen_ms"], now_ms, timeout_s)
    return {
        "device_key": row["device_key"],
        "device_name": row["device_name"] or row["device_key"],
        "product_serial": row["product_serial"],
        "authorized": bool(row["authorized"]),
        "device_type": row["device_type"],
        "distribution": row["distribution"],
        "token_count": row["token_count"],
        "note": row["note"] or row["status_note"] or "",
        "status_note": row["status_note"] or "",
        "ip_address": row["ip_address"],
        "ip_lan": row["ip_lan"],
        "ip_public": row["ip_public"],
        "mac": row["mac"],
        "cluster_ip": row["cluster_ip"],
        "last_seen": wire_text(row["last_seen_ms"]),
        "registered_at": wire_text(row["registered_at_ms"]),
        "parent_device_key": row["parent_device_key"],
        "bundles": row["bundles"] or [],
        "ghost_candidate_url": row["ghost_candidate_url"],
        "services": row["services"] or [],
        "local_ports": row["local_ports"] or {},
        "online": status == "Available",
        "status": status,
        "installed_version": row["installed_version"],
        "tags": list(tags),
    }


def secret_fields(row: Row, *, admin: bool) -> dict[str, str]:
    """Return the secrets that an administrator (all) or the device itself may read."""
    names = SECRETS + ADMIN_SECRETS if admin else SECRETS
    return {name: row[name] for name in names}


def new_device_secrets(device_key: DeviceKey) -> dict[str, str]:
    """Make the access point name and the passwords of a new device (12 readable characters, 68 bits)."""
    return {
        "ap_ssid": f"CAM-{device_key[-6:].upper()}",
        **{name: _password() for name in ("ap_password", *ADMIN_SECRETS)},
    }


def new_serial(device_type: str) -> str:
    """Make a serial number from the type's name and 32 random bits: `RPICAM-3FA9C1D2`."""
    prefix = "".join(char for char in device_type.upper() if char.isalnum())[:16] or "DEVICE"
    return f"{prefix}-{secrets.token_hex(4).upper()}"


def _password() -> str:
    return "".join(secrets.choice(_READABLE) for _ in range(12))

"""What a recorder would be told, read without a running service."""

from __future__ import annotations

from typing import Any

from meetingctl.device.onvif.addresses import preferred_address
from meetingctl.device.onvif.call import SERVICE_PATHS, SNAPSHOT_PATH
from meetingctl.device.onvif.device_service import scopes_of, services_of
from meetingctl.device.onvif.encoder import encoding_of
from meetingctl.device.onvif.event_service import topics_of
from meetingctl.device.onvif.facts import Facts
from meetingctl.device.onvif.profiles import profiles_of
from meetingctl.device.onvif.relay import load_gpiod, refusal
from meetingctl.device.onvif.source import FactSource
from meetingctl.device.system import System


def describe_service(system: System) -> dict[str, Any]:
    """Put together what is announced. Raises: ConfigError, Forbidden."""
    source = FactSource(system, may_write=False)
    facts = source.adopt(source.look())
    reason = refusal(facts.config, load_gpiod() if facts.config.relay_enable else None)
    source.set_relay(not reason)
    return shown(source.now(), relay=reason or facts.config.relay_output_token)


def shown(facts: Facts, *, relay: str) -> dict[str, Any]:
    """Return the facts as one flat object; no password is in it."""
    config = facts.config
    address = preferred_address(facts.interfaces, config.network_interface_priority)
    base = f"http://{address}:{facts.conf.port}"
    return {
        "enabled": facts.conf.enabled,
        "address": f"{base}{SERVICE_PATHS['tds']}",
        "preferred_ip": address,
        "login": "none"
        if facts.login is None
        else facts.login.user or "closed: the login in config.env cannot be used",
        "name": facts.name,
        "serial": facts.serial,
        "hardware": facts.board.model,
        "endpoint": facts.board.endpoint,
        "profiles": [_profile(facts, item.token, item.encoder) for item in profiles_of(facts)],
        "streams": [
            f"rtsp://{address}:{config.rtsp_port}/{config.rtsp_path}{p.path_suffix}" for p in profiles_of(facts)
        ],
        "snapshot": f"{base}{SNAPSHOT_PATH}",
        "services": list(services_of(facts)),
        "scopes": scopes_of(facts),
        "topics": sorted(topics_of(facts)),
        "relay": relay,
    }


def _profile(facts: Facts, token: str, encoder: str) -> str:
    now = encoding_of(facts, encoder)
    return f"{token} {now.width_px}x{now.height_px} {now.fps} fps {now.bitrate_kbps} kbit/s"

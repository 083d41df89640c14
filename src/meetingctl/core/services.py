"""The services of a device: their names, the port each has on the device, and the address a visitor uses."""

from __future__ import annotations

TUNNEL_SERVICES = ("ssh", "http", "vnc", "scp", "relay")
DECLARED_SERVICES = ("ssh", "http", "vnc", "scp", "debug")

# Decision D-LOCALPORT; a device may override each. `relay` names its port in the request.
DEFAULT_LOCAL_PORTS = {"ssh": 22, "scp": 22, "http": 80, "vnc": 5900}

_ADDRESS_FORMS = {
    "ssh": "ssh -p {port} device@{host}",
    "scp": "scp -P {port} device@{host}:",
    "http": "http://{host}:{port}",
    "vnc": "vnc://{host}:{port}",
    "relay": "tcp://{host}:{port}",
}


def service_url(service: str, host: str, port: int) -> str:
    """Return the text that a visitor uses to reach a tunnel (decision D-URL)."""
    shown = f"[{host}]" if ":" in host and service in {"http", "vnc", "relay", "scp"} else host
    return _ADDRESS_FORMS[service].format(host=shown, port=port)

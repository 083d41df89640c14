"""The demo device: its files, and its entry in the registry, made and kept through the public API."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Container
from dataclasses import asdict, dataclass
from pathlib import Path

from meetingctl.client import FleetClient
from meetingctl.core.errors import Busy, ConfigError, InvalidInput, NotFound
from meetingctl.core.ids import new_token_code, parse_device_key, parse_token_code
from meetingctl.core.paths import write_atomic
from meetingctl.core.secret import Secret
from meetingctl.tunnel.agentconfig import AgentConfig

HOST = "127.0.0.1"
DEVICE_KEY = "demo-cam"
DEVICE_TYPE = "demo"
DISTRIBUTION = "demo"
SERVICES = ("ssh", "scp", "http")
PORT_TRIES = 8
HEARTBEAT_S = 10.0


@dataclass(frozen=True, slots=True)
class DeviceState:
    """What the device remembers between two starts; ports of 0 are not chosen yet."""

    device_key: str
    token_code: str
    ssh_port: int = 0
    http_port: int = 0


def read_state(path: Path) -> DeviceState:
    """Read the device's file, or make a new device. Raises: ConfigError."""
    try:
        state = DeviceState(**json.loads(path.read_text(encoding="utf-8")))
        parse_device_key(state.device_key)
        parse_token_code(state.token_code)
    except FileNotFoundError:
        return DeviceState(DEVICE_KEY, new_token_code())
    except (OSError, ValueError, TypeError, InvalidInput) as exc:
        raise ConfigError(f"cannot read {path}: {exc}", hint=f"rm {path}") from exc
    return state


def write_state(path: Path, state: DeviceState) -> None:
    """Keep the device's file; it holds a secret."""
    write_atomic(path, json.dumps(asdict(state), indent=2) + "\n", mode=0o600)


def enrol(client: FleetClient, state: DeviceState) -> None:
    """Bring the registry's entry into the wanted state; doing it twice changes nothing."""
    token_code = Secret(state.token_code)
    try:
        known = client.get_device(state.device_key, secrets=True).get("token_code")
    except NotFound:
        client.create_device(
            state.device_key, token_code=token_code, device_type=DEVICE_TYPE, distribution=DISTRIBUTION
        )
    else:
        if known != state.token_code:
            client.set_token_code(state.device_key, token_code)
    client.set_authorized(state.device_key, True)
    local_ports = {"ssh": state.ssh_port, "scp": state.ssh_port, "http": state.http_port}
    client.set_services(state.device_key, SERVICES, local_ports=local_ports)


def open_public_port(
    client: FleetClient, key: str, service: str, *, pool: Container[int], is_free: Callable[[int], bool]
) -> int:
    """Open a tunnel on a port of the pool that no other program holds, and return the port.

    A tunnel that an earlier start with another pool has left is closed and opened anew. Call it before the agent is
    connected, when nobody listens on a free port. Raises: Busy.
    """
    for _ in range(PORT_TRIES):
        port = int(client.open_tunnel(key, service)["port"])
        if port in pool and is_free(port):
            return port
        client.close_tunnel(port)
    raise Busy(
        f"other programs hold the public ports, port {port} among them",
        hint="choose others, for example meetingctl demo --tunnel-ports 19050-19130",
    )


def is_port_free(host: str, port: int) -> bool:
    """Say whether nobody listens there."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError:
        return False
    return True


def agent_config(state: DeviceState, tunnel_address: tuple[str, int], server_url: str) -> AgentConfig:
    """Return the configuration of the device's agent: its two services, and no other port of this machine."""
    host, port = tunnel_address
    return AgentConfig(
        server_host=host,
        server_port=port,
        device_key=state.device_key,
        token=Secret(state.token_code),
        ports=frozenset({state.ssh_port, state.http_port}),
        api_url=server_url,
        heartbeat_s=HEARTBEAT_S,
    )


def write_ssh_config(folder: Path, name: str, port: int) -> Path:
    """Write the configuration with which `ssh`, `scp` and `sftp` find the device, and return its path."""

    def quote(path: Path) -> str:
        return '"' + str(path).replace("%", "%%") + '"'

    settings = {
        "HostName": HOST,
        "Port": port,
        "User": "device",
        "IdentityFile": quote(folder / "id_ed25519"),
        "IdentitiesOnly": "yes",
        "HostKeyAlias": name,
        "UserKnownHostsFile": quote(folder / "known_hosts"),
        "GlobalKnownHostsFile": "none",
        "StrictHostKeyChecking": "yes",
        "UpdateHostKeys": "no",
    }
    lines = [f"Host {name}", *(f"    {key} {value}" for key, value in settings.items())]
    path = folder / "ssh_config"
    host_key = (folder / "ssh_host_ed25519_key.pub").read_text(encoding="utf-8")
    write_atomic(folder / "known_hosts", f"{name} {host_key}")
    write_atomic(path, "\n".join(lines) + "\n")
    return path

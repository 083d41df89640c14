"""A fleet from the outside: server, device and agent as processes, reached through the public command line only."""

from __future__ import annotations

import contextlib
import getpass
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
READY_S = 30.0
POLL_S = 0.05
PUBLIC_PORTS = 6


def wait_until(condition: Callable[[], Any], what: str, *, within_s: float = READY_S) -> Any:
    """Poll until the condition gives something true, and return that."""
    deadline_s = time.monotonic() + within_s
    while not (result := condition()):
        assert time.monotonic() < deadline_s, f"{what} did not happen within {within_s:g} s"
        time.sleep(POLL_S)
    return result


def is_free(port: int, host: str = HOST) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_ports(count: int) -> int:
    """Return the first of `count` free ports in a row, below the range that the kernel gives out by itself."""
    for _ in range(200):
        first = random.randrange(12_000, 32_000 - count)
        if all(is_free(port) for port in range(first, first + count)):
            return first
    raise AssertionError("no free ports in a row")


def own_address() -> str | None:
    """Return an address of this machine that is not loopback; no packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("203.0.113.1", 9))
        address = str(probe.getsockname()[0])
        return None if address.startswith("127.") else address
    return None


@dataclass
class Daemon:
    """A process with its own group and a log, ended together with what it started."""

    argv: list[str]
    env: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.argv, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self) -> None:
        """kill -9, and nothing else."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        assert self.process is not None
        self.process.terminate()
        try:
            return self.process.wait(20)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""


@dataclass
class User:
    """An operator with a home of their own."""

    home: Path
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        self.env = {"HOME": str(self.home), "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", **self.env}

    def argv(self, *args: str) -> list[str]:
        return [sys.executable, "-m", "meetingctl", *args]

    def run(self, *args: str, within_s: float = 60, **more: Any) -> subprocess.CompletedProcess[bytes]:
        options = {"stdin": subprocess.DEVNULL} if "input" not in more else {}
        return subprocess.run(self.argv(*args), env=self.env, capture_output=True, timeout=within_s, **options, **more)

    def json(self, *args: str) -> Any:
        done = self.run(*args, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    def daemon(self, name: str, *args: str, **env: str) -> Daemon:
        return Daemon(self.argv(*args), self.env | env, self.home / f"{name}.log")


class Sshd:
    """OpenSSH's server with a configuration and keys of its own, for the user who runs the tests."""

    def __init__(self, folder: Path, *addresses: str, port: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = port or free_ports(1)
        self.user = getpass.getuser()
        self.identity = folder / "id"
        for name in ("host_key", "id"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
        shutil.copy(folder / "id.pub", folder / "authorized_keys")
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        lines = [
            *(f"ListenAddress {address}:{self.port}" for address in addresses or (HOST,)),
            f"HostKey {folder / 'host_key'}",
            f"PidFile {folder / 'pid'}",
            f"AuthorizedKeysFile {folder / 'authorized_keys'}",
            "StrictModes no",
            "UsePAM no",
            "PasswordAuthentication no",
            "PermitRootLogin prohibit-password",
            "MaxStartups 200",
            "Subsystem sftp internal-sftp",
        ]
        config = folder / "sshd_config"
        config.write_text("\n".join(lines) + "\n")
        program = shutil.which("sshd") or "/usr/sbin/sshd"
        self.daemon = Daemon([program, "-D", "-e", "-f", str(config)], dict(os.environ), folder / "log")

    def start(self, host: str = HOST) -> None:
        self.daemon.start()
        wait_until(lambda: answers_ssh(self.port, host), "the device's sshd answering")


def answers_ssh(port: int, host: str = HOST) -> bool:
    """Say whether an SSH server greets at the port."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=2) as visitor:
        return visitor.recv(4) == b"SSH-"
    return False


class World:
    """One server, one device with a real sshd, one agent."""

    key = "cam-e2e"

    def __init__(self, folder: Path, *, is_split: bool = False, addresses: tuple[str, ...] = ()) -> None:
        """`is_split` runs the proxy as a process of its own."""
        self.folder = folder
        first = free_ports(2 + PUBLIC_PORTS)
        self.api_port, self.tunnel_port = first, first + 1
        self.public_ports = f"{first + 2}-{first + 1 + PUBLIC_PORTS}"
        self.url = f"http://{HOST}:{self.api_port}"
        self.data = folder / "data"
        self.operator = User(folder / "operator", {"MEETINGCTL_SERVER_URL": self.url})
        self.sshd = Sshd(folder / "sshd", *addresses)
        self.is_split = is_split
        self.server = self._server()
        self.proxy: Daemon | None = None
        self.agent: Daemon | None = None

    def _server(self) -> Daemon:
        options = ["--data", str(self.data)]
        env = {"MEETINGCTL_HEARTBEAT_INTERVAL_S": "0.001", "MEETINGCTL_LOG_LEVEL": "warning"}
        if self.is_split:
            listen = ["serve", "api", "--listen", f"{HOST}:{self.api_port}", "--tunnel-ports", self.public_ports]
        else:
            listen = ["serve", "all", "--api-listen", f"{HOST}:{self.api_port}"]
            listen += ["--tunnel-listen", f"{HOST}:{self.tunnel_port}", "--tunnel-ports", self.public_ports]
        return self.operator.daemon("server", *listen, *options, **env)

    def start_server(self) -> None:
        self.server.start()
        wait_until(lambda: self.health() or not self.server.is_running, "the server answering")
        assert self.server.is_running, self.server.text()
        credentials = (self.data / "credentials.toml").read_text()
        config = self.operator.home / ".config/meetingctl/credentials.toml"
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(credentials)
        config.chmod(0o600)

    def start(self) -> None:
        """Bring everything up, and make the device."""
        self.sshd.start()
        self.start_server()
        made = self.operator.json("fleet", "create", self.key, "--type", "e2e", "--distribution", "e2e")
        self.token_code = str(made["token_code"])
        assert self.operator.run("fleet", "authorize", self.key).returncode == 0
        port = f"ssh={self.sshd.port}"
        assert self.operator.run("fleet", "services", self.key, "--local-port", port).returncode == 0
        if self.is_split:
            self.start_proxy()
        self.start_agent()
        self.public_port = int(self.operator.json("tunnel", "open", self.key, "ssh")["port"])
        self.wait_ssh()

    def start_proxy(self) -> None:
        if self.proxy is None:
            key = self.operator.json("token", "create", "proxy", "--role", "proxy")["key"]
            self.proxy = self.operator.daemon(
                "proxy",
                *("serve", "tunnel", "--api", self.url, "--listen", f"{HOST}:{self.tunnel_port}"),
                MEETINGCTL_API_KEY=key,
                MEETINGCTL_TUNNEL_POLL_S="0.2",
            )
        self.proxy.start()

    def start_agent(self) -> None:
        if self.agent is None:
            code = self.folder / "token_code"
            code.write_text(self.token_code)
            device = User(self.folder / "device")
            self.agent = device.daemon(
                "agent",
                *("tunnel", "agent", "--server", f"{HOST}:{self.tunnel_port}", "--device-key", self.key),
                *("--token-file", str(code), "--api", self.url),
                MEETINGCTL_AGENT_PORTS=str(self.sshd.port),
                MEETINGCTL_AGENT_HEARTBEAT_S="0",
            )
        self.agent.start()

    def wait_ssh(self, *, within_s: float = READY_S) -> None:
        """Wait until the device's sshd greets through the tunnel."""
        wait_until(lambda: answers_ssh(self.public_port), "sshd answering through the tunnel", within_s=within_s)

    def health(self) -> dict[str, Any] | None:
        connection = http.client.HTTPConnection(HOST, self.api_port, timeout=2)
        try:
            connection.request("GET", "/api/health")
            answer = connection.getresponse()
            return json.loads(answer.read()) if answer.status == 200 else None
        except OSError:
            return None
        finally:
            connection.close()

    def ssh_options(self) -> list[str]:
        """Options of OpenSSH's programs for this device through its public port."""
        known_hosts = self.folder / "known_hosts"
        host_key = (self.folder / "sshd/host_key.pub").read_text()
        known_hosts.write_text(f"{self.key} {host_key}")
        pairs = {
            "Port": self.public_port,
            "User": self.sshd.user,
            "IdentityFile": self.sshd.identity,
            "IdentitiesOnly": "yes",
            "HostKeyAlias": self.key,
            "UserKnownHostsFile": known_hosts,
            "StrictHostKeyChecking": "yes",
            "BatchMode": "yes",
        }
        return ["-F", "none", *(word for name, value in pairs.items() for word in ("-o", f"{name}={value}"))]

    def ssh(self, *words: str, within_s: float = 60, **more: Any) -> subprocess.CompletedProcess[bytes]:
        argv = ["ssh", *self.ssh_options(), HOST, *words]
        return subprocess.run(argv, capture_output=True, timeout=within_s, **more)

    def close(self) -> None:
        for daemon in (self.agent, self.proxy, self.server, self.sshd.daemon):
            if daemon is not None and daemon.is_running:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    daemon.stop()


@contextlib.contextmanager
def running(world: World) -> Iterator[World]:
    """Start a world and take it down; when it fails, its logs are in the test's output."""
    try:
        world.start()
        yield world
    except BaseException:
        for daemon in (world.server, world.proxy, world.agent, world.sshd.daemon):
            if daemon is not None:
                print(f"--- {daemon.log}\n{daemon.text()[-4000:]}")
        raise
    finally:
        world.close()

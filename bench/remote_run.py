"""`meetingctl remote run --all -- uptime` on 100 SSH servers, against `ansible -m raw` with 50 forks, and `pssh`.

Each target is an `sshd` of its own with its own host key, on an address of its own, inside a network namespace that
this file makes for itself (it needs root, `sshd`, `ip`, `unshare` and `parallel-ssh`; ansible-core comes from PyPI into
a virtual environment below the cache folder, once). The devices are registered with a running control plane, and every
contestant knows the host keys, logs in with the same key, and runs at most 50 at once. Rounds are interleaved and in
turns reversed; the first one only warms up. CPU time is that of the contestant and its child processes; wall time
includes the servers, which are the same for all.

The claims: at most 1/5 of ansible's wall time, at most 1/5 of its CPU time, no more wall time than pssh.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

FORKS = 50
READY_S = 30.0
INSIDE = "--inside-namespace"
GATES = {"ansible wall": 0.2, "ansible cpu": 0.2, "pssh wall": 1.0}


@dataclass(frozen=True)
class Spent:
    """What one run of a contestant took, its child processes included."""

    wall_s: float
    cpu_s: float


@dataclass(frozen=True)
class Contestant:
    """One way to run `uptime` everywhere."""

    name: str
    argv: Sequence[str]
    env: dict[str, str]

    def run(self, targets: int) -> Spent:
        """Run it. Ends the program when it does not reach every target."""
        began_s = time.perf_counter()
        with (
            tempfile.TemporaryFile() as out,
            subprocess.Popen(self.argv, env=self.env, stdin=subprocess.DEVNULL, stdout=out, stderr=out) as process,
        ):
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            wall_s = time.perf_counter() - began_s
            out.seek(0)
            text = out.read().decode(errors="replace")
        if process.returncode or text.count("load average") != targets:
            raise SystemExit(f"{self.name}: exit code {process.returncode}, {text[-2000:]}")
        return Spent(wall_s, usage.ru_utime + usage.ru_stime)


def find_ansible(cache: Path) -> str:
    """Return the program `ansible`, installed from PyPI when it is not there yet."""
    folder = cache / "ansible"
    program = folder / "bin/ansible"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([folder / "bin/pip", "install", "--quiet", "ansible-core>=2.16"], check=True)
    return str(program)


def make_key(path: Path) -> str:
    """Make a key pair and return its public half, kind and key."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return " ".join(path.with_name(f"{path.name}.pub").read_text().split()[:2])


@contextmanager
def running_servers(folder: Path, addresses: Sequence[str]) -> Iterator[Path]:
    """Run an sshd on each address; yield the file with their host keys."""
    visitor = make_key(folder / "id")
    (folder / "authorized_keys").write_text(f"{visitor}\n")
    Path("/run/sshd").mkdir(exist_ok=True)
    known, servers = [], []
    sshd = shutil.which("sshd", path="/usr/sbin:/usr/bin:/usr/local/sbin") or "sshd"
    try:
        for address in addresses:
            key = folder / f"host_{address}"
            known.append(f"{address} {make_key(key)}\n")
            options = {
                "ListenAddress": f"{address}:22",
                "HostKey": key,
                "AuthorizedKeysFile": folder / "authorized_keys",
                "PidFile": "none",
                "StrictModes": "no",
                "UsePAM": "no",
                "PermitRootLogin": "prohibit-password",
                "SetEnv": f"HOME={folder}",  # no start-up files of this machine's root
            }
            words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
            servers.append(subprocess.Popen([sshd, "-D", "-f", "/dev/null", *words], stderr=subprocess.DEVNULL))
        for address in addresses:
            wait_for_greeting(address)
        hosts = folder / "known_hosts"
        hosts.write_text("".join(known))
        yield hosts
    finally:
        for server in servers:
            server.terminate()
        for server in servers:
            server.wait(10)


def wait_for_greeting(address: str) -> None:
    """Wait until an SSH server answers. Raises: TimeoutError."""
    deadline_s = time.monotonic() + READY_S
    while time.monotonic() < deadline_s:
        with contextlib.suppress(OSError), socket.create_connection((address, 22), timeout=5) as connection:
            if connection.recv(4) == b"SSH-":
                return
        time.sleep(0.05)
    raise TimeoutError(f"{address}: no SSH server within {READY_S:g} s")


@contextmanager
def running_fleet(folder: Path, addresses: Sequence[str]) -> Iterator[dict[str, str]]:
    """Run a control plane that knows a device at each address; yield the environment of its operator."""
    from meetingctl.core.settings import Settings
    from meetingctl.server.run import ControlPlane

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def wait(coroutine: object) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, loop).result(READY_S)  # type: ignore[arg-type]

    plane = ControlPlane(Settings(api_listen="127.0.0.1:0"), folder / "data", frozenset({"api"}))
    wait(plane.start())
    url = f"http://127.0.0.1:{plane.api_address[1]}"
    try:
        register_devices(url, str(plane.first_key), addresses)
        yield {
            "HOME": str(folder / "home"),
            "PATH": os.environ["PATH"],
            "MEETINGCTL_SERVER_URL": url,
            "MEETINGCTL_API_KEY": str(plane.first_key),
        }
    finally:
        wait(plane.close())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(READY_S)


def register_devices(url: str, key: str, addresses: Sequence[str]) -> None:
    """Register a device for each address, and let it report that as its own."""
    import httpx

    with httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=30, trust_env=False) as client:
        for number, address in enumerate(addresses):
            name = f"bench-{number:03}"
            body = {"devicekey": name, "token_code": "A1B2C3", "device_type": "bench", "distribution": "bench"}
            client.post("/api/devices/manual-create", json=body).raise_for_status()
            client.put(f"/api/devices/{name}/authorize", json={"authorized": 1}).raise_for_status()
            client.post(f"/api/devices/{name}/online", json={"ip_lan": address}).raise_for_status()


def make_contestants(
    folder: Path, addresses: Sequence[str], hosts: Path, env: dict[str, str], ansible: str
) -> list[Contestant]:
    """Return the three; each logs in as root with the same key and checks the host keys."""
    own_hosts = folder / "home/.config/meetingctl/known_hosts"
    own_hosts.parent.mkdir(parents=True)
    keys = [line.partition(" ")[2] for line in hosts.read_text().splitlines()]
    own_hosts.write_text("".join(f"bench-{number:03} {key}\n" for number, key in enumerate(keys)))
    identity = folder / "id"
    inventory = folder / "inventory"
    inventory.write_text("".join(f"{address}\n" for address in addresses))
    options = f"-o UserKnownHostsFile={hosts} -o GlobalKnownHostsFile=/dev/null -o BatchMode=yes -o ControlMaster=no"
    plain = {"HOME": str(folder / "home"), "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    ours = [sys.executable, "-m", "meetingctl", "remote", "run", "--all", "--user", "root", "-i", str(identity)]
    theirs = [ansible, "all", "-i", str(inventory), "-m", "raw", "-a", "uptime", "-f", str(FORKS), "-u", "root"]
    pssh = ["parallel-ssh", "-i", "-h", str(inventory), "-l", "root", "-p", str(FORKS), "-t", "60"]
    return [
        Contestant("meetingctl", [*ours, "--parallel", str(FORKS), "--", "uptime"], env),
        Contestant(
            "ansible",
            [*theirs, "--private-key", str(identity)],
            # Without this it keeps connections open behind its back, and their time is never counted.
            plain | {"ANSIBLE_SSH_ARGS": options, "ANSIBLE_HOST_KEY_CHECKING": "True"},
        ),
        Contestant("pssh", [*pssh, "-x", f"-i {identity} {options}", "uptime"], plain),
    ]


def measure(contestants: Sequence[Contestant], rounds: int, targets: int) -> dict[str, list[Spent]]:
    """Run everybody once a round, in reverse on odd rounds; the first round is not counted."""
    spent: dict[str, list[Spent]] = {contestant.name: [] for contestant in contestants}
    for number in range(rounds + 1):
        for contestant in contestants[:: -1 if number % 2 else 1]:
            one = contestant.run(targets)
            if number:
                spent[contestant.name].append(one)
    return spent


def report(spent: dict[str, list[Spent]]) -> int:
    """Print medians and the ratios of each round; return 1 when a claim does not hold."""
    for name, runs in spent.items():
        wall_s, cpu_s = (statistics.median(getattr(one, what) for one in runs) for what in ("wall_s", "cpu_s"))
        print(f"{name:<12}wall {wall_s:6.2f} s   cpu {cpu_s:6.2f} s")
    ratios = {}
    for gate, most in GATES.items():
        other, what = gate.split()
        rounds = [
            getattr(mine, f"{what}_s") / getattr(theirs, f"{what}_s")
            for mine, theirs in zip(spent["meetingctl"], spent[other], strict=True)
        ]
        ratios[gate] = round(statistics.median(rounds), 3)
        shown = ", ".join(f"{one:.3f}" for one in rounds)
        print(f"{gate:<14}ratio {ratios[gate]:.3f}   rounds {shown}   at most {most:g}")
    holds = all(ratios[gate] <= most for gate, most in GATES.items())
    print(json.dumps({"bench": "remote_run", "ratios": ratios, "gates": GATES, "ok": holds}))
    return 0 if holds else 1


def inside(options: argparse.Namespace) -> int:
    """Do all of it, in the namespace."""
    ansible = find_ansible(options.cache)
    addresses = [f"10.77.{number // 250}.{number % 250 + 1}" for number in range(options.targets)]
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for address in addresses:
        subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "lo"], check=True)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="meetingctl-bench-")))
        hosts = stack.enter_context(running_servers(folder, addresses))
        env = stack.enter_context(running_fleet(folder, addresses))
        contestants = make_contestants(folder, addresses, hosts, env, ansible)
        return report(measure(contestants, options.rounds, options.targets))


def main() -> int:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meetingctl-bench"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cache", type=Path, default=cache, help="where ansible is kept")
    parser.add_argument(INSIDE, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    missing = [name for name in ("parallel-ssh", "ip", "unshare", "ssh-keygen") if shutil.which(name) is None]
    if os.geteuid() != 0 or missing:
        print(f"not run: needs root and {', '.join(missing) or 'nothing else'}", file=sys.stderr)
        return 1
    if options.inside_namespace:
        return inside(options)
    find_ansible(options.cache)
    words = [sys.executable, __file__, *sys.argv[1:], INSIDE]
    return subprocess.run(["unshare", "--net", *words], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

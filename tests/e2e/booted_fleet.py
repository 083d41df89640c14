"""A fleet of booted devices: the server that they dial to, an operator, and packages to install on them."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e.booted import BootedDevice, Site, booted_site, cache_folder, run
from e2e.world import Daemon, User, free_ports, wait_until

KEYS = ("cam-1", "cam-2")
FIRST, BETTER, BROKEN = "1.0.0", "1.1.0", "1.2.0"
WHEELS = "payload/opt/rpi-cam-webmanager/wheels/"
CHECKOUT = Path(__file__).parents[2]
EXTRA_PACKAGE = "meetingctl-trial"
RTSP_READY_S = 60.0


@dataclass
class Packages:
    """Three packages: the first, a better one, and one whose stream refuses to start."""

    folder: Path

    def of(self, version: str) -> Path:
        return next(self.folder.glob(f"rpi-cam-update_{version}_*.tar.gz"))

    def make(self) -> None:
        """Build them; Python packages are fetched once for each pyproject.toml, and kept in the cache."""
        self.folder.mkdir(parents=True)
        wheel = self.folder / "wheel"
        pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
        run(*pip, "--wheel-dir", wheel, CHECKOUT, within_s=300)
        (ours,) = wheel.glob("meetingctl-*.whl")
        links = self._kept_wheels(ours)
        self._bundle(FIRST, ours, "--find-links", str(links), "--no-index", "--require-package", EXTRA_PACKAGE)
        self._bundle(BETTER, ours, "--find-links", str(links), "--no-index")
        broken = self.folder / "broken" / ours.name
        break_stream(ours, broken)
        self._bundle(BROKEN, broken, "--find-links", str(links), "--no-index")

    def _bundle(self, version: str, wheel: Path, *options: str, out: Path | None = None) -> Path:
        words = ["builder", "bundle", "--arch", "amd64", "--release-version", version, "--out", out or self.folder]
        argv = [sys.executable, "-m", "meetingctl", *words, "--wheel", wheel, *options, "--json"]
        return Path(json.loads(run(*argv, within_s=600).stdout)["file"])

    def _kept_wheels(self, ours: Path) -> Path:
        key = hashlib.sha256((CHECKOUT / "pyproject.toml").read_bytes()).hexdigest()[:12]
        cache = cache_folder()
        cache.mkdir(parents=True, exist_ok=True)
        kept = cache / f"wheels-{key}"
        with (cache / "wheels.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not kept.is_dir():
                for old in cache.glob("wheels-*"):
                    shutil.rmtree(old)
                partial = kept.with_suffix(".partial")
                partial.mkdir(exist_ok=True)
                with tarfile.open(self._bundle("0.0.1", ours, out=self.folder / "fetched")) as package:
                    for member in package:
                        if member.name.startswith(WHEELS) and (file := package.extractfile(member)):
                            (partial / Path(member.name).name).write_bytes(file.read())
                (partial / ours.name).unlink()
                partial.rename(kept)
        return kept


def break_stream(wheel: Path, broken: Path) -> None:
    """Copy a wheel; in the copy the stream refuses to start, all else is the same."""
    broken.parent.mkdir(parents=True)
    with zipfile.ZipFile(wheel) as whole, zipfile.ZipFile(broken, "w", zipfile.ZIP_DEFLATED) as copy:
        for item in whole.infolist():
            content = whole.read(item)
            if item.filename == "meetingctl/cli/device_stream.py":
                content += b"\nraise SystemExit(78)\n"
            copy.writestr(item, content)


def offer_package(device: BootedDevice, folder: Path) -> None:
    """Put one small package into the repository that the device's apt knows."""
    build, deb = folder / "build", device.path("/srv/apt") / f"{EXTRA_PACKAGE}.deb"
    (build / "DEBIAN").mkdir(parents=True)
    control = f"Package: {EXTRA_PACKAGE}\nVersion: 1\nArchitecture: all\nMaintainer: nobody <n@example.org>\n"
    (build / "DEBIAN/control").write_text(f"{control}Description: shows that apt was asked\n")
    run("dpkg-deb", "--build", "--root-owner-group", build, deb)
    digest = hashlib.sha256(deb.read_bytes()).hexdigest()
    where = f"Filename: ./{deb.name}\nSize: {deb.stat().st_size}\nSHA256: {digest}\n"
    device.path("/srv/apt/Packages").write_text(f"{control}{where}Description: shows that apt was asked\n\n")
    shutil.rmtree(build)


class Fleet:
    """The server at the devices' network, and an operator with a login, a key and a password file."""

    def __init__(self, site: Site, packages: Packages, folder: Path) -> None:
        self.site, self.packages, self.folder = site, packages, folder
        self.host = site.network.host
        first = free_ports(8)
        self.url = f"http://{self.host}:{first}"
        self.tunnel = f"{self.host}:{first + 1}"
        self.operator = User(folder / "home", {"MEETINGCTL_SERVER_URL": self.url})
        data = folder / "data"
        listen = ["--api-listen", f"{self.host}:{first}", "--tunnel-listen", self.tunnel]
        env = {"MEETINGCTL_HEARTBEAT_INTERVAL_S": "0.001", "MEETINGCTL_LOG_LEVEL": "warning"}
        ports = ["--tunnel-ports", f"{first + 2}-{first + 7}", "--data", str(data)]
        self.server: Daemon = self.operator.daemon("server", "serve", "all", *listen, *ports, **env)
        self._data = data
        self.said: list[str] = []  # by the checks of the last look

    def start(self) -> None:
        self.server.start()
        credentials = self._data / "credentials.toml"
        wait_until(lambda: credentials.exists() or not self.server.is_running, "the server starting")
        config = self.operator.home / ".config/meetingctl/credentials.toml"
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(credentials.read_text())
        config.chmod(0o600)
        wait_until(lambda: self.operator.run("fleet", "list").returncode == 0, "the server answering")
        for key in KEYS:
            made = self.operator.json("fleet", "create", key, "--type", "rpi", "--distribution", "field")
            self.code_file(key).write_text(f"{made['token_code']}\n")
            self.do("fleet", "authorize", key)
            self.do("fleet", "tokens", key, "--set", "3")

    def code_file(self, key: str) -> Path:
        return self.folder / f"{key}.code"

    def device(self, key: str) -> BootedDevice:
        return self.site.devices[KEYS.index(key)]

    def do(self, *args: str, code: int = 0, within_s: float = 120) -> Any:
        """Run a command of the operator and return its JSON."""
        done = self.operator.run("--json", *args, within_s=within_s)
        assert done.returncode == code, f"{args}: {done.returncode}\n{done.stdout.decode()}{done.stderr.decode()}"
        return json.loads(done.stdout)

    def remote(self, verb: str, *args: str, code: int = 0, within_s: float = 300) -> Any:
        return self.do("remote", *verb.split(), *self.site.access.options, *args, code=code, within_s=within_s)

    def start_remote(self, verb: str, *args: str) -> subprocess.Popen[bytes]:
        """Begin a command and let it run; its progress goes to standard error, a line each."""
        words = self.operator.argv("remote", *verb.split(), *self.site.access.options, *args)
        pipe = subprocess.PIPE
        return subprocess.Popen(words, env=self.operator.env, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe)

    def install_words(self, key: str, *options: str) -> tuple[str, ...]:
        device = self.device(key)
        package = str(self.packages.of(FIRST))
        words = (device.target, "--device-key", key, "--token-file", str(self.code_file(key)), "--from", package)
        return (*words, "--api-url", self.url, "--tunnel", self.tunnel, *options)

    def version(self, key: str) -> str:
        return self.device(key).path("/opt/rpi-cam-webmanager/VERSION").read_text().strip()

    def checks(self, key: str, *options: str) -> dict[str, Any]:
        """Return the findings of `remote smoke` by name: True, False or None."""
        done = self.operator.run("remote", "smoke", key, *options, *self.site.access.options, "--json")
        rows = json.loads(done.stdout)
        checks = rows[0].get("checks", []) if isinstance(rows, list) else []
        self.said = [f"{row['check']}: {row['ok']}: {row['detail']}" for row in checks] or [done.stdout.decode()]
        return {row["check"]: row["ok"] for row in checks}

    def close(self) -> None:
        if self.server.is_running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.server.stop()


@contextlib.contextmanager
def booted_fleet(folder: Path) -> Iterator[Fleet]:
    """Two booted devices without any program of ours, and a server that knows their keys."""
    packages = Packages(folder / "packages")
    packages.make()
    with booted_site(folder / "site", len(KEYS)) as site:
        fleet = Fleet(site, packages, folder)
        try:
            fleet.start()
            for device in site.devices:
                offer_package(device, folder)
            yield fleet
        except BaseException:
            print(f"--- server\n{fleet.server.text()[-4000:]}")
            raise
        finally:
            fleet.close()

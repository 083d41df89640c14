"""A Debian that is booted as a device: real systemd, journal, sudo, sshd, NetworkManager and reboot, in a container.

Needs root, mmdebstrap and systemd-nspawn. The file system is made once and cached below XDG_CACHE_HOME; each device
lives on an overlay of it, so the cached one stays as it was made. Only what belongs to a Raspberry Pi is recorded
output: `vcgencmd` and `rpicam-hello`. A device reaches this machine over its own bridge and nothing else: no internet.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import random
import secrets
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from e2e.world import answers_ssh, wait_until

SUITE = "trixie"
USER = "device"
PASSWORD = "brown-otter-27"
FIRST_HOSTNAME = "raspberrypi"
BOOT_S = 90.0
CGROUP_ROOTS = tuple(Path("/sys/fs/cgroup") / name for name in ("unified", "systemd", ""))
REBOOT_STATUS = 133  # of systemd-nspawn, when the system inside asked for it

PACKAGES = (
    *("systemd", "systemd-sysv", "systemd-timesyncd", "dbus", "udev", "kmod", "cron", "logrotate", "tzdata", "sudo"),
    *("procps", "psmisc", "util-linux-extra", "curl", "ca-certificates", "openssh-server", "avahi-daemon"),
    *("network-manager", "hostapd", "dnsmasq", "iw", "wpasupplicant", "iproute2", "iputils-ping", "rfkill"),
    *("python3", "python3-venv", "python3-gi", "python3-gst-1.0", "python3-libgpiod", "python3-lxml"),
    *("gir1.2-gst-plugins-base-1.0", "gir1.2-gst-rtsp-server-1.0", "gstreamer1.0-tools", "gstreamer1.0-plugins-base"),
    *("gstreamer1.0-plugins-good", "gstreamer1.0-plugins-bad", "gstreamer1.0-plugins-ugly", "gstreamer1.0-libav"),
    *(
        "gstreamer1.0-x",
        "gstreamer1.0-alsa",
        "gstreamer1.0-libcamera",
        "openssl",
        "ffmpeg",
        "v4l-utils",
        "alsa-utils",
        "i2c-tools",
        "gpiod",
    ),
    *("inotify-tools", "rsync"),
)

# What a fresh card of a Raspberry Pi has besides packages. Runs once, in the new root.
AFTER_INSTALLATION = f"""
useradd --create-home --shell /bin/bash --groups sudo,video,audio,adm,netdev {USER}
echo '{USER}:{PASSWORD}' | chpasswd
systemctl mask apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service man-db.timer
systemctl enable NetworkManager ssh avahi-daemon cron
rm -f /etc/ssh/ssh_host_*_key* /etc/hostname /etc/resolv.conf
mkdir -p /boot/firmware /srv/apt /etc/cloud
printf 'preserve_hostname: false\ncloud_init_modules:\n  - seed_random\n  - set_hostname\n  - update_hostname\n' \
  >/etc/cloud/cloud.cfg
printf '# boot config\\ndtparam=audio=on\\n\\n[all]\\n' >/boot/firmware/config.txt
"""

VCGENCMD = """#!/bin/sh
case $1 in
measure_temp) echo "temp=47.2'C" ;;
get_throttled) echo "throttled=0x0" ;;
measure_volts) echo "volt=0.8563V" ;;
measure_clock) echo "frequency(48)=600117184" ;;
get_camera) echo "supported=0 detected=0, libcamera interfaces=0" ;;
get_mem) echo "$2=76M" ;;
*) echo 'error=1 error_msg="Command not registered"'; exit 255 ;;
esac
"""
RPICAM_HELLO = """#!/bin/sh
echo "No cameras available!"
"""
PROFILE = """[connection]
id=host0
type=ethernet
interface-name=host0
autoconnect-priority=99
[ipv4]
method=manual
address1={address}/24
[ipv6]
method=disabled
"""


def run(*argv: str | Path, within_s: float = 60, **more: Any) -> subprocess.CompletedProcess[bytes]:
    """Run a program of this machine; a failure shows what it said."""
    done = subprocess.run(argv, capture_output=True, timeout=within_s, stdin=subprocess.DEVNULL, **more)
    assert done.returncode == 0, f"{argv}: {done.returncode}\n{done.stdout.decode()}{done.stderr.decode()}"
    return done


def require_booted_device(require_program: Callable[..., str]) -> None:
    """Skip without what a booted device needs; fail under CI=true."""
    require_program("mmdebstrap")
    require_program("systemd-nspawn", package="systemd-container")
    require_program("setpriv", package="util-linux")
    require_program("nsenter", package="util-linux")
    require_program("ip", package="iproute2")
    if os.geteuid() != 0:
        reason = "needs root: a system is booted in a container"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


def cache_folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "meetingctl-tests"


def debian_mirror() -> str:
    """Return the mirror that this machine's apt uses."""
    listed = run("apt-get", "indextargets", "--format", "$(REPO_URI)").stdout.decode().split()
    found = (uri for uri in listed if uri.rstrip("/").endswith("/debian"))
    return next(found, "http://deb.debian.org/debian")


@contextlib.contextmanager
def prepared_root(cache: Path) -> Iterator[Path]:
    """Make the file system of a device when it is not there yet, and hold it while it is used."""
    recipe = "\n".join((SUITE, *PACKAGES, AFTER_INSTALLATION))
    name = f"{SUITE}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    root = cache / name
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{name}.lock").open("w") as held:
        with (cache / "make.lock").open("w") as making:
            fcntl.flock(making, fcntl.LOCK_EX)
            fcntl.flock(held, fcntl.LOCK_SH)
            if not root.is_dir():
                _make_root(root)
                _drop_other_roots(cache, name)
        yield root


def _make_root(root: Path) -> None:
    partial = root.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    without_docs = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
    options = [
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in without_docs),
        *("--variant=minbase", '--aptopt=Apt::Install-Recommends "false"'),
        f"--include={','.join(PACKAGES)}",
    ]
    run("mmdebstrap", *options, SUITE, partial, debian_mirror(), within_s=900)
    run("chroot", partial, "sh", "-euc", AFTER_INSTALLATION, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
    for program, text in (("vcgencmd", VCGENCMD), ("rpicam-hello", RPICAM_HELLO)):
        (partial / "usr/bin" / program).write_text(text)
        (partial / "usr/bin" / program).chmod(0o755)
    (partial / "etc/apt/sources.list").write_text("deb [trusted=yes] file:///srv/apt ./\n")
    (partial / "srv/apt/Packages").touch()
    partial.rename(root)


def _drop_other_roots(cache: Path, name: str) -> None:
    """Delete roots of former recipes that nobody holds."""
    for other in cache.glob(f"{SUITE}-*.lock"):
        if other.stem == name:
            continue
        with other.open("w") as lock, contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(other.with_suffix(""), ignore_errors=True)
            other.unlink()


def unified_cgroup() -> Path:
    """Return the root of the unified hierarchy, also where a machine still has both."""
    return next(path for path in CGROUP_ROOTS if path.name != "systemd" and path.is_dir())


class Network:
    """A bridge of this machine with an address of its own; devices are plugged into it."""

    def __init__(self) -> None:
        self.name = f"mc{secrets.token_hex(4)}"
        self._prefix = ""

    def open(self) -> None:
        used = run("ip", "-o", "-4", "addr").stdout.decode()
        free = (f"10.{random.randrange(100, 250)}.{random.randrange(1, 255)}" for _ in range(100))
        self._prefix = next(prefix for prefix in free if f" {prefix}." not in used)
        run("ip", "link", "add", self.name, "type", "bridge", "forward_delay", "0", "stp_state", "0")
        run("ip", "addr", "add", f"{self.host}/24", "dev", self.name)
        run("ip", "link", "set", self.name, "up")

    @property
    def host(self) -> str:
        """The address of this machine, as devices see it."""
        return self.address(1)

    def address(self, number: int) -> str:
        return f"{self._prefix}.{number}"

    def close(self) -> None:
        subprocess.run(["ip", "link", "del", self.name], capture_output=True, check=False)


@dataclass
class Access:
    """What an operator holds: a private key that every device accepts, and the password of its user in a file."""

    folder: Path

    @property
    def identity(self) -> Path:
        return self.folder / "operator_key"

    @property
    def password_file(self) -> Path:
        return self.folder / "password"

    def make(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        make_key(self.identity)
        self.password_file.write_text(f"{PASSWORD}\n")
        self.password_file.chmod(0o600)

    @property
    def options(self) -> list[str]:
        return ["-i", str(self.identity), "--password-file", str(self.password_file)]


def make_key(path: Path) -> None:
    path.unlink(missing_ok=True)
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path)


class BootedDevice:
    """One device: its files, its cable and its power."""

    def __init__(self, folder: Path, root: Path, network: Network, number: int) -> None:
        self.address = network.address(number)
        self.target = f"{USER}@{self.address}"
        self._name = f"{network.name}{number}"
        self._network = network
        self._lower = root
        self._folder = folder
        self._files = folder / "files"
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: threading.Thread | None = None
        self._is_wanted = False

    def prepare(self, access: Access) -> None:
        """Put the card in: a fresh system that knows its address and the operator's key."""
        for name in ("upper", "work", "files"):
            (self._folder / name).mkdir(parents=True)
        layers = f"lowerdir={self._lower},upperdir={self._folder / 'upper'},workdir={self._folder / 'work'}"
        run("mount", "-t", "overlay", "overlay", "-o", layers, self._files)
        self.path("/etc/hostname").write_text(f"{FIRST_HOSTNAME}\n")
        self.path("/etc/hosts").write_text(f"127.0.0.1\tlocalhost\n127.0.1.1\t{FIRST_HOSTNAME}\n")
        profile = self.path("/etc/NetworkManager/system-connections/host0.nmconnection")
        profile.write_text(PROFILE.format(address=self.address))
        profile.chmod(0o600)
        self.renew_host_key()
        keys = self.path(f"/home/{USER}/.ssh/authorized_keys")
        keys.parent.mkdir(mode=0o700)
        shutil.copy(f"{access.identity}.pub", keys)
        for made in (keys.parent, keys):
            os.chown(made, 1000, 1000)

    def renew_host_key(self) -> None:
        """Give the device another host key, as a freshly written card has."""
        make_key(self.path("/etc/ssh/ssh_host_ed25519_key"))

    def path(self, path: str) -> Path:
        """Return where a file of the device lies here. Not for /run, /tmp, /proc: those exist inside only."""
        return self._files / PurePosixPath(path).relative_to("/")

    def boot(self) -> None:
        """Switch the power on and wait until the system is up. A restart inside starts it again."""
        self._switch_on()
        self.wait_up()

    def _switch_on(self) -> None:
        self._is_wanted = True
        self._keeper = threading.Thread(target=self._keep, name=self._name, daemon=True)
        self._keeper.start()

    def bring_up(self, *, prepare: Callable[[BootedDevice], object] = lambda device: None) -> None:
        """Make it run at its cable, wherever a test left it: off, starting again, or unplugged.

        `prepare` is called when the system runs and before it must be reached.
        """
        if self._keeper is None or not self._keeper.is_alive():
            self._switch_on()
        wait_until(lambda: self.state in {"running", "degraded"}, f"{self._name} booting", within_s=BOOT_S)
        self.plug()
        prepare(self)
        self.wait_up()

    def wait_up(self, *, within_s: float = BOOT_S) -> None:
        wait_until(lambda: self.state in {"running", "degraded"}, f"{self._name} booting", within_s=within_s)
        wait_until(lambda: answers_ssh(22, self.address), f"sshd of {self._name} answering", within_s=within_s)

    def _keep(self) -> None:
        argv = [
            *("systemd-nspawn", "--quiet", "--boot", f"--directory={self._files}", f"--machine={self._name}"),
            *("--register=no", "--keep-unit", f"--network-bridge={self._network.name}", "--console=pipe"),
            *("--resolv-conf=off", "--timezone=off", "--link-journal=no", "--kill-signal=SIGRTMIN+3"),
        ]
        env = {"PATH": os.environ["PATH"], "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
        while self._is_wanted:
            # A control group of its own: two devices in one would stop each other's units.
            group = unified_cgroup() / self._name
            group.mkdir(exist_ok=True)
            into_group = f'echo $$ >"{group}/cgroup.procs" && exec setpriv --pdeathsig TERM "$@"'
            with (self._folder / "console").open("ab") as console:
                self._process = subprocess.Popen(
                    ["sh", "-c", into_group, "sh", *argv],
                    stdin=subprocess.DEVNULL,
                    stdout=console,
                    stderr=console,
                    env=env,
                    start_new_session=True,
                )
            if self._process.wait() != REBOOT_STATUS:
                break

    @property
    def leader(self) -> int:
        """The process here that is number 1 inside; 0 while the device is off."""
        process = self._process
        if process is None or process.poll() is not None:
            return 0
        with contextlib.suppress(OSError, ValueError):
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            for child in children:
                status = Path(f"/proc/{child}/status").read_text()
                if next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[-1] == "1":
                    return int(child)
        return 0

    @property
    def is_on(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def state(self) -> str:
        """What systemd says of itself: running, degraded, starting …; empty while it says nothing."""
        return self.ask("systemctl", "is-system-running").stdout.decode().strip() if self.leader else ""

    @property
    def boot_id(self) -> str:
        """The id that changes with each boot."""
        return self.do("cat", "/proc/sys/kernel/random/boot_id").decode().strip()

    def ask(self, *argv: str, within_s: float = 60, **more: Any) -> subprocess.CompletedProcess[bytes]:
        """Run a program inside as root, whatever its end."""
        env = ["env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"]
        words = ["nsenter", "--target", str(self.leader), "--all", "--", *env, *argv]
        options = {"stdin": subprocess.DEVNULL} if "input" not in more else {}
        return subprocess.run(words, capture_output=True, timeout=within_s, **options, **more)

    def do(self, *argv: str, within_s: float = 60, **more: Any) -> bytes:
        """Run a program inside as root, which must succeed, and return what it wrote."""
        done = self.ask(*argv, within_s=within_s, **more)
        assert done.returncode == 0, f"{self._name}: {argv}: {done.returncode}\n{done.stdout!r}\n{done.stderr!r}"
        return done.stdout

    def unit(self, name: str) -> tuple[str, str]:
        """Return whether a unit is active and whether it is enabled, in systemd's words."""
        shown = self.do("systemctl", "show", "--value", "-p", "ActiveState", "-p", "UnitFileState", name).decode()
        active, enabled = shown.splitlines()
        return active, enabled

    def unplug(self) -> None:
        run("ip", "link", "set", f"vb-{self._name}"[:15], "down")

    def plug(self) -> None:
        run("ip", "link", "set", f"vb-{self._name}"[:15], "up")

    def cut_power(self) -> None:
        """Everything stops at once, without a word to anybody."""
        self._is_wanted = False
        leader = self.leader
        if leader:
            os.kill(leader, signal.SIGKILL)
        if self._process is not None:
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(20)
        if self._keeper is not None:
            self._keeper.join(20)

    def console(self) -> str:
        console = self._folder / "console"
        return console.read_text(errors="replace") if console.exists() else ""

    def close(self) -> None:
        self.cut_power()
        subprocess.run(["umount", self._files], capture_output=True, check=False)
        for hierarchy in CGROUP_ROOTS:
            for group in [*sorted((hierarchy / self._name).rglob("*/"), reverse=True), hierarchy / self._name]:
                with contextlib.suppress(OSError):
                    group.rmdir()
        for name in ("upper", "work"):
            shutil.rmtree(self._folder / name, ignore_errors=True)


@dataclass
class Site:
    """Devices at one network, and what opens them."""

    network: Network
    access: Access
    devices: list[BootedDevice]

    def close(self) -> None:
        for device in self.devices:
            device.close()
        self.network.close()


@contextlib.contextmanager
def booted_site(folder: Path, count: int = 1) -> Iterator[Site]:
    """Boot `count` devices at a network of their own; when that fails, their consoles are in the test's output."""
    network, access = Network(), Access(folder / "operator")
    access.make()
    with prepared_root(cache_folder()) as root:
        network.open()
        devices = [BootedDevice(folder / f"device-{number}", root, network, number) for number in range(2, 2 + count)]
        site = Site(network, access, devices)
        try:
            for device in devices:
                device.prepare(access)
            starts = [threading.Thread(target=device.boot) for device in devices]
            for start in starts:
                start.start()
            for start in starts:
                start.join()
            assert all(device.is_on for device in devices)
            yield site
        except BaseException:
            for device in devices:
                print(f"--- {device.address}\n{device.console()[-4000:]}")
            raise
        finally:
            site.close()

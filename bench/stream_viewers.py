"""Claim: fifty viewers cost the stream daemon no more than a plain C server on the same library.

CPU at most 1.1 times, memory at most 25 MiB more, and nothing grows over many viewers that come and go. Both servers
run the same launch line, one at a time and interleaved; the viewers read over TCP in one process.

    python bench/stream_viewers.py [--viewers 50] [--seconds 10] [--rounds 2] [--cycles 2000]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import selectors
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

CPU_LIMIT = 1.1
MEMORY_LIMIT_KIB = 25 * 1024
GROWTH_LIMIT_KIB = 4 * 1024
DEADLINE_S = 60.0
PACKAGES = "libgstrtspserver-1.0-dev gcc pkg-config"

PLAIN_SERVER = r"""
#include <stdio.h>
#include <gst/gst.h>
#include <gst/rtsp-server/rtsp-server.h>

int main(int argc, char **argv) {
  gst_init(&argc, &argv);
  GstRTSPServer *server = gst_rtsp_server_new();
  gst_rtsp_server_set_address(server, "127.0.0.1");
  gst_rtsp_server_set_service(server, argv[1]);
  GstRTSPMediaFactory *factory = gst_rtsp_media_factory_new();
  gst_rtsp_media_factory_set_launch(factory, argv[2]);
  gst_rtsp_media_factory_set_shared(factory, TRUE);
  GstRTSPMountPoints *mounts = gst_rtsp_server_get_mount_points(server);
  gst_rtsp_mount_points_add_factory(mounts, "/stream", factory);
  g_object_unref(mounts);
  if (gst_rtsp_server_attach(server, NULL) == 0) return 1;
  g_main_loop_run(g_main_loop_new(NULL, FALSE));
  return 0;
}
"""


class Viewer:
    """One reader on a bare socket."""

    def __init__(self, port: int) -> None:
        self.url = f"rtsp://127.0.0.1:{port}/stream"
        self.socket = socket.create_connection(("127.0.0.1", port), DEADLINE_S)
        self.cseq = 0
        self.session = ""
        self.received = 0

    def ask(self, method: str, url: str = "", extra: str = "") -> str:
        self.cseq += 1
        session = f"Session: {self.session}\r\n" if self.session else ""
        self.socket.sendall(
            f"{method} {url or self.url} RTSP/1.0\r\nCSeq: {self.cseq}\r\n{session}{extra}\r\n".encode()
        )
        data = b""
        while b"\r\n\r\n" not in data:
            data += self.socket.recv(65536)
        head, _, body = data.partition(b"\r\n\r\n")
        length = re.search(rb"Content-Length: (\d+)", head)
        while length and len(body) < int(length[1]):
            body += self.socket.recv(65536)
        text = (head + b"\r\n" + body).decode("utf-8", "replace")
        if " 200 " not in text.split("\r\n")[0]:
            raise RuntimeError(text.split("\r\n")[0])
        return text

    def play(self) -> None:
        text = self.ask("DESCRIBE", extra="Accept: application/sdp\r\n")
        control = next(item for item in re.findall(r"a=control:(\S+)", text) if item != "*")
        track = control if control.startswith("rtsp://") else f"{self.url}/{control}"
        text = self.ask("SETUP", track, "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n")
        self.session = re.search(r"Session: ([^;\s]+)", text)[1]  # type: ignore[index]
        self.ask("PLAY")

    def close(self) -> None:
        self.socket.close()


def drain(viewers: list[Viewer], seconds: float) -> None:
    """Read what the servers send for a while."""
    ends_s = time.monotonic() + seconds
    with selectors.DefaultSelector() as waiting:
        for viewer in viewers:
            waiting.register(viewer.socket, selectors.EVENT_READ, viewer)
        while (left_s := ends_s - time.monotonic()) > 0:
            for key, _ in waiting.select(min(0.2, left_s)):
                data = key.data.socket.recv(1 << 18)
                if not data:
                    raise RuntimeError("a viewer was dropped")
                key.data.received += len(data)


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def pss_kib(pid: int) -> int:
    return int(re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)[1])  # type: ignore[index]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_port(port: int, process: subprocess.Popen[bytes]) -> None:
    ends_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < ends_s and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise RuntimeError("a server does not start")


@contextlib.contextmanager
def server(argv: list[str], port: int) -> Iterator[int]:
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_port(port, process)
        yield process.pid
    finally:
        process.terminate()
        process.wait(30)


def measure(argv: list[str], port: int, count: int, seconds: float) -> tuple[float, int, int]:
    """Return CPU seconds and memory of a server with viewers, and the bytes that they got."""
    with server(argv, port) as pid:
        viewers = [Viewer(port) for _ in range(count)]
        try:
            for viewer in viewers:
                viewer.play()
            drain(viewers, 2)
            before_s, bytes_before = cpu_s(pid), sum(viewer.received for viewer in viewers)
            drain(viewers, seconds)
            received = sum(viewer.received for viewer in viewers) - bytes_before
            return cpu_s(pid) - before_s, pss_kib(pid), received
        finally:
            for viewer in viewers:
                viewer.close()


def growth_kib(argv: list[str], port: int, cycles: int, *, is_watched: bool) -> int:
    """Return what memory gains over viewers that come and go, after a first tenth that warms up.

    With a steady viewer the media goes on; without one it ends and starts again with each guest.
    """
    with server(argv, port) as pid:
        steady = [Viewer(port)] if is_watched else []
        for viewer in steady:
            viewer.play()
        before = 0
        for cycle in range(cycles):
            if cycle == max(1, cycles // 10):
                before = pss_kib(pid)
            guest = Viewer(port)
            guest.play()
            guest.close()
            drain(steady, 0.001)
        after = pss_kib(pid)
        for viewer in steady:
            viewer.close()
        return after - before


def daemon_argv(root: Path, port: int) -> list[str]:
    config = root / "etc" / "rpi-cam" / "config.env"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(f"RTSP_PORT={port}\nSTREAM_SOURCE_MODE=test\nAUDIO_ENABLE=no\nVIDEOIN_FPS=30\n")
    module = ["-P", "-m", "meetingctl.device.stream", f"--root={root}", f"--path={os.environ['PATH']}"]
    return [sys.executable, *module, "--host=127.0.0.1", "--http-port=0"]


def same_launch(root: Path) -> str:
    """Return the daemon's own launch line with its properties in it, for the plain server."""
    code = "from meetingctl.cli.main import main; main()"
    words = ["device", "stream", "--print-pipeline", "--root", str(root), "--json"]
    shown = json.loads(subprocess.run([sys.executable, "-c", code, *words], capture_output=True, check=True).stdout)
    return str(shown["launch"]).replace(
        "name=encoder", f"name=encoder bitrate={shown['properties']['encoder']['bitrate']}"
    )


def build_plain_server(folder: Path) -> Path:
    if shutil.which("gcc") is None or shutil.which("pkg-config") is None:
        raise SystemExit(f"needs a C compiler: sudo apt-get install -y {PACKAGES}")
    source, program = folder / "plain.c", folder / "plain"
    source.write_text(PLAIN_SERVER)
    found = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "gstreamer-rtsp-server-1.0"], capture_output=True, text=True
    )
    if found.returncode:
        raise SystemExit(f"needs the headers of the RTSP server: sudo apt-get install -y {PACKAGES}")
    subprocess.run(["gcc", "-O2", str(source), "-o", str(program), *found.stdout.split()], check=True)
    return program


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--viewers", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--cycles", type=int, default=2000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain = build_plain_server(folder)
        results: dict[str, list[tuple[float, int, int]]] = {"plain": [], "ours": []}
        for _ in range(given.rounds):
            port = free_port()
            ours = daemon_argv(folder, port)
            launch = same_launch(folder)
            results["ours"].append(measure(ours, port, given.viewers, given.seconds))
            port = free_port()
            results["plain"].append(measure([str(plain), str(port), launch], port, given.viewers, given.seconds))
        grown = {}
        for is_watched in (True, False):
            port = free_port()
            grown[is_watched] = growth_kib(daemon_argv(folder, port), port, given.cycles, is_watched=is_watched)
    cpu = {name: statistics.median(item[0] for item in items) for name, items in results.items()}
    memory = {name: statistics.median(item[1] for item in items) for name, items in results.items()}
    data = {name: statistics.median(item[2] for item in items) for name, items in results.items()}
    ratio, more_kib = cpu["ours"] / cpu["plain"], memory["ours"] - memory["plain"]
    print(f"cpu      {ratio:.2f}x of the plain server with {given.viewers} viewers (at most {CPU_LIMIT}x)")
    print(f"memory   {more_kib / 1024:+.1f} MiB (at most +{MEMORY_LIMIT_KIB // 1024} MiB)")
    print(f"data     {data['ours'] / data['plain']:.2f}x of what the viewers of the plain server got")
    for is_watched, kib in grown.items():
        media = "goes on" if is_watched else "ends each time"
        print(
            f"growth   {kib / 1024:+.1f} MiB over {given.cycles} viewers, the media {media}"
            f" (at most +{GROWTH_LIMIT_KIB // 1024} MiB)"
        )
    holds = ratio <= CPU_LIMIT and more_kib <= MEMORY_LIMIT_KIB and max(grown.values()) <= GROWTH_LIMIT_KIB
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())

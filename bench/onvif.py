"""Claim: the ONVIF service answers GetProfiles in 2 ms (median, loopback), starts within 1 s and stays below 50 MiB.

A bare HTTP server, asyncio streams that read a request and send as many bytes back, answers in the same run: one
keep-alive connection to each, one request after the other, in turns, so that other work meets both. Every
GetProfiles carries a UsernameToken of its own, made before the clock runs. The time of a start goes from the launch of
the process to its first answer; beside it stands a Python that imports asyncio and lxml and no more. Memory is the
high-water mark (VmHWM) after all requests. The second stream is on, so there are two profiles.

    python bench/onvif.py [--requests 2000] [--starts 5]
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import http.client
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

P50_LIMIT_MS = 2.0
START_LIMIT_S = 1.0
MEMORY_LIMIT_KIB = 50 * 1024
DEADLINE_S = 60.0
USER, PASSWORD = "admin", "bench"
CONFIG = f"RTSP_USER={USER}\nRTSP_PASSWORD={PASSWORD}\nSUBSTREAM_ENABLE=yes\n"
WSSE = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd"
WSU = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd"
DIGEST = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-username-token-profile-1.0#PasswordDigest"
BARE = """
import asyncio, sys
async def serve(reader, writer):
    body = b"x" * int(sys.argv[2])
    head = b"HTTP/1.1 200 OK\\r\\nContent-Type: application/soap+xml\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body)
    while True:
        try:
            asked = await reader.readuntil(b"\\r\\n\\r\\n")
        except asyncio.IncompleteReadError:
            break
        length = next(int(line[15:]) for line in asked.split(b"\\r\\n") if line.lower().startswith(b"content-length:"))
        await reader.readexactly(length)
        writer.write(head + body)
        await writer.drain()
    writer.close()
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()
asyncio.run(main())
"""


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def get_profiles() -> bytes:
    """Write a request with a token that nobody has used."""
    nonce, created = os.urandom(16), datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    digest = base64.b64encode(hashlib.sha1(nonce + (created + PASSWORD).encode()).digest()).decode()
    return (
        f'<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope"><s:Header><Security xmlns="{WSSE}">'
        f'<UsernameToken><Username>{USER}</Username><Password Type="{DIGEST}">{digest}</Password>'
        f'<Nonce>{base64.b64encode(nonce).decode()}</Nonce><Created xmlns="{WSU}">{created}</Created>'
        "</UsernameToken></Security></s:Header><s:Body>"
        '<GetProfiles xmlns="http://www.onvif.org/ver10/media/wsdl"/></s:Body></s:Envelope>'
    ).encode()


def ask(connection: http.client.HTTPConnection, body: bytes) -> tuple[float, bytes]:
    """Send a request and return the time to the end of its answer in milliseconds, and the answer."""
    begun_s = time.perf_counter()
    connection.request("POST", "/onvif/media_service", body, {"Content-Type": "application/soap+xml"})
    answer = connection.getresponse()
    content = answer.read()
    taken_ms = (time.perf_counter() - begun_s) * 1000
    if answer.status != 200:
        raise SystemExit(f"answered {answer.status}: {content[:300]!r}")
    return taken_ms, content


def wait_until_up(process: subprocess.Popen[bytes], port: int) -> None:
    """Return as soon as somebody listens at the port."""
    ends_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < ends_s and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.002)
    raise SystemExit("a server did not start")


@contextlib.contextmanager
def running(*words: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a Python until the block ends."""
    process = subprocess.Popen([sys.executable, *words], stderr=subprocess.DEVNULL)
    try:
        wait_until_up(process, port)
        yield process
    finally:
        process.terminate()
        process.wait(20)


def service(root: Path, port: int) -> list[str]:
    udp_port = free_port(socket.SOCK_DGRAM)
    more = [f"--root={root}", f"--path={os.environ['PATH']}", "--host=127.0.0.1", f"--port={port}"]
    return ["-P", "-m", "meetingctl.device.onvif", *more, f"--discovery-port={udp_port}"]


def measure_starts(root: Path, count: int) -> tuple[float, float]:
    """Return the medians in seconds: the service up to its first answer, and the imports alone; in turns."""
    starts, imports = [], []
    for _ in range(count):
        begun_s = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import asyncio, lxml.etree"], check=True)
        imports.append(time.perf_counter() - begun_s)
        port = free_port()
        begun_s = time.perf_counter()
        with running(*service(root, port), port=port):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
            ask(connection, get_profiles())
            starts.append(time.perf_counter() - begun_s)
            connection.close()
    return statistics.median(starts), statistics.median(imports)


def measure_answers(root: Path, count: int) -> tuple[list[float], list[float], int]:
    """Return the times of both servers in milliseconds, and the service's high-water mark in KiB."""
    port, bare_port = free_port(), free_port()
    with running(*service(root, port), port=port) as process:
        ours = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
        size = len(ask(ours, get_profiles())[1])
        with running("-c", BARE, str(bare_port), str(size), port=bare_port):
            bare = http.client.HTTPConnection("127.0.0.1", bare_port, timeout=DEADLINE_S)
            times: tuple[list[float], list[float]] = ([], [])
            for number in range(count):
                body = get_profiles()
                pair = ((ours, times[0]), (bare, times[1]))
                for connection, taken in pair[:: -1 if number % 2 else 1]:
                    taken.append(ask(connection, body)[0])
        status = Path(f"/proc/{process.pid}/status").read_text()
    return *times, int(status.partition("VmHWM:")[2].split()[0])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--starts", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "etc/rpi-cam").mkdir(parents=True)
        (root / "etc/rpi-cam/config.env").write_text(CONFIG)
        ours_ms, bare_ms, memory_kib = measure_answers(root, given.requests)
        start_s, imports_s = measure_starts(root, given.starts)
    p50_ms, bare_p50_ms = statistics.median(ours_ms), statistics.median(bare_ms)
    p99_ms, bare_p99_ms = (statistics.quantiles(times, n=100)[98] for times in (ours_ms, bare_ms))
    print(f"GetProfiles   p50 {p50_ms:.2f} ms, p99 {p99_ms:.2f} ms")
    print(f"bare answer   p50 {bare_p50_ms:.2f} ms, p99 {bare_p99_ms:.2f} ms: ratio {p50_ms / bare_p50_ms:.1f}")
    print(f"start         {start_s:.2f} s to the first answer, the imports alone {imports_s:.2f} s")
    print(f"memory        {memory_kib / 1024:.1f} MiB")
    return 0 if p50_ms <= P50_LIMIT_MS and start_s <= START_LIMIT_S and memory_kib <= MEMORY_LIMIT_KIB else 1


if __name__ == "__main__":
    sys.exit(main())

"""Multicast between two network namespaces, as between a camera and a recorder on one cable."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .support import DEADLINE_S, Stream, wait_until

pytestmark = [pytest.mark.gst, pytest.mark.real]

CAMERA, VIEWER = "10.231.7.1", "10.231.7.2"


@pytest.fixture
def namespaces(require_program: Callable[..., str]) -> Iterator[tuple[str, str]]:
    """Two namespaces joined by a cable."""
    require_program("ip", package="iproute2")
    if os.geteuid() != 0:
        pytest.skip("needs root for network namespaces")
    tag = secrets.token_hex(3)
    names = f"mcam{tag}", f"mview{tag}"

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True, timeout=30)

    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", "eth9", "netns", names[0], "type", "veth", "peer", "name", "eth9", "netns", names[1])
        for name, address in zip(names, (CAMERA, VIEWER), strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth9")
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", "eth9", "up")
            ip("-n", name, "route", "add", "224.0.0.0/4", "dev", "eth9")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True, timeout=30)


def test_a_viewer_in_another_network_gets_multicast_from_the_pool(
    gstreamer: None, namespaces: tuple[str, str], root: Path
) -> None:
    stream = Stream(root, prefix=("ip", "netns", "exec", namespaces[0]))
    pool = {"RTSP_MULTICAST_BASE": "239.77.5.1", "RTSP_MULTICAST_PORT_MIN": 40000, "RTSP_MULTICAST_PORT_MAX": 40010}
    stream.configure(RTSP_PORT=8554, STREAM_SOURCE_MODE="test", RTSP_PROTOCOLS="udp-mcast", **pool)
    stream.start(f"--host={CAMERA}")
    try:
        shown = wait_until(lambda: show(namespaces[1], "udp_multicast"), "the viewer reads the stream")
        assert shown == {"h264", "aac"}, stream.log_text()
        groups = wait_until(lambda: joined_groups(namespaces[1], stream), "the viewer joins a group of the pool")
        assert all(group.startswith("239.77.5.") for group in groups)
        assert show(namespaces[1], "tcp") == set()
    finally:
        stream.stop()


def show(namespace: str, transport: str) -> set[str]:
    argv = ["ip", "netns", "exec", namespace, "ffprobe", "-v", "error", "-rtsp_transport", transport]
    argv += ["-analyzeduration", "2000000", "-show_entries", "stream=codec_name", "-of", "csv=p=0"]
    ran = subprocess.run([*argv, f"rtsp://{CAMERA}:8554/stream"], capture_output=True, text=True, timeout=DEADLINE_S)
    return set(ran.stdout.split()) if ran.returncode == 0 else set()


def joined_groups(namespace: str, stream: Stream) -> set[str]:
    """Play for a while in the namespace and return the groups that its interface is a member of."""
    argv = ["ip", "netns", "exec", namespace, "ffmpeg", "-v", "error", "-rtsp_transport", "udp_multicast"]
    argv += ["-i", f"rtsp://{CAMERA}:8554/stream", "-f", "null", "-"]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: stream.status()["clients"] == 1, "the viewer plays")
        listed = ["ip", "-n", namespace, "-4", "maddress", "show", "dev", "eth9"]
        shown = subprocess.run(listed, capture_output=True, text=True, timeout=30, check=True).stdout
        return {word for word in shown.split() if word.startswith("239.")}
    finally:
        process.kill()
        process.wait()

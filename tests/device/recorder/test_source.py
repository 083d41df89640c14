from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from meetingctl.core.layout import STREAM_LOCAL_JSON
from meetingctl.device.config import DeviceConfig
from meetingctl.device.recorder.command import Source
from meetingctl.device.recorder.control import running_pid
from meetingctl.device.recorder.orphan import end_orphan
from meetingctl.device.recorder.source import Return, find_source, is_listening
from meetingctl.device.system import System

HERE = Source("127.0.0.1", 8554, "rtsp://127.0.0.1:8554/stream")
ELSEWHERE = Source("127.0.0.1", 40000, "rtsp://127.0.0.1:40000/x", is_local_listener=True)


def test_the_local_listener_is_looked_up_each_time(tmp_path: Path) -> None:
    system = System(tmp_path)
    assert find_source(system, DeviceConfig()).port == 8554
    system.write(STREAM_LOCAL_JSON, '{"port": 40000, "path": "x"}')
    assert find_source(system, DeviceConfig()) == ELSEWHERE
    system.write(STREAM_LOCAL_JSON, '{"port": 400')
    assert find_source(system, DeviceConfig()).port == 8554


def test_listening_is_seen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        source = Source("127.0.0.1", server.getsockname()[1], "")
        assert is_listening(source)
    assert not is_listening(source)


def test_a_stream_that_was_never_away_is_not_back() -> None:
    back = Return(HERE, probe=lambda source: True)
    assert [back.is_back(HERE) for _ in range(3)] == [False] * 3


def test_a_stream_is_back_when_its_port_opens_again() -> None:
    answers = iter([True, False, False, True])
    back = Return(HERE, probe=lambda source: next(answers))
    assert [back.is_back(HERE) for _ in range(4)] == [False, False, False, True]


def test_a_stream_is_back_when_its_address_is_new_and_open() -> None:
    answers = iter([False, True])
    back = Return(HERE, probe=lambda source: next(answers))
    assert [back.is_back(ELSEWHERE) for _ in range(2)] == [False, True]


def test_only_an_ffmpeg_of_ours_is_ended(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", "input()", str(tmp_path / "rec_1.ts")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as other:
        assert not end_orphan(other.pid, tmp_path)
        assert not end_orphan(0, tmp_path)
        assert other.poll() is None
        other.kill()


def test_a_process_of_others_is_no_recorder() -> None:
    assert running_pid(None) is None
    assert running_pid({}) is None
    assert running_pid({"pid": "1"}) is None
    assert running_pid({"pid": os.getpid()}) is None

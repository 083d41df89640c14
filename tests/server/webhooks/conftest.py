"""A receiver of webhooks on loopback, and the workers that run beside a control plane."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from planes import WAIT_S, Fleet


@dataclass(frozen=True)
class Received:
    path: str
    headers: dict[str, str]
    body: bytes


class Receiver:
    """Answers what `answers` says for a path, one after the other, the last one for ever; "hang" never answers."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.answers: dict[str, list[int | str]] = {}
        self.released = threading.Event()
        self._lock = threading.Lock()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                answer = receiver.take(Received(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                if answer == "hang":
                    receiver.released.wait(WAIT_S)
                    return
                self.send_response(int(answer))
                if 300 <= int(answer) < 400:
                    self.send_header("Location", f"{receiver.url}/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def take(self, request: Received) -> int | str:
        with self._lock:
            self.received.append(request)
            answers = self.answers.get(request.path, [200])
            return answers.pop(0) if len(answers) > 1 else answers[0]

    def at(self, path: str) -> list[Received]:
        with self._lock:
            return [request for request in self.received if request.path == path]

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    yield server
    server.close()


@contextlib.contextmanager
def running(fleet: Fleet, *works: Coroutine[Any, Any, None]) -> Iterator[None]:
    """Run coroutines on the fleet's loop; cancel them at the end."""
    futures = [asyncio.run_coroutine_threadsafe(work, fleet.loop.loop) for work in works]
    try:
        yield
    finally:

        async def stop() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        fleet.loop.run(stop())
        assert all(future.cancelled() or future.exception() is None for future in futures)


Background = Callable[..., contextlib.AbstractContextManager[None]]


@pytest.fixture
def background() -> Background:
    return running

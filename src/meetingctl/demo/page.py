"""The demo device's status page: HTML for browsers, text for terminals and the same facts as JSON, no assets."""

from __future__ import annotations

import html
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from meetingctl.core.duration import format_duration

CONNECTIONS_AT_ONCE = 32
REQUEST_TIMEOUT_S = 10

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 36rem; margin: 12vh auto; padding: 0 1.5rem; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; } p { margin: 0 0 2rem; opacity: .7; }
table { border-collapse: collapse; width: 100%; } caption { text-align: left; font-weight: 600; padding-bottom: .5rem; }
th, td { text-align: left; padding: .5rem 1rem .5rem 0; border-top: 1px solid #8884; font-weight: normal; }
td { font-family: ui-monospace, monospace; } th { opacity: .7; }
"""


@dataclass(frozen=True, slots=True)
class TunnelFact:
    """A tunnel of the device: service, public address, port on the device."""

    service: str
    public: str
    local_port: int


@dataclass(frozen=True, slots=True)
class PageFacts:
    """What the page shows."""

    device: str
    uptime_s: int
    tunnels: Sequence[TunnelFact]


def render_page(facts: PageFacts) -> str:
    """Write the page; every value is escaped."""
    rows = "".join(
        f"<tr><th scope=row>{html.escape(tunnel.service)}</th><td>{html.escape(tunnel.public)}</td>"
        f"<td>{tunnel.local_port}</td></tr>"
        for tunnel in facts.tunnels
    )
    name = html.escape(facts.device)
    return (
        f"<!doctype html><html lang=en><head><meta charset=utf-8><title>{name}</title>"
        f"<meta name=viewport content='width=device-width'><style>{_STYLE}</style></head><body>"
        f"<h1>{name}</h1><p>demo device, up {format_duration(facts.uptime_s)}</p>"
        f"<table><caption>Tunnels</caption><tr><th>service<th>public address<th>port here</tr>{rows}</table>"
        "</body></html>\n"
    )


def render_text(facts: PageFacts) -> str:
    """Write the same facts for a terminal."""
    rows = [("service", "public address", "port here")]
    rows += [(tunnel.service, tunnel.public, str(tunnel.local_port)) for tunnel in facts.tunnels]
    table = "".join(f"{service:<9}{public:<23}{port}\n" for service, public, port in rows)
    return f"{facts.device}: demo device, up {format_duration(facts.uptime_s)}\n\n{table}"


class StatusPage:
    """A small HTTP server on loopback, in threads that end with the program."""

    def __init__(self, host: str, port: int, *, device: str) -> None:
        """Listen at once. Raises: OSError when the port is taken."""
        self._device = device
        self._started_s = time.monotonic()
        self._tunnels: tuple[TunnelFact, ...] = ()
        self._server = _Server((host, port), self.facts)
        self._thread = threading.Thread(target=self._server.serve_forever, name="status page", daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def show_tunnels(self, tunnels: Sequence[TunnelFact]) -> None:
        """Show these tunnels from now on."""
        self._tunnels = tuple(tunnels)

    def facts(self) -> PageFacts:
        return PageFacts(self._device, int(time.monotonic() - self._started_s), self._tunnels)

    def close(self) -> None:
        """Stop answering and free the port."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], facts: Callable[[], PageFacts]) -> None:
        self.facts = facts
        self._free = threading.BoundedSemaphore(CONNECTIONS_AT_ONCE)
        super().__init__(address, _Answer)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a visitor that leaves early is no event."""


class _Answer(BaseHTTPRequestHandler):
    timeout = REQUEST_TIMEOUT_S
    server_version = "meetingctl-demo"
    sys_version = ""
    server: _Server

    def do_GET(self) -> None:
        facts = self.server.facts()
        match self.path.partition("?")[0]:
            case "/" if "text/html" in self.headers.get("Accept", ""):
                self._send("text/html; charset=utf-8", render_page(facts))
            case "/":
                self._send("text/plain; charset=utf-8", render_text(facts))
            case "/status.json":
                self._send("application/json", json.dumps(asdict(facts)) + "\n")
            case _:
                self._send("text/plain; charset=utf-8", "not found\n", status=404)

    do_HEAD = do_GET

    def _send(self, content_type: str, text: str, *, status: int = 200) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Vary", "Accept")
        self.send_header("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet: standard error belongs to the demo."""

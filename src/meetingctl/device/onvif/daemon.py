"""The ONVIF daemon: HTTP, discovery and the work in the background, on one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import signal
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from meetingctl.core.errors import Busy, ConfigError, MeetingctlError, Unreachable
from meetingctl.core.layout import ONVIF_SOCKET, ONVIF_TOKENS, WS_DISCOVERY_PORT
from meetingctl.device.notify import Notifier
from meetingctl.device.onvif import discovery
from meetingctl.device.onvif.addresses import address_for
from meetingctl.device.onvif.auth import WINDOW_S, Caller, Denied, Gate
from meetingctl.device.onvif.call import SERVICE_PATHS, SNAPSHOT_PATH
from meetingctl.device.onvif.clock import is_synchronized
from meetingctl.device.onvif.device_service import scopes_of
from meetingctl.device.onvif.dispatch import Answer, Ready, Service, write_answer, write_fault
from meetingctl.device.onvif.effects import Effects
from meetingctl.device.onvif.event_service import pulled
from meetingctl.device.onvif.facts import Facts
from meetingctl.device.onvif.http import HttpRequest, HttpResponse, HttpServer, QuietLoop
from meetingctl.device.onvif.local import answer_line
from meetingctl.device.onvif.multicast import Announcer
from meetingctl.device.onvif.namekeeper import NameKeeper
from meetingctl.device.onvif.pullpoint import MOTION_TOPIC, RELAY_TOPIC, Message, Pull, PullPoints
from meetingctl.device.onvif.relay import load_gpiod, open_relay
from meetingctl.device.onvif.replay import UsedTokens
from meetingctl.device.onvif.source import FactSource
from meetingctl.device.onvif.sparing import Sparing
from meetingctl.device.stream.control import ONVIF, ControlSocket
from meetingctl.device.system import System

_REFRESH_S = 5.0
_MOTION_S = 1.0
_PULL_TICK_S = 1.0
_TELL_S = 4.0
_CLOCK_PAUSE_S = 60.0
_MOST_THREADS = 4
_XML_WORDS = ("xml",)
_EVERYWHERE = ("0.0.0.0", "::", "")  # noqa: S104 - compared with what is asked for

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line decides; `port` None takes that of onvif.conf, 0 a free one."""

    host: str = "0.0.0.0"  # noqa: S104 - recorders are elsewhere; the login protects it
    port: int | None = None
    discovery_port: int = WS_DISCOVERY_PORT


class OnvifDaemon:
    """One running service."""

    def __init__(self, system: System, notifier: Notifier, options: Options) -> None:
        """Read the configuration. Raises: ConfigError, Forbidden."""
        self._system = system
        self._notifier = notifier
        self._options = options
        self._source = FactSource(system)
        self._relay_key: tuple[object, ...] = ()
        self._effects = Effects(system)
        self._used = UsedTokens(WINDOW_S)
        self._gate = Gate(self._used)
        self._points = PullPoints()
        self._service = Service(self._effects, self._gate, self._points, self._publish_from_thread)
        self._http = HttpServer(self._answer)
        self._announcer: Announcer | None = None
        self._socket: ControlSocket | None = None
        self._threads = ThreadPoolExecutor(_MOST_THREADS, thread_name_prefix="onvif")
        # Apart from what clients ask for: the watchdog of the unit is fed from here.
        self._watchers = ThreadPoolExecutor(1, thread_name_prefix="watch")
        self._picture: asyncio.Task[bytes] | None = None
        self._namekeeper = NameKeeper(system, self._source)
        self._sparing = Sparing()
        self._tells_motion = False
        self._login = ""
        self._port = 0

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT; ends at once when onvif.conf switches the service off.

        Raises: ConfigError when the port is in use.
        """
        if not self._source.now().conf.enabled:
            log.info("onvif.conf says enabled=false: nothing to do")
            self._notifier.ready("switched off")
            return
        asyncio.run(self._run())

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(QuietLoop())
        self._stop = stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, stop.set)
        self._loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        self._follow_relay()
        await self._listen()
        self._used.keep_in(self._system.path(ONVIF_TOKENS))
        jobs = [self._refresh_for_ever, self._namekeeper.run, self._watch_clock]
        tasks = [asyncio.create_task(self._keep_up(job)) for job in jobs]
        self._open_discovery()
        self._open_socket()
        self._tell_start()
        self._notifier.ready(f"port {self._port}")
        try:
            await stop.wait()
        finally:
            self._notifier.stopping()
            if self._socket is not None:
                self._socket.close()
            if self._announcer is not None:
                self._announcer.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._http.close()
            self._effects.close()
            self._used.close()
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._watchers.shutdown(wait=False, cancel_futures=True)

    async def _listen(self) -> None:
        conf = self._source.now().conf
        wanted = conf.port if self._options.port is None else self._options.port
        try:
            await self._http.start(self._options.host, wanted)
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE:
                raise MeetingctlError(f"cannot listen on port {wanted}: {exc.strerror}") from exc
            raise ConfigError(f"port {wanted} is in use", hint=f"ss -ltnp 'sport = :{wanted}'") from exc
        self._port = self._http.port

    def _open_discovery(self) -> None:
        """Answer probes; a camera that cannot is still found by its address."""
        try:
            self._announcer = Announcer(self._describe, port=self._options.discovery_port)
        except OSError as exc:
            log.error("no discovery", extra={"error": str(exc)})
            return
        self._announcer.update(self._source.now().interfaces)

    def _describe(self, address: str) -> discovery.Self:
        facts = self._source.now()
        url = f"http://{address}:{self._port}{SERVICE_PATHS['tds']}"
        return discovery.Self(facts.board.endpoint, scopes_of(facts), url)

    def _tell_start(self) -> None:
        facts = self._source.now()
        extra = {"port": self._port, "device_name": facts.name, "relay": facts.has_relay}
        log.info("onvif ready", extra=extra)
        self._tell_login(facts)

    def _tell_login(self, facts: Facts) -> None:
        """Say who may use the service, at the start and whenever that changes."""
        login = "nobody" if facts.login is None else "closed" if facts.login.is_closed else "digest"
        if login == self._login:
            return
        self._login = login
        if login == "nobody":
            log.warning("no login: anybody on the network may use ONVIF", extra={"needs": "RTSP_USER, RTSP_PASSWORD"})
        elif login == "closed":
            log.error("the login cannot be used: nobody gets in", extra={"hint": "meetingctl device config check"})
        else:
            log.info("a login is needed")

    def _follow_switch(self, facts: Facts) -> None:
        if not facts.conf.enabled:
            log.info("onvif.conf says enabled=false now: the service ends")
            self._stop.set()

    def _hang_up(self) -> None:
        facts = self._source.now()
        self._follow_switch(facts)
        self._tell_login(facts)
        self._namekeeper.follow(facts.config)
        if not facts.has_relay:
            self._relay_key = ()  # the chip may be there by now
        self._follow_relay()
        log.info("configuration read again")

    def _follow_relay(self) -> None:
        """Hold the line that the configuration names; a changed one is released first."""
        config = self._source.now().config
        key = (
            config.relay_enable,
            config.relay_gpio_pin,
            config.relay_gpio_chip,
            config.relay_active_high,
            config.relay_output_token,
        )
        if key == self._relay_key:
            return
        self._relay_key = key
        self._points.withdraw(RELAY_TOPIC, time.time())
        try:
            gpiod = load_gpiod() if config.relay_enable else None
            self._points.publish(self._effects.hold_relay(lambda: open_relay(config, gpiod)))
        except MeetingctlError as error:
            self._source.set_relay(False)
            if config.relay_enable:
                log.error("no relay", extra={"reason": error.message, "hint": error.hint})
        else:
            self._source.set_relay(True)

    def _open_socket(self) -> None:
        """Let the web page and the command line switch the relay; without the socket ONVIF works all the same."""
        path = self._system.path(ONVIF_SOCKET)
        try:
            answer = partial(answer_line, self._effects, self._publish_from_thread, self._tell_from_thread)
            self._socket = ControlSocket(path, answer, ONVIF)
        except (OSError, Busy) as exc:
            log.warning("no local socket", extra={"path": str(path), "error": str(exc)})

    # In the background.

    async def _refresh_for_ever(self) -> None:
        while True:
            if self._source.needs_sync:
                await self._watch(self._source.sync)
            facts = self._source.adopt(await self._watch(self._source.look))
            self._namekeeper.follow(facts.config)
            self._follow_switch(facts)
            self._tell_login(facts)
            self._follow_relay()
            self._tell_motion(facts)
            self._points.expire(time.time())
            if self._announcer is not None:
                self._announcer.update(facts.interfaces)
            self._notifier.alive()
            await asyncio.sleep(_MOTION_S if facts.has_motion else _REFRESH_S)

    def _tell_motion(self, facts: Facts) -> None:
        """Pass on what the stream reports; when it reports no more, nothing moves."""
        self._tells_motion |= facts.has_motion
        if self._tells_motion:
            state = "true" if facts.stream.get("motion") is True else "false"
            self._points.publish(Message(MOTION_TOPIC, ("Source", "VideoSource"), ("State", state), time.time()))

    async def _watch_clock(self) -> None:
        """Say that the clock may be wrong, and when it is right: boards without a battery start in the past."""
        is_told = False
        while await self._watch(lambda: is_synchronized(self._system)) is False:
            if not is_told:
                log.warning("the clock is not synchronized: right passwords may be refused for their time")
            is_told = True
            await asyncio.sleep(_CLOCK_PAUSE_S)
        if is_told:
            log.info("the clock is synchronized")

    async def _keep_up(self, job: Callable[[], Awaitable[None]]) -> None:
        """Run a job for ever; a fault in it goes to the log and does not end it."""
        while True:
            try:
                await job()
                return
            except Exception:  # a boundary: the service goes on without this round
                log.exception("in the background")
            await asyncio.sleep(_REFRESH_S)

    async def _in_thread(self, action: Callable[[], T]) -> T:
        return await self._loop.run_in_executor(self._threads, action)

    def _tell_from_thread(self) -> dict[str, Any]:
        """Raises: Unreachable when the loop does not come to it."""

        async def tell() -> dict[str, Any]:
            discovery_is_on = self._announcer is not None
            return {"port": self._port, "discovery": discovery_is_on, "subscriptions": len(self._points)}

        try:
            return asyncio.run_coroutine_threadsafe(tell(), self._loop).result(_TELL_S)
        except TimeoutError:
            raise Unreachable(f"the ONVIF service did not answer within {_TELL_S:g} s") from None

    async def _watch(self, action: Callable[[], T]) -> T:
        return await self._loop.run_in_executor(self._watchers, action)

    def _publish_from_thread(self, message: Message) -> None:
        self._loop.call_soon_threadsafe(self._points.publish, message)

    # Requests.

    async def _answer(self, request: HttpRequest) -> HttpResponse:
        caller = Caller(request.peer, request.method, request.target, request.headers.get("authorization", ""))
        if request.method == "GET":
            return await self._answer_picture(request, caller)
        kind = request.headers.get("content-type", "")
        if kind and not any(word in kind.lower() for word in _XML_WORDS):
            return HttpResponse(415)
        ready: Ready | None = None
        try:
            facts = self._source.now()
            priority, everywhere = facts.config.network_interface_priority, self._options.host in _EVERYWHERE
            host = address_for(request.local, facts.interfaces, priority, is_everywhere=everywhere)
            ready = self._service.admit(request.body, caller, facts, host=host, port=request.port, now_s=time.time())
            result = await self._in_thread(ready.run) if ready.op.blocks else ready.run()
            node = await self._pull(result, request) if isinstance(result, Pull) else result
            return _as_http(write_answer(ready.request, node))
        except Exception as error:  # a boundary: the client gets a fault, the journal the traceback
            if isinstance(error, Denied):
                return self._deny(error, caller)
            return _as_http(write_fault(error, ready.request if ready else None))

    async def _pull(self, pull: Pull, request: HttpRequest) -> tuple[object, ...]:
        """Wait for messages without holding a thread, until the time is over or the client has gone."""
        point, event = pull.point, asyncio.Event()
        point.wake = event.set
        request.set_waiting(True)
        ends_s = self._loop.time() + pull.timeout_s
        try:
            while not point.queue and not point.is_ended and not request.is_over():
                left_s = ends_s - self._loop.time()
                if left_s <= 0:
                    break
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(event.wait(), min(left_s, _PULL_TICK_S))
                event.clear()
        finally:
            point.wake = None
            request.set_waiting(False)
        # A client that only sends no more is answered; one that is gone must not take messages along.
        return pulled(point, [] if request.is_over() else point.take(pull.limit), time.time())

    async def _answer_picture(self, request: HttpRequest, caller: Caller) -> HttpResponse:
        if request.target.partition("?")[0] != SNAPSHOT_PATH:
            return HttpResponse(405, headers=(("Allow", "POST"),))
        try:
            facts = self._source.now()
            is_basic_allowed = facts.config.rtsp_auth_method in {"basic", "both"}
            self._gate.check_picture(facts.login, caller, allow_basic=is_basic_allowed, now_s=time.time())
            picture = await self._take_picture(facts)
        except Denied as error:
            return self._deny(error, caller)
        except MeetingctlError as error:
            log.debug("no picture", extra={"error": error.message})
            return HttpResponse(503, headers=(("Retry-After", "2"),))
        except Exception:  # a boundary: the client gets 500, the journal the traceback
            log.exception("no picture")
            return HttpResponse(500)
        return HttpResponse(200, picture, "image/jpeg", (("Cache-Control", "no-store"),))

    async def _take_picture(self, facts: Facts) -> bytes:
        """Wait for one picture together: clients of a stream that hangs must not hold a thread each."""
        if self._picture is None or self._picture.done():
            self._picture = asyncio.create_task(self._in_thread(lambda: self._effects.take_picture(facts)))
        return await asyncio.shield(self._picture)

    def _deny(self, error: Denied, caller: Caller) -> HttpResponse:
        now_s = time.time()
        answer = _as_http(write_fault(error))
        headers: list[tuple[str, str]] = []
        if error.challenge:
            offered = self._gate.challenges(stale=error.stale, now_s=now_s)
            headers += [("WWW-Authenticate", text) for text in offered]
        if error.retry_after_s:
            headers.append(("Retry-After", str(error.retry_after_s)))
        # Clients ask without a login first; that is no news.
        is_news = not error.challenge or bool(caller.authorization)
        if is_news and self._sparing.should_tell(caller.address, self._loop.time()):
            log.warning("refused", extra={"address": caller.address, "reason": error.message})
        return HttpResponse(answer.status, answer.body, answer.type, tuple(headers))


def _as_http(answer: Answer) -> HttpResponse:
    return HttpResponse(answer.status, answer.body)

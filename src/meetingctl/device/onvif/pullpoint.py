"""Pull points: subscriptions with a queue each, and the properties that new ones begin with. No sockets.

Times are seconds of the wall clock, as they appear in answers.
"""

from __future__ import annotations

import re
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal

from meetingctl.device.onvif.fault import Fault, action_failed, invalid_args
from meetingctl.device.onvif.itemfilter import Accepts, Item, parse_filter
from meetingctl.device.onvif.soap import Element, Node, qname

RELAY_TOPIC = "tns1:Device/Trigger/Relay"
MOTION_TOPIC = "tns1:VideoSource/MotionAlarm"
TOPICS = frozenset({RELAY_TOPIC, MOTION_TOPIC})
MOST_POINTS = 8
LONGEST_PULL_S = 120.0
_MOST_MESSAGES = 100
_DEFAULT_LIFE_S = 60.0
_UNUSED_S = 120.0
_LONGEST_LIFE_S = 24 * 3600.0
_CONCRETE = "http://docs.oasis-open.org/wsn/t-1/TopicExpression/Concrete"
_CONCRETE_SET = "http://www.onvif.org/ver10/tev/topicExpression/ConcreteSet"
DIALECTS = (_CONCRETE, _CONCRETE_SET)
ITEM_FILTER_DIALECT = "http://www.onvif.org/ver10/tev/messageContentFilter/ItemFilter"
_DURATION = re.compile(
    r"P(?:(\d{1,4})Y)?(?:(\d{1,5})M)?(?:(\d{1,6})D)?(?:T(?:(\d{1,7})H)?(?:(\d{1,8})M)?(?:(\d{1,9}(?:\.\d{1,9})?)S)?)?",
    re.ASCII,
)

Operation = Literal["Initialized", "Changed", "Deleted"]


def accept_all(_items: Sequence[Item]) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Message:
    """One value of a property at one moment."""

    topic: str
    source: tuple[str, str]
    data: tuple[str, str]
    at_s: float
    operation: Operation = "Changed"

    def node(self) -> Node:
        """Return it as a NotificationMessage."""
        return (
            "wsnt:NotificationMessage",
            ("wsnt:Topic", {"Dialect": _CONCRETE_SET}, self.topic),
            (
                "wsnt:Message",
                (
                    "tt:Message",
                    {"UtcTime": utc(self.at_s), "PropertyOperation": self.operation},
                    ("tt:Source", ("tt:SimpleItem", {"Name": self.source[0], "Value": self.source[1]})),
                    ("tt:Data", ("tt:SimpleItem", {"Name": self.data[0], "Value": self.data[1]})),
                ),
            ),
        )


@dataclass
class PullPoint:
    """One subscription. `wake` is called when something comes or it ends, while a pull waits."""

    token: str
    ends_s: float
    life_s: float
    topics: frozenset[str]
    accepts: Accepts = accept_all
    queue: deque[Message] = field(default_factory=deque)
    dropped: int = 0
    wake: Callable[[], None] | None = None
    is_ended: bool = False
    pulled_s: float = 0.0

    def put(self, message: Message) -> None:
        if message.topic not in self.topics or not self.accepts((message.source, message.data)):
            return
        if len(self.queue) >= _MOST_MESSAGES:
            self.queue.popleft()
            self.dropped += 1
        self.queue.append(message)
        self.rouse()

    def rouse(self) -> None:
        if self.wake is not None:
            self.wake()

    def take(self, limit: int) -> list[Message]:
        return [self.queue.popleft() for _ in range(min(limit, len(self.queue)))]


@dataclass(frozen=True, slots=True)
class Pull:
    """A pull that has to wait: the HTTP layer waits until `point` has something or `timeout_s` is over."""

    point: PullPoint
    timeout_s: float
    limit: int


class PullPoints:
    """All subscriptions of the daemon, and the last message of each property."""

    def __init__(self) -> None:
        self._points: dict[str, PullPoint] = {}
        self._current: dict[tuple[str, str], Message] = {}

    def __len__(self) -> int:
        return len(self._points)

    def create(
        self, topics: frozenset[str], ends_s: float, *, now_s: float, accepts: Accepts = accept_all
    ) -> PullPoint:
        """Begin a subscription with the current value of each property. Raises: Fault when there are too many."""
        self.expire(now_s)
        if len(self._points) >= MOST_POINTS:
            self._drop_unused(now_s)
        if len(self._points) >= MOST_POINTS:
            raise action_failed(f"there are {MOST_POINTS} pull points already", "MaxPullPoints")
        point = PullPoint(secrets.token_urlsafe(18), ends_s, ends_s - now_s, topics, accepts)
        self._points[point.token] = point
        self.synchronize(point, now_s=now_s)
        return point

    def _drop_unused(self, now_s: float) -> None:
        """Make room: the one that nobody has pulled for longest goes, as clients subscribe again at each start."""
        idle = [p for p in self._points.values() if p.wake is None and not 0 <= now_s - p.pulled_s < _UNUSED_S]
        if idle:
            self.remove(min(idle, key=lambda point: point.pulled_s))

    def find(self, token: str, *, now_s: float) -> PullPoint:
        """Return a living subscription. Raises: Fault."""
        self.expire(now_s)
        point = self._points.get(token)
        if point is None:
            detail = ("wsrfr:ResourceUnknownFault", ("wsrfbf:Timestamp", utc(now_s)))
            raise Fault("Sender", ("wsrfr:ResourceUnknownFault",), "unknown subscription", detail=detail)
        return point

    def remove(self, point: PullPoint) -> None:
        self._points.pop(point.token, None)
        point.is_ended = True
        point.rouse()

    def expire(self, now_s: float) -> None:
        """End what is over. A pull that waits keeps its subscription alive."""
        for point in [item for item in self._points.values() if item.ends_s <= now_s and item.wake is None]:
            self.remove(point)

    def publish(self, message: Message) -> None:
        """Note the new value of a property and tell everybody; the same value again is no event."""
        key = (message.topic, message.source[1])
        last = self._current.get(key)
        self._current[key] = message
        if last is not None and last.data == message.data:
            return
        for point in self._points.values():
            point.put(replace(message, operation="Initialized") if last is None else message)

    def withdraw(self, topic: str, now_s: float) -> None:
        """Tell everybody that a property is gone."""
        for key in [key for key in self._current if key[0] == topic]:
            last = self._current.pop(key)
            for point in self._points.values():
                point.put(replace(last, operation="Deleted", at_s=now_s))

    def synchronize(self, point: PullPoint, *, now_s: float) -> None:
        """Put the current value of each property into the queue."""
        for message in self._current.values():
            point.put(replace(message, operation="Initialized", at_s=now_s))


def read_end(written: str | None, *, now_s: float, fault: str = "UnacceptableInitialTerminationTimeFault") -> float:
    """Return when a subscription ends: a duration, a moment, or our own default. Raises: Fault of that name."""
    if not written:
        return now_s + _DEFAULT_LIFE_S
    if written.startswith("P"):
        life_s = duration_s(written)
    else:
        try:
            at = datetime.fromisoformat(written)
        except ValueError:
            raise _unacceptable(fault, now_s) from None
        life_s = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - now_s
    if life_s <= 0:
        raise _unacceptable(fault, now_s)
    return now_s + min(life_s, _LONGEST_LIFE_S)


def duration_s(written: str) -> float:
    """Read an xs:duration; years and months are 365 and 30 days. Raises: Fault."""
    match = _DURATION.fullmatch(written)
    if match is None or written.endswith(("P", "T")):
        raise invalid_args(f"{written[:40]!r} is no duration")
    years, months, days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return (years * 365 + months * 30 + days) * 86400 + hours * 3600 + minutes * 60 + seconds


def read_filter(holder: Element | None, offered: frozenset[str], *, now_s: float) -> tuple[frozenset[str], Accepts]:
    """Return the topics that a filter lets through, and what it says of the content. Raises: Fault for an unknown one.

    Without a filter these are all topics, also one that is offered only later.
    """
    chosen, contents = TOPICS, []
    for item in () if holder is None else holder:
        if item.tag == qname("wsnt:TopicExpression"):
            chosen &= _choose(item, offered, now_s)
        elif item.tag == qname("wsnt:MessageContent") and item.get("Dialect") == ITEM_FILTER_DIALECT:
            try:
                contents.append(parse_filter(item.text or ""))
            except ValueError as exc:
                raise _invalid_filter(f"the content filter is not understood: {exc}", now_s) from exc
        else:
            raise _invalid_filter("filters are for topics, and for content as ItemFilter", now_s)
    return chosen, lambda items: all(accepts(items) for accepts in contents)


def _choose(item: Element, offered: frozenset[str], now_s: float) -> frozenset[str]:
    dialect = item.get("Dialect", _CONCRETE)
    if dialect not in DIALECTS:
        raise _invalid_filter("the dialect is not supported", now_s)
    words = [word.strip() for word in (item.text or "").split("|")]
    prefixes = {prefix for prefix, uri in item.nsmap.items() if uri == "http://www.onvif.org/ver10/topics"}
    found: set[str] = set()
    for word in words:
        prefix, _, path = word.partition(":")
        whole = f"tns1:{path}" if prefix in prefixes or prefix == "tns1" else word
        is_tree = dialect == _CONCRETE_SET and whole.endswith("//.")
        stem = whole.removesuffix("//.")
        matching = {t for t in offered if t == stem or (is_tree and t.startswith(f"{stem}/"))}
        if not matching:
            raise _invalid_filter(f"there is no topic {word[:100]!r}", now_s)
        found |= matching
    return frozenset(found)


def _invalid_filter(reason: str, now_s: float) -> Fault:
    detail = ("wsnt:InvalidFilterFault", ("wsrfbf:Timestamp", utc(now_s)), ("wsnt:UnknownFilter",))
    return Fault("Sender", ("wsnt:InvalidFilterFault",), reason, detail=detail)


def _unacceptable(fault: str, now_s: float) -> Fault:
    name = f"wsnt:{fault}"
    detail = (name, ("wsrfbf:Timestamp", utc(now_s)), ("wsnt:MinimumTime", utc(now_s)))
    return Fault("Sender", (name,), "the time is not acceptable", detail=detail)


def utc(at_s: float) -> str:
    """Write a moment as xs:dateTime in UTC."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

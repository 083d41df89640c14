"""WS-Discovery without sockets: what a datagram asks, whether we match, and what we say.

Source: WS-Discovery of April 2005 with the types and scopes of the ONVIF Core specification, section 7.
"""

from __future__ import annotations

import uuid
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote, urlsplit

from lxml import etree

from meetingctl.device.onvif.fault import Fault
from meetingctl.device.onvif.soap import NAMESPACES, Element, Node, build, parse_xml, qname

GROUP = "239.255.255.250"
LARGEST_DATAGRAM_BYTES = 8 * 1024
_D = NAMESPACES["d"]
_EVERYBODY = "urn:schemas-xmlsoap-org:ws:2005:04:discovery"
_ANONYMOUS = f"{NAMESPACES['a']}/role/anonymous"
_OUR_TYPES = frozenset({qname("dn:NetworkVideoTransmitter"), qname("tds:Device")})
_SHOWN = {prefix: NAMESPACES[prefix] for prefix in ("s", "a", "d", "dn", "tds")}
_BY_PREFIX = frozenset({"", f"{_D}/rfc3986", f"{_D}/rfc2396"})
_BY_TEXT = f"{_D}/strcmp0"
_MOST_ANSWERS = 10
_MOST_ANSWERS_OF_ALL = 40
_WINDOW_S = 1.0
_MOST_SOURCES = 512
_MOST_WORDS = 32

Kind = Literal["probe", "resolve"]


@dataclass(frozen=True, slots=True)
class Question:
    """What was asked: types as expanded names, scopes, or the endpoint to resolve."""

    kind: Kind
    message_id: str
    types: frozenset[str] = frozenset()
    scopes: tuple[str, ...] = ()
    match_by: str = ""
    endpoint: str = ""


@dataclass(frozen=True, slots=True)
class Self:
    """How we describe ourselves to one subnet."""

    endpoint: str
    scopes: Sequence[str]
    address: str
    version: int = 1  # grows with each change of what is told here


def parse_question(data: bytes) -> Question | None:
    """Read a datagram; None for everything that is no question to us."""
    if not may_be_question(data):
        return None
    try:
        root = parse_xml(data)
    except Fault:
        return None
    message_id = (root.findtext(f"{qname('s:Header')}/{qname('a:MessageID')}") or "").strip()
    body = root.find(qname("s:Body"))
    if root.tag != qname("s:Envelope") or body is None or len(body) == 0 or not 0 < len(message_id) <= 512:
        return None
    if body[0].tag == qname("d:Probe"):
        return _probe(body[0], message_id)
    if body[0].tag == qname("d:Resolve"):
        path = f"{qname('a:EndpointReference')}/{qname('a:Address')}"
        return Question("resolve", message_id, endpoint=(body[0].findtext(path) or "").strip())
    return None


def may_be_question(data: bytes) -> bool:
    """Tell most of what is no question without reading it."""
    return len(data) <= LARGEST_DATAGRAM_BYTES and (b"Probe" in data or b"Resolve" in data)


def is_match(question: Question, endpoint: str, scopes: Sequence[str]) -> bool:
    """Say whether a question is about us."""
    if question.kind == "resolve":
        return question.endpoint == endpoint
    if not question.types <= _OUR_TYPES:
        return False
    if question.match_by == _BY_TEXT:
        return set(question.scopes) <= set(scopes)
    if question.match_by not in _BY_PREFIX:
        return False
    return all(any(_scope_matches(wanted, own) for own in scopes) for wanted in question.scopes)


def write_answer(question: Question, who: Self, sequence: Order) -> bytes:
    """Answer a question that we match."""
    name = "Probe" if question.kind == "probe" else "Resolve"
    match = (f"d:{name}Match", *_description(who))
    return _envelope(f"{name}Matches", _ANONYMOUS, sequence, (f"d:{name}Matches", match), question.message_id)


def write_hello(who: Self, sequence: Order) -> bytes:
    """Announce that we are here."""
    return _envelope("Hello", _EVERYBODY, sequence, ("d:Hello", *_description(who)))


def write_bye(who: Self, sequence: Order) -> bytes:
    """Announce that we leave."""
    return _envelope("Bye", _EVERYBODY, sequence, ("d:Bye", _reference(who)))


class Order:
    """The numbers that order our messages: the instance is the time of the start."""

    def __init__(self, instance: int) -> None:
        self.instance = instance
        self._number = 0

    def next(self) -> int:
        self._number += 1
        return self._number


class Throttle:
    """At most so many things a second for one source and for all: a forged source address gains nothing."""

    def __init__(self, of_one: int = _MOST_ANSWERS, of_all: int = _MOST_ANSWERS_OF_ALL) -> None:
        self._of_one, self._of_all = of_one, of_all
        self._answers: OrderedDict[str, list[float]] = OrderedDict()
        self._all: list[float] = []

    def allows(self, source: str, now_s: float) -> bool:
        """Count one for a source and say whether it is within the bounds."""
        since_s = now_s - _WINDOW_S
        self._all = [at_s for at_s in self._all if at_s > since_s]
        mine = [at_s for at_s in self._answers.pop(source, []) if at_s > since_s]
        is_allowed = len(mine) < self._of_one and len(self._all) < self._of_all
        if is_allowed:
            mine.append(now_s)
            self._all.append(now_s)
        self._answers[source] = mine
        while len(self._answers) > _MOST_SOURCES:
            self._answers.popitem(last=False)
        return is_allowed


def _probe(body: Element, message_id: str) -> Question | None:
    types = body.find(qname("d:Types"))
    names = _expanded(types) if types is not None else frozenset()
    scopes = body.find(qname("d:Scopes"))
    if names is None:
        return None
    words = tuple((scopes.text or "").split()) if scopes is not None else ()
    if len(words) > _MOST_WORDS:
        return None
    match_by = (scopes.get("MatchBy") or "").strip() if scopes is not None else ""
    return Question("probe", message_id, names, words, match_by)


def _expanded(types: Element) -> frozenset[str] | None:
    """Return the types as `{namespace}name`; None when a prefix is not declared, for then nobody can match."""
    found = set()
    words = (types.text or "").split()
    if len(words) > _MOST_WORDS:
        return None
    for word in words:
        prefix, _, local = word.rpartition(":")
        uri = types.nsmap.get(prefix or None)
        if prefix and uri is None:
            return None
        found.add(f"{{{uri}}}{local}" if uri else local)
    return frozenset(found)


def _scope_matches(wanted: str, own: str) -> bool:
    """Compare as RFC 3986 does: scheme and authority without case, the path by whole segments."""
    try:
        left, right = urlsplit(wanted), urlsplit(own)
    except ValueError:
        return False
    if (left.scheme.lower(), left.netloc.lower()) != (right.scheme.lower(), right.netloc.lower()):
        return False
    if "." in (segments := left.path.split("/")) or ".." in segments:
        return False
    asked = [unquote(part) for part in left.path.rstrip("/").split("/")]
    mine = [unquote(part) for part in right.path.rstrip("/").split("/")]
    return mine[: len(asked)] == asked


def _reference(who: Self) -> Node:
    return ("a:EndpointReference", ("a:Address", who.endpoint))


def _description(who: Self) -> tuple[Node, ...]:
    return (
        _reference(who),
        ("d:Types", "dn:NetworkVideoTransmitter tds:Device"),
        ("d:Scopes", " ".join(who.scopes)),
        ("d:XAddrs", who.address),
        ("d:MetadataVersion", who.version),
    )


def _envelope(action: str, to: str, sequence: Order, content: Node, relates_to: str = "") -> bytes:
    headers: tuple[Node | None, ...] = (
        ("a:MessageID", f"urn:uuid:{uuid.uuid4()}"),
        ("a:RelatesTo", relates_to) if relates_to else None,
        ("a:To", to),
        ("a:Action", f"{_D}/{action}"),
        ("d:AppSequence", {"InstanceId": sequence.instance, "MessageNumber": sequence.next()}),
    )
    node = ("s:Envelope", ("s:Header", *headers), ("s:Body", content))
    data: bytes = etree.tostring(build(node, shown=_SHOWN), encoding="utf-8", xml_declaration=True)
    return data

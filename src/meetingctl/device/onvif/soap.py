"""SOAP 1.2 without sockets: hostile bytes to a request value, nested tuples to an envelope.

A node is `(name, attributes, *children)`: the name has one of our prefixes or none, the attributes may be left out, a
child is a node or a text, number or truth value. None among the children stands for nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from lxml import etree

from meetingctl.device.onvif.fault import Fault, invalid_args

NAMESPACES = {
    "s": "http://www.w3.org/2003/05/soap-envelope",
    "tt": "http://www.onvif.org/ver10/schema",
    "tds": "http://www.onvif.org/ver10/device/wsdl",
    "trt": "http://www.onvif.org/ver10/media/wsdl",
    "tr2": "http://www.onvif.org/ver20/media/wsdl",
    "timg": "http://www.onvif.org/ver20/imaging/wsdl",
    "tmd": "http://www.onvif.org/ver10/deviceIO/wsdl",
    "tev": "http://www.onvif.org/ver10/events/wsdl",
    "ter": "http://www.onvif.org/ver10/error",
    "tns1": "http://www.onvif.org/ver10/topics",
    "wsa": "http://www.w3.org/2005/08/addressing",
    "wsnt": "http://docs.oasis-open.org/wsn/b-2",
    "wstop": "http://docs.oasis-open.org/wsn/t-1",
    "wsrfr": "http://docs.oasis-open.org/wsrf/r-2",
    "wsrfbf": "http://docs.oasis-open.org/wsrf/bf-2",
    "wsse": "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd",
    "wsu": "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd",
    "d": "http://schemas.xmlsoap.org/ws/2005/04/discovery",
    "a": "http://schemas.xmlsoap.org/ws/2004/08/addressing",
    "dn": "http://www.onvif.org/ver10/network/wsdl",
    "xs": "http://www.w3.org/2001/XMLSchema",
    "xml": "http://www.w3.org/XML/1998/namespace",
}
LONGEST_BODY_BYTES = 64 * 1024
_MOST_ELEMENTS = 2000
_NUMBER = re.compile(r"[+-]?[0-9]{1,9}(\.[0-9]{0,9})?([eE][+-]?[0-9]{1,2})?")
_GREATEST = 1e9
_DEEPEST = 32
_SHOWN = {prefix: uri for prefix, uri in NAMESPACES.items() if prefix not in {"xml", "wsse", "wsu", "d", "a", "dn"}}
_UNDERSTOOD = frozenset({NAMESPACES["wsse"], NAMESPACES["wsa"], "http://schemas.xmlsoap.org/ws/2004/08/addressing"})
_FORBIDDEN = re.compile(rb"<!(DOCTYPE|ENTITY|ELEMENT|ATTLIST)", re.IGNORECASE)
_UNWRITABLE = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

Node = tuple[Any, ...]
Element = Any  # lxml's own class is private


@dataclass(frozen=True, slots=True)
class Request:
    """One operation that was asked for. `header` is the SOAP header or None."""

    namespace: str
    operation: str
    body: Element
    header: Element | None
    message_id: str = ""


def parse_xml(data: bytes, *, deepest: int = _DEEPEST) -> Element:
    """Read a document from a stranger: UTF-8, no document type, few elements, no depth. Raises: Fault."""
    if _FORBIDDEN.search(data):
        raise Fault("Sender", ("ter:WellFormed",), "a document type is not allowed")
    # The encoding is ours: a declared one could hide a document type from the look above.
    parser = etree.XMLParser(
        encoding="utf-8",
        resolve_entities=False,
        no_network=True,
        huge_tree=False,
        load_dtd=False,
        remove_comments=True,
        remove_pis=True,
    )
    try:
        root = etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, ValueError) as exc:
        raise Fault("Sender", ("ter:WellFormed",), "the request is not well-formed XML") from exc
    depth = count = 0
    for event, _ in etree.iterwalk(root, events=("start", "end")):
        depth += 1 if event == "start" else -1
        count += event == "start"
        if depth > deepest or count > _MOST_ELEMENTS:
            raise Fault("Sender", ("ter:WellFormed",), "too many or too deep elements")
    return root


def parse_request(data: bytes) -> Request:
    """Read a SOAP request. Raises: Fault."""
    root = parse_xml(data)
    name = etree.QName(root)
    if name.localname == "Envelope" and name.namespace != NAMESPACES["s"]:
        raise Fault("VersionMismatch", (), "SOAP 1.2 is spoken here")
    if root.tag != qname("s:Envelope"):
        raise Fault("Sender", ("ter:WellFormed",), "no SOAP envelope")
    header, body = root.find(qname("s:Header")), root.find(qname("s:Body"))
    if body is None or len(body) == 0:
        raise Fault("Sender", ("ter:WellFormed",), "the body is empty")
    _check_understood(header)
    asked = etree.QName(body[0])
    message_id = "" if header is None else (header.findtext(qname("wsa:MessageID")) or "").strip()
    return Request(asked.namespace or "", asked.localname, body[0], header, message_id[:512])


def envelope(*content: Node, action: str = "", relates_to: str = "") -> bytes:
    """Write an envelope around the content of its body, with addressing headers when an action is given."""
    headers: list[Node] = []
    if action:
        headers.append(("wsa:Action", action))
        if relates_to:
            headers.append(("wsa:RelatesTo", relates_to))
    node = ("s:Envelope", ("s:Header", *headers) if headers else None, ("s:Body", *content))
    return etree.tostring(build(node), encoding="utf-8", xml_declaration=True)


def build(node: Node, parent: Element | None = None, shown: Mapping[str, str] = _SHOWN) -> Element:
    """Turn a node into an element, below `parent` when there is one; the root declares `shown`."""
    rest = node[1:]
    attributes = rest[0] if rest and isinstance(rest[0], dict) else {}
    element: Element = (
        etree.Element(qname(node[0]), None, dict(shown)) if parent is None else etree.SubElement(parent, qname(node[0]))
    )
    for name, value in attributes.items():
        element.set(qname(name), as_text(value))
    for child in rest:
        if isinstance(child, tuple):
            build(child, element)
        elif child is not None and not isinstance(child, dict):
            element.text = (element.text or "") + as_text(child)
    return element


def as_text(value: object) -> str:
    """Write a value as XML Schema spells it; characters that XML cannot hold are dropped."""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    return text if text.isprintable() else _UNWRITABLE.sub("", text)


@cache
def qname(name: str) -> str:
    """Turn `tt:Name` into `{http://www.onvif.org/ver10/schema}Name`; a name without a prefix stays."""
    prefix, _, local = name.rpartition(":")
    return f"{{{NAMESPACES[prefix]}}}{local}" if prefix else local


def find(element: Element, path: str) -> Element | None:
    """Return what a path such as `trt:Configuration/tt:Name` leads to, None without it."""
    return element.find("/".join(qname(step) for step in path.split("/")))


def text(element: Element, path: str, default: str | None = None) -> str:
    """Return the text at a path. Raises: Fault when it is missing and there is no default."""
    found = find(element, path)
    if found is None:
        if default is None:
            raise invalid_args(f"{path.rpartition(':')[2]} is missing")
        return default
    return (found.text or "").strip()


def number(element: Element, path: str, default: float | None = None) -> float:
    """Return the number at a path. Raises: Fault."""
    written = text(element, path, None if default is None else "")
    if not written and default is not None:
        return default
    if not _NUMBER.fullmatch(written) or abs(float(written)) > _GREATEST:
        raise invalid_args(f"{path.rpartition(':')[2]} is no number")
    return float(written)


def integer(element: Element, path: str, default: int | None = None) -> int:
    """Return the whole number at a path. Raises: Fault."""
    value = number(element, path, default)
    if not text(element, path, "0").lstrip("+-").isdigit():
        raise invalid_args(f"{path.rpartition(':')[2]} is no whole number")
    return int(value)


def _check_understood(header: Element | None) -> None:
    for item in () if header is None else header:
        is_needed = item.get(qname("s:mustUnderstand"), "").strip() in {"1", "true"}
        if is_needed and etree.QName(item).namespace not in _UNDERSTOOD:
            raise Fault("MustUnderstand", (), "a mandatory header is unknown")

"""The schemas that onvif-zeep ships, compiled once, and requests as clients write them."""

from __future__ import annotations

import base64
import hashlib
import os
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import onvif
from lxml import etree

from meetingctl.device.onvif.soap import NAMESPACES, qname

WSDL_DIR = Path(onvif.__file__).parents[1] / "wsdl"
_XS = "http://www.w3.org/2001/XMLSchema"
_SERVICES = {
    "tds": "devicemgmt.wsdl",
    "trt": "media.wsdl",
    "timg": "imaging.wsdl",
    "tmd": "deviceio.wsdl",
    "tev": "events.wsdl",
}
_SHARED = {"wsnt": "b-2.xsd"}
_DIGEST = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-username-token-profile-1.0#PasswordDigest"


class _Shipped(etree.Resolver):
    """Find every imported schema in the folder of the package; nothing is fetched."""

    def resolve(self, url: str, public_id: str, context: Any) -> Any:
        path = WSDL_DIR / url.rpartition("/")[2]
        if path.exists():
            return self.resolve_filename(str(path), context)
        return self.resolve_string('<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema"/>', context)


@cache
def schema_for(prefix: str) -> etree.XMLSchema:
    """Compile the schema of one service out of its WSDL."""
    parser = etree.XMLParser(no_network=True)
    parser.resolvers.add(_Shipped())
    if prefix in _SHARED:
        return etree.XMLSchema(etree.parse(str(WSDL_DIR / _SHARED[prefix]), parser))
    wsdl = etree.parse(str(WSDL_DIR / _SERVICES[prefix]), parser)
    schema = wsdl.find(f".//{{{_XS}}}schema")
    text = etree.tostring(schema)
    return etree.XMLSchema(etree.fromstring(text, parser, base_url=str(WSDL_DIR / "service.xsd")))


def check_response(data: bytes) -> Any:
    """Validate the content of an envelope's body against its schema and return it."""
    root = etree.fromstring(data)
    body = root.find(qname("s:Body"))
    assert body is not None
    content = body[0]
    uri = etree.QName(content).namespace
    prefix = next(name for name, namespace in NAMESPACES.items() if namespace == uri)
    if prefix not in {"s", "tr2"}:
        schema = schema_for(prefix)
        # A copy keeps the prefixes that stand on the envelope: topics are names with a prefix.
        document = etree.fromstring(etree.tostring(content))
        assert schema.validate(document), f"{content.tag}: {schema.error_log}\n{etree.tostring(document).decode()}"
    return content


def request(
    operation: str,
    inner: str = "",
    *,
    user: str = "",
    password: str = "",
    created: datetime | None = None,
    nonce: bytes | None = None,
    header: str = "",
) -> bytes:
    """Write a request such as `trt:GetProfiles`; with a user it carries a digest token."""
    prefix, _, name = operation.partition(":")
    token = wsse(user, password, created=created, nonce=nonce) if user else ""
    declared = " ".join(f'xmlns:{key}="{uri}"' for key, uri in NAMESPACES.items() if key != "xml")
    return (
        f"<s:Envelope {declared}><s:Header>{token}{header}</s:Header>"
        f"<s:Body><{prefix}:{name}>{inner}</{prefix}:{name}></s:Body></s:Envelope>"
    ).encode()


def wsse(user: str, password: str, *, created: datetime | None = None, nonce: bytes | None = None) -> str:
    """Write a Security header with a digest of the password."""
    raw = nonce if nonce is not None else os.urandom(16)
    at = (created or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    digest = base64.b64encode(hashlib.sha1(raw + at.encode() + password.encode()).digest()).decode()
    return (
        f"<wsse:Security><wsse:UsernameToken><wsse:Username>{user}</wsse:Username>"
        f'<wsse:Password Type="{_DIGEST}">{digest}</wsse:Password>'
        f"<wsse:Nonce>{base64.b64encode(raw).decode()}</wsse:Nonce><wsu:Created>{at}</wsu:Created>"
        "</wsse:UsernameToken></wsse:Security>"
    )


def subcodes(data: bytes) -> list[str]:
    """Return the local names of a fault's code and subcodes, the outer one first; nothing for no fault."""
    root = etree.fromstring(data)
    values = root.iterfind(f".//{qname('s:Fault')}/{qname('s:Code')}//{qname('s:Value')}")
    return [(value.text or "").rpartition(":")[2] for value in values]

"""The device service (tds): who this is, what it can do, and the network as it stands."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime
from urllib.parse import quote

from meetingctl.core.netlink import Interface
from meetingctl.device.onvif import io_service
from meetingctl.device.onvif.call import SERVICE_PATHS, Call, Op, Table
from meetingctl.device.onvif.facts import MANUFACTURER, MODEL, Facts
from meetingctl.device.onvif.fault import Fault
from meetingctl.device.onvif.profiles import kinds_of, profiles_of
from meetingctl.device.onvif.pullpoint import MOST_POINTS
from meetingctl.device.onvif.soap import NAMESPACES, Node, qname, text

_SCOPE = "onvif://www.onvif.org"
_VERSIONS = {"tds": (16, 12), "trt": (2, 60), "timg": (16, 6), "tmd": (16, 12), "tev": (2, 60), "tr2": (16, 12)}
_CATEGORIES = frozenset({"All", "Analytics", "Device", "Events", "Imaging", "Media", "PTZ"})


def services_of(facts: Facts) -> tuple[str, ...]:
    """Return the prefixes of the services that are announced; Media2 only when it is switched on."""
    return ("tds", "trt", "timg", "tmd", "tev", *(("tr2",) if facts.conf.media2 else ()))


def scopes_of(facts: Facts) -> list[str]:
    """Return the scopes: what we are, the board, the name; quoted, because recorders parse them as addresses."""
    name = quote(facts.name, safe="")
    # Not Profile/T: we claim no conformance, and it would make metadata streams mandatory.
    return [
        f"{_SCOPE}/Profile/Streaming",
        f"{_SCOPE}/type/video_encoder",
        f"{_SCOPE}/type/Network_Video_Transmitter",
        f"{_SCOPE}/hardware/{quote(facts.board.model, safe='')}",
        f"{_SCOPE}/name/{name}",
        f"{_SCOPE}/serial/{quote(facts.serial, safe='')}",
    ]


def get_system_date_and_time(call: Call) -> Node:
    now = datetime.fromtimestamp(call.now_s, UTC)
    moment = (
        ("tt:Time", ("tt:Hour", now.hour), ("tt:Minute", now.minute), ("tt:Second", now.second)),
        ("tt:Date", ("tt:Year", now.year), ("tt:Month", now.month), ("tt:Day", now.day)),
    )
    return (
        "tds:GetSystemDateAndTimeResponse",
        (
            "tds:SystemDateAndTime",
            ("tt:DateTimeType", "NTP"),
            ("tt:DaylightSavings", False),
            ("tt:TimeZone", ("tt:TZ", "UTC0")),
            ("tt:UTCDateTime", *moment),
            ("tt:LocalDateTime", *moment),
        ),
    )


def get_services(call: Call) -> Node:
    is_wanted = text(call.body, "tds:IncludeCapability", "false") in {"true", "1"}
    rows: list[Node] = []
    for prefix in services_of(call.facts):
        major, minor = _VERSIONS[prefix]
        rows.append(
            (
                "tds:Service",
                ("tds:Namespace", NAMESPACES[prefix]),
                ("tds:XAddr", call.url(SERVICE_PATHS[prefix])),
                ("tds:Capabilities", capabilities_of(prefix, call.facts)) if is_wanted else None,
                ("tds:Version", ("tt:Major", major), ("tt:Minor", minor)),
            )
        )
    return ("tds:GetServicesResponse", *rows)


def capabilities_of(prefix: str, facts: Facts) -> Node:
    """Return what a service can do, as GetServiceCapabilities and GetServices tell it."""
    name = f"{prefix}:Capabilities"
    if prefix == "tds":
        return (
            name,
            ("tds:Network", {"NTP": 0, "DHCPv6": False, "ZeroConfiguration": False, "IPVersion6": False}),
            ("tds:Security", {"HttpDigest": True, "UsernameToken": True, "RemoteUserHandling": False, "MaxUsers": 1}),
            ("tds:System", {"DiscoveryResolve": True, "DiscoveryBye": True, "RemoteDiscovery": False}),
        )
    if prefix == "trt":
        return (
            name,
            {"SnapshotUri": True, "Rotation": False, "VideoSourceMode": False, "OSD": False},
            ("trt:ProfileCapabilities", {"MaximumNumberOfProfiles": len(profiles_of(facts))}),
            ("trt:StreamingCapabilities", _streaming(facts)),
        )
    if prefix == "tr2":
        profiles = len(profiles_of(facts))
        attributes = {"MaximumNumberOfProfiles": profiles, "ConfigurationsSupported": kinds_of(facts)}
        return (
            name,
            {"SnapshotUri": True, "Rotation": False, "VideoSourceMode": False, "OSD": False},
            ("tr2:ProfileCapabilities", attributes),
            ("tr2:StreamingCapabilities", {"RTSPStreaming": True, "NonAggregateControl": False, **_streaming(facts)}),
        )
    if prefix == "timg":
        return (name, {"ImageStabilization": False})
    if prefix == "tmd":
        return (name, io_service.counts_of(facts))
    return (
        name,
        {
            "WSSubscriptionPolicySupport": False,
            "WSPausableSubscriptionManagerInterfaceSupport": False,
            "MaxNotificationProducers": 0,
            "MaxPullPoints": MOST_POINTS,
            "PersistentNotificationStorage": False,
        },
    )


def get_service_capabilities(call: Call) -> Node:
    """Answer for the service whose namespace was asked."""
    uri = call.body.tag[1:].partition("}")[0]
    prefix = next(name for name, namespace in NAMESPACES.items() if namespace == uri)
    return (f"{prefix}:GetServiceCapabilitiesResponse", capabilities_of(prefix, call.facts))


def get_capabilities(call: Call) -> Node:
    """Answer by category, in the order of the schema: a client loses a service that stands elsewhere."""
    asked = [(item.text or "").strip() for item in call.body if item.tag == qname("tds:Category")] or ["All"]
    if wrong := [name for name in asked if name not in _CATEGORIES or name in {"Analytics", "PTZ"}]:
        raise Fault("Receiver", ("ter:ActionNotSupported", "ter:NoSuchService"), f"no service {wrong[0][:40]}")
    every = "All" in asked
    facts, parts = call.facts, []
    if every or "Device" in asked:
        parts.append(_device_part(call))
    if every or "Events" in asked:
        flags = ("WSSubscriptionPolicySupport", "WSPullPointSupport", "WSPausableSubscriptionManagerInterfaceSupport")
        shown = [(f"tt:{flag}", flag == "WSPullPointSupport") for flag in flags]
        parts.append(("tt:Events", ("tt:XAddr", call.url(SERVICE_PATHS["tev"])), *shown))
    if every or "Imaging" in asked:
        parts.append(("tt:Imaging", ("tt:XAddr", call.url(SERVICE_PATHS["timg"]))))
    if every or "Media" in asked:
        streaming = [(f"tt:{name}", value) for name, value in _streaming(facts).items()]
        parts.append(
            (
                "tt:Media",
                ("tt:XAddr", call.url(SERVICE_PATHS["trt"])),
                ("tt:StreamingCapabilities", *streaming),
                (
                    "tt:Extension",
                    (
                        "tt:ProfileCapabilities",
                        ("tt:MaximumNumberOfProfiles", len(profiles_of(facts))),
                    ),
                ),
            )
        )
    if every:
        counts = io_service.counts_of(facts)
        names = ("VideoSources", "VideoOutputs", "AudioSources", "AudioOutputs", "RelayOutputs")
        held = [(f"tt:{name}", counts[name]) for name in names]
        device_io = ("tt:DeviceIO", ("tt:XAddr", call.url(SERVICE_PATHS["tmd"])), *held)
        parts.append(("tt:Extension", device_io))
    return ("tds:GetCapabilitiesResponse", ("tds:Capabilities", *parts))


def get_device_information(call: Call) -> Node:
    facts = call.facts
    return (
        "tds:GetDeviceInformationResponse",
        ("tds:Manufacturer", MANUFACTURER),
        ("tds:Model", MODEL),
        ("tds:FirmwareVersion", facts.board.firmware),
        ("tds:SerialNumber", facts.serial),
        ("tds:HardwareId", facts.board.model),
    )


def get_scopes(call: Call) -> Node:
    rows = [("tds:Scopes", ("tt:ScopeDef", "Fixed"), ("tt:ScopeItem", scope)) for scope in scopes_of(call.facts)]
    return ("tds:GetScopesResponse", *rows)


def get_hostname(call: Call) -> Node:
    return (
        "tds:GetHostnameResponse",
        ("tds:HostnameInformation", ("tt:FromDHCP", False), ("tt:Name", call.facts.name)),
    )


def get_wsdl_url(call: Call) -> Node:
    return ("tds:GetWsdlUrlResponse", ("tds:WsdlUrl", call.url(SERVICE_PATHS["tds"])))


def get_endpoint_reference(call: Call) -> Node:
    return ("tds:GetEndpointReferenceResponse", ("tds:GUID", call.facts.board.endpoint))


def get_network_interfaces(call: Call) -> Node:
    shown = [item for item in call.facts.interfaces if not item.is_loopback and (item.addresses or item.mac)]
    rows = [_interface(item, is_dhcp=call.facts.config.network_mode == "dhcp") for item in shown if item.is_up]
    return ("tds:GetNetworkInterfacesResponse", *rows)


def get_dns(call: Call) -> Node:
    is_dhcp = call.facts.config.network_mode == "dhcp"
    name = "tt:DNSFromDHCP" if is_dhcp else "tt:DNSManual"
    rows = [(name, ("tt:Type", "IPv4"), ("tt:IPv4Address", item)) for item in call.facts.name_servers]
    return ("tds:GetDNSResponse", ("tds:DNSInformation", ("tt:FromDHCP", is_dhcp), *rows))


def get_ntp(call: Call) -> Node:
    return ("tds:GetNTPResponse", ("tds:NTPInformation", ("tt:FromDHCP", True)))


def get_network_protocols(call: Call) -> Node:
    ports = (("HTTP", call.port), ("RTSP", call.facts.config.rtsp_port))
    rows = [
        ("tds:NetworkProtocols", ("tt:Name", name), ("tt:Enabled", True), ("tt:Port", port)) for name, port in ports
    ]
    return ("tds:GetNetworkProtocolsResponse", *rows)


def get_network_default_gateway(call: Call) -> Node:
    rows = [("tt:IPv4Address", item) for item in call.facts.gateways]
    return ("tds:GetNetworkDefaultGatewayResponse", ("tds:NetworkGateway", *rows))


def get_discovery_mode(call: Call) -> Node:
    return ("tds:GetDiscoveryModeResponse", ("tds:DiscoveryMode", "Discoverable"))


def get_users(call: Call) -> Node:
    login = call.facts.login
    rows = [("tds:User", ("tt:Username", login.user), ("tt:UserLevel", "Administrator"))] if login else []
    return ("tds:GetUsersResponse", *rows)


def set_ntp(call: Call) -> Node:
    """Succeed without effect for recorders that give up otherwise; the clock is managed elsewhere."""
    if "synology" not in call.facts.conf.compat:
        raise Fault("Receiver", ("ter:ActionNotSupported",), "the clock is managed elsewhere")
    return ("tds:SetNTPResponse",)


def _device_part(call: Call) -> Node:
    no_network = [(f"tt:{name}", False) for name in ("IPFilter", "ZeroConfiguration", "IPVersion6", "DynDNS")]
    system = (
        ("DiscoveryResolve", True),
        ("DiscoveryBye", True),
        ("RemoteDiscovery", False),
        ("SystemBackup", False),
        ("SystemLogging", False),
        ("FirmwareUpgrade", False),
    )
    secure = ("TLS1.1", "TLS1.2", "OnboardKeyGeneration", "AccessPolicyConfig")
    tokens = ("X.509Token", "SAMLToken", "KerberosToken", "RELToken")
    relays = io_service.counts_of(call.facts)["RelayOutputs"]
    return (
        "tt:Device",
        ("tt:XAddr", call.url(SERVICE_PATHS["tds"])),
        ("tt:Network", *no_network),
        (
            "tt:System",
            *((f"tt:{name}", value) for name, value in system),
            ("tt:SupportedVersions", ("tt:Major", 16), ("tt:Minor", 12)),
        ),
        ("tt:IO", ("tt:InputConnectors", 0), ("tt:RelayOutputs", relays)),
        ("tt:Security", *((f"tt:{name}", False) for name in (*secure, *tokens))),
    )


def _streaming(facts: Facts) -> dict[str, bool]:
    return {"RTPMulticast": facts.has_multicast, "RTP_TCP": True, "RTP_RTSP_TCP": True}


def _interface(item: Interface, *, is_dhcp: bool) -> Node:
    own = [("tt:Address", address, prefix) for address, prefix in item.addresses]
    kept = [row for row in own if not ipaddress.IPv4Address(row[1]).is_link_local][:1] or own[:1]
    shown = [("tt:Address", row[1]) for row in kept], [("tt:PrefixLength", row[2]) for row in kept]
    held = [("tt:FromDHCP" if is_dhcp else "tt:Manual", *shown[0], *shown[1])] if kept else []
    return (
        "tds:NetworkInterfaces",
        {"token": item.name},
        ("tt:Enabled", True),
        ("tt:Info", ("tt:Name", item.name), ("tt:HwAddress", item.mac or "00:00:00:00:00:00"), ("tt:MTU", 1500)),
        ("tt:IPv4", ("tt:Enabled", bool(kept)), ("tt:Config", *held, ("tt:DHCP", is_dhcp))),
    )


TABLE: Table = {
    (NAMESPACES["tds"], name): op
    for name, op in {
        "GetSystemDateAndTime": Op(get_system_date_and_time, "PRE"),
        "GetServices": Op(get_services, "PRE"),
        "GetCapabilities": Op(get_capabilities, "PRE"),
        "GetHostname": Op(get_hostname, "PRE"),
        "GetWsdlUrl": Op(get_wsdl_url, "PRE"),
        "GetEndpointReference": Op(get_endpoint_reference, "PRE"),
        "GetDeviceInformation": Op(get_device_information, "RS"),
        "GetScopes": Op(get_scopes, "RS"),
        "GetNetworkInterfaces": Op(get_network_interfaces, "RS"),
        "GetDNS": Op(get_dns, "RS"),
        "GetNTP": Op(get_ntp, "RS"),
        "GetNetworkProtocols": Op(get_network_protocols, "RS"),
        "GetNetworkDefaultGateway": Op(get_network_default_gateway, "RS"),
        "GetDiscoveryMode": Op(get_discovery_mode, "RS"),
        "GetUsers": Op(get_users, "SEC"),
        "SetNTP": Op(set_ntp, "WS"),
    }.items()
}
TABLE |= {
    (NAMESPACES[prefix], "GetServiceCapabilities"): Op(get_service_capabilities, "PRE")
    for prefix in ("tds", "trt", "timg", "tmd", "tev")
}

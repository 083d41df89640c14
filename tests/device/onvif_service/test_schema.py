"""Every operation of the table answers, and what it answers is what the published schemas allow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from meetingctl.device.onvif.call import POINT_PATH
from meetingctl.device.onvif.dispatch import TABLE
from meetingctl.device.onvif.relay import Relay
from meetingctl.device.onvif.soap import NAMESPACES, qname

from .conftest import Device
from .fake_gpiod import FakeGpiod
from .schemas import check_response, subcodes

PROFILE = "<trt:ProfileToken>MainProfile</trt:ProfileToken>"
SOURCE = "<timg:VideoSourceToken>VideoSource</timg:VideoSourceToken>"
SETUP = (
    "<trt:StreamSetup><tt:Stream>RTP-Unicast</tt:Stream><tt:Transport><tt:Protocol>RTSP</tt:Protocol></tt:Transport>"
    f"</trt:StreamSetup>{PROFILE}"
)


def token(name: str) -> str:
    return f"<trt:ConfigurationToken>{name}</trt:ConfigurationToken>"


def encoder(inner: str = "") -> str:
    return (
        '<trt:Configuration token="VideoEncoderConfig"><tt:Name>x</tt:Name><tt:UseCount>1</tt:UseCount>'
        f"<tt:Encoding>H264</tt:Encoding>{inner}</trt:Configuration><trt:ForcePersistence>true</trt:ForcePersistence>"
    )


KINDS = ("VideoSource", "VideoEncoder", "AudioSource", "AudioEncoder")
# What an operation needs to be asked with; the others take an empty element.
INNER = {
    "GetServices": "<tds:IncludeCapability>true</tds:IncludeCapability>",
    "GetProfile": PROFILE,
    "GetStreamUri": SETUP,
    "GetSnapshotUri": PROFILE,
    "GetVideoSourceConfiguration": token("VideoSourceConfig"),
    "GetVideoEncoderConfiguration": token("VideoEncoderConfig"),
    "GetCompatibleVideoEncoderConfigurations": PROFILE,
    "GetCompatibleVideoSourceConfigurations": PROFILE,
    "GetCompatibleAudioSourceConfigurations": PROFILE,
    "GetCompatibleAudioEncoderConfigurations": PROFILE,
    "GetGuaranteedNumberOfVideoEncoderInstances": token("VideoSourceConfig"),
    "GetAudioSourceConfiguration": token("AudioSourceConfig"),
    "GetAudioEncoderConfiguration": token("AudioEncoderConfig"),
    "SetVideoEncoderConfiguration": encoder(),
    "SetVideoSourceConfiguration": (
        '<trt:Configuration token="VideoSourceConfig"><tt:SourceToken>VideoSource</tt:SourceToken>'
        '<tt:Bounds x="0" y="0" width="1280" height="720"/></trt:Configuration>'
    ),
    "AddVideoSourceConfiguration": PROFILE + token("VideoSourceConfig"),
    "AddVideoEncoderConfiguration": PROFILE + token("VideoEncoderConfig"),
    "AddAudioSourceConfiguration": PROFILE + token("AudioSourceConfig"),
    "AddAudioEncoderConfiguration": PROFILE + token("AudioEncoderConfig"),
    "GetImagingSettings": SOURCE,
    "GetOptions": SOURCE,
    "GetMoveOptions": SOURCE,
    "GetStatus": SOURCE,
    "Stop": SOURCE,
    "SetImagingSettings": f"{SOURCE}<timg:ImagingSettings><tt:Brightness>99</tt:Brightness></timg:ImagingSettings>",
    "Move": f"{SOURCE}<timg:Focus><tt:Absolute><tt:Position>60</tt:Position></tt:Absolute></timg:Focus>",
    "SetRelayOutputState": (
        "<tds:RelayOutputToken>RelayOutput1</tds:RelayOutputToken><tds:LogicalState>active</tds:LogicalState>"
    ),
    "PullMessages": "<tev:Timeout>PT1S</tev:Timeout><tev:MessageLimit>10</tev:MessageLimit>",
    "Renew": "<wsnt:TerminationTime>PT60S</wsnt:TerminationTime>",
}
REFUSED = {
    "CreateProfile": ["Receiver", "Action", "MaxNVTProfiles"],
    "DeleteProfile": ["Sender", "Action", "DeletionOfFixedProfile"],
    "SetNTP": ["Receiver", "ActionNotSupported"],
    **{f"Remove{kind}Configuration": ["Receiver", "ActionNotSupported"] for kind in KINDS},
}
OPERATIONS = sorted(
    f"{next(key for key, uri in NAMESPACES.items() if uri == namespace)}:{name}"
    for namespace, name in TABLE
    if namespace != NAMESPACES["tr2"]
)
FULL = {"RELAY_ENABLE": "yes", "RELAY_GPIO_PIN": 17, "SUBSTREAM_ENABLE": "yes", "AUDIO_ENABLE": "yes"}


def full(device: Device) -> None:
    """Switch everything on that a camera can have."""
    device.configure(**FULL)
    device.more |= {
        "has_relay": True,
        "stream": {"sound": "aac", "motion": False, "source": "usb"},
        "name_servers": ("10.0.0.1",),
        "gateways": ("10.0.0.1",),
    }
    config = device.facts.config
    device.points.publish(device.effects.hold_relay(lambda: Relay(config, FakeGpiod())))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_answer_is_what_the_schema_allows(device: Device, operation: str) -> None:
    full(device)
    name = operation.partition(":")[2]
    path = "/onvif/service"
    if operation in {"tev:PullMessages", "tev:SetSynchronizationPoint", "wsnt:Renew", "wsnt:Unsubscribe"}:
        address = check_response(device.call("tev:CreatePullPointSubscription").body).findtext(
            f".//{qname('wsa:Address')}"
        )
        path = POINT_PATH + address.rpartition("/")[2]
    inner = INNER.get(name, "")
    if name in {"DeleteProfile", "SetSynchronizationPoint"} or name.startswith("Remove"):
        inner = PROFILE
    if operation.startswith("trt:") and "AudioSourceConfigurationOptions" in name:
        inner = ""
    answer = device.call(operation, inner, path=path)
    if name in REFUSED:
        assert subcodes(answer.body) == REFUSED[name]
        return
    assert answer.status == 200, answer.body
    content = check_response(answer.body)
    assert content.tag == qname(f"{operation}Response")


@pytest.mark.parametrize("operation", [name for name in OPERATIONS if name.startswith("trt:GetAudio")])
def test_nothing_of_audio_is_told_while_there_is_none(device: Device, operation: str) -> None:
    device.more["stream"] = {"sound": "none"}
    answer = device.call(operation, INNER.get(operation.partition(":")[2], ""))
    if answer.status == 200:
        assert b"AAC" not in answer.body
        assert b"AudioSource<" not in answer.body
        check_response(answer.body)
    else:
        assert subcodes(answer.body) == ["Sender", "InvalidArgVal", "NoConfig"]
    assert b"Audio" not in device.call("trt:GetProfiles").body


def test_the_operations_without_authentication_are_these() -> None:
    names = {key: value for value, key in ((uri, key) for key, uri in NAMESPACES.items())}
    free = {
        f"{next(k for k, u in names.items() if u == ns)}:{name}"
        for (ns, name), op in TABLE.items()
        if op.access == "PRE"
    }
    assert free == {
        "tds:GetSystemDateAndTime", "tds:GetServices", "tds:GetCapabilities", "tds:GetHostname", "tds:GetWsdlUrl",
        "tds:GetEndpointReference", "tmd:GetRelayOutputOptions",
        *(f"{prefix}:GetServiceCapabilities" for prefix in ("tds", "trt", "timg", "tmd", "tev", "tr2")),
    }  # fmt: skip


@pytest.mark.parametrize("category", ["All", "Device", "Events", "Imaging", "Media"])
def test_capabilities_by_category(call: Callable[..., Any], category: str) -> None:
    answer = call("tds:GetCapabilities", f"<tds:Category>{category}</tds:Category>")
    content = check_response(answer.body)
    parts = [part.tag.rpartition("}")[2] for part in content[0]]
    every = ["Device", "Events", "Imaging", "Media", "Extension"]
    assert parts == (every if category == "All" else [category])


@pytest.mark.parametrize("category", ["PTZ", "Analytics", "Nonsense"])
def test_a_category_that_is_not_there(call: Callable[..., Any], category: str) -> None:
    answer = call("tds:GetCapabilities", f"<tds:Category>{category}</tds:Category>")
    assert subcodes(answer.body) == ["Receiver", "ActionNotSupported", "NoSuchService"]


def test_the_interface_has_its_hardware_address(call: Callable[..., Any]) -> None:
    content = check_response(call("tds:GetNetworkInterfaces").body)
    assert content.findtext(f".//{qname('tt:HwAddress')}") == "b8:27:eb:00:00:01"
    assert content.findtext(f".//{qname('tt:Enabled')}") == "true"


@pytest.mark.parametrize(
    "operation", ["tds:SetDNS", "tds:SystemReboot", "trt:GetOSDs", "tds:GetProfiles", "wsnt:Subscribe"]
)
def test_what_is_not_there_says_so(call: Callable[..., Any], operation: str) -> None:
    answer = call(operation)
    assert (answer.status, subcodes(answer.body)) == (500, ["Receiver", "ActionNotSupported"])

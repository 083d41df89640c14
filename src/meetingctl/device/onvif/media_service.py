"""The media service (trt): fixed profiles, their configurations, addresses of stream and snapshot."""

from __future__ import annotations

from dataclasses import replace

from meetingctl.device.onvif.call import SNAPSHOT_PATH, Call, Op, Table
from meetingctl.device.onvif.configurations import (
    apply_encoding,
    audio_encoder,
    audio_options,
    audio_source,
    check_source_configuration,
    encoder_configuration,
    read_encoding,
    source_configuration,
    source_options,
    span,
)
from meetingctl.device.onvif.encoder import MAIN_TOKEN, Choices, choices_of, encoding_of
from meetingctl.device.onvif.facts import Facts
from meetingctl.device.onvif.fault import Fault, action_failed, invalid_args, invalid_value, not_supported
from meetingctl.device.onvif.profiles import (
    AUDIO_ENCODER_CONFIG,
    AUDIO_SOURCE,
    AUDIO_SOURCE_CONFIG,
    VIDEO_SOURCE,
    VIDEO_SOURCE_CONFIG,
    Profile,
    encoder_named,
    profile_named,
    profiles_of,
    stream_uri,
)
from meetingctl.device.onvif.soap import NAMESPACES, Element, Node, find, integer, text

# Profiles.


def get_profiles(call: Call) -> Node:
    rows = [_profile("trt:Profiles", call.facts, profile) for profile in profiles_of(call.facts)]
    return ("trt:GetProfilesResponse", *rows)


def get_profile(call: Call) -> Node:
    profile = profile_named(call.facts, text(call.body, "trt:ProfileToken"))
    return ("trt:GetProfileResponse", _profile("trt:Profile", call.facts, profile))


def create_profile(call: Call) -> Node:
    if "synology" in call.facts.conf.compat:
        main = profiles_of(call.facts)[0]
        return ("trt:CreateProfileResponse", _profile("trt:Profile", call.facts, main))
    raise action_failed("the profiles are fixed", "MaxNVTProfiles")


def delete_profile(call: Call) -> Node:
    profile_named(call.facts, text(call.body, "trt:ProfileToken"))
    raise Fault("Sender", ("ter:Action", "ter:DeletionOfFixedProfile"), "the profiles are fixed")


def add_configuration(call: Call) -> Node:
    """Succeed when it is attached already; nothing else can be."""
    profile = profile_named(call.facts, text(call.body, "trt:ProfileToken"))
    token = text(call.body, "trt:ConfigurationToken")
    attached = {VIDEO_SOURCE_CONFIG, profile.encoder}
    if profile.has_audio:
        attached |= {AUDIO_SOURCE_CONFIG, AUDIO_ENCODER_CONFIG}
    if token not in attached:
        raise invalid_value("NoConfig", f"there is no configuration {token[:64]!r}")
    return (_response(call),)


def remove_configuration(call: Call) -> Node:
    profile_named(call.facts, text(call.body, "trt:ProfileToken"))
    raise not_supported("changing a fixed profile")


# Addresses.


def get_stream_uri(call: Call) -> Node:
    profile = profile_named(call.facts, text(call.body, "trt:ProfileToken"))
    kind = text(call.body, "trt:StreamSetup/tt:Stream")
    protocol = text(call.body, "trt:StreamSetup/tt:Transport/tt:Protocol")
    is_multicast = kind == "RTP-Multicast"
    if kind not in {"RTP-Unicast", "RTP-Multicast"} or (is_multicast and not call.facts.has_multicast):
        raise invalid_value("InvalidStreamSetup", f"{kind[:40]} is not offered")
    if protocol not in {"UDP", "TCP", "RTSP"} or (is_multicast and protocol != "UDP"):
        raise invalid_value("InvalidStreamSetup", f"{protocol[:40]} is not offered")
    return ("trt:GetStreamUriResponse", ("trt:MediaUri", *_uri(stream_uri(call, profile))))


def get_snapshot_uri(call: Call) -> Node:
    profile_named(call.facts, text(call.body, "trt:ProfileToken"))
    return ("trt:GetSnapshotUriResponse", ("trt:MediaUri", *_uri(call.url(SNAPSHOT_PATH))))


# Video source.


def get_video_sources(call: Call) -> Node:
    width, height, fps = call.facts.captured
    size = ("tt:Resolution", ("tt:Width", width), ("tt:Height", height))
    return (
        "trt:GetVideoSourcesResponse",
        ("trt:VideoSources", {"token": VIDEO_SOURCE}, ("tt:Framerate", fps), size),
    )


def get_video_source_configurations(call: Call) -> Node:
    return (_response(call), source_configuration("trt:Configurations", call.facts))


def get_video_source_configuration(call: Call) -> Node:
    _check_token(call, VIDEO_SOURCE_CONFIG)
    return (_response(call), source_configuration("trt:Configuration", call.facts))


def get_video_source_configuration_options(call: Call) -> Node:
    _check_optional(call, VIDEO_SOURCE_CONFIG)
    return (_response(call), ("trt:Options", *source_options(call.facts)))


def set_video_source_configuration(call: Call) -> Node:
    check_source_configuration(call.facts, _configuration(call, "trt"))
    return ("trt:SetVideoSourceConfigurationResponse",)


# Video encoder.


def get_video_encoder_configurations(call: Call) -> Node:
    rows = [encoder_configuration("trt:Configurations", call.facts, item.encoder) for item in profiles_of(call.facts)]
    return (_response(call), *rows)


def get_compatible_encoders(call: Call) -> Node:
    profile = profile_named(call.facts, text(call.body, "trt:ProfileToken"))
    return (_response(call), encoder_configuration("trt:Configurations", call.facts, profile.encoder))


def get_video_encoder_configuration(call: Call) -> Node:
    token = encoder_named(call.facts, text(call.body, "trt:ConfigurationToken"))
    return (_response(call), encoder_configuration("trt:Configuration", call.facts, token))


def get_video_encoder_configuration_options(call: Call) -> Node:
    token = text(call.body, "trt:ConfigurationToken", "")
    profile = text(call.body, "trt:ProfileToken", "")
    if not token:
        token = profile_named(call.facts, profile).encoder if profile else MAIN_TOKEN
    choices = choices_of(call.facts, encoder_named(call.facts, token))
    h264 = _h264_choices(choices)
    bitrate = ("tt:BitrateRange", *span(choices.bitrate_kbps))
    return (
        _response(call),
        (
            "trt:Options",
            ("tt:QualityRange", ("tt:Min", 1), ("tt:Max", 5)),
            ("tt:H264", *h264),
            ("tt:Extension", ("tt:H264", *h264, bitrate)),
        ),
    )


def get_guaranteed_instances(call: Call) -> Node:
    _check_token(call, VIDEO_SOURCE_CONFIG)
    count = len(profiles_of(call.facts))
    return (_response(call), ("trt:TotalNumber", count), ("trt:H264", count))


def set_video_encoder_configuration(call: Call) -> Node:
    given = _configuration(call, "trt")
    token = encoder_named(call.facts, given.get("token") or "")
    if text(given, "tt:Encoding", "H264") != "H264":
        raise invalid_value("ConfigModify", "only H264 is offered")
    integer(given, "tt:RateControl/tt:FrameRateLimit", 1)
    wanted = read_encoding(given, encoding_of(call.facts, token))
    gov = find(given, "tt:H264/tt:GovLength")
    profile = text(given, "tt:H264/tt:H264Profile", wanted.profile)
    if gov is not None:
        wanted = replace(wanted, gov_length=integer(given, "tt:H264/tt:GovLength"))
    apply_encoding(call, token, replace(wanted, profile=profile))
    return ("trt:SetVideoEncoderConfigurationResponse",)


def set_synchronization_point(call: Call) -> Node:
    profile_named(call.facts, text(call.body, "trt:ProfileToken"))
    call.effects.request_keyframe()
    return ("trt:SetSynchronizationPointResponse",)


# Audio: nothing of it is there while the stream carries no sound.


def get_audio_sources(call: Call) -> Node:
    if not call.facts.has_audio:
        return (_response(call),)
    source = ("trt:AudioSources", {"token": AUDIO_SOURCE}, ("tt:Channels", call.facts.config.audio_channels))
    return (_response(call), source)


def get_audio_source_configurations(call: Call) -> Node:
    rows = [audio_source("trt:Configurations", call.facts)] if call.facts.has_audio else []
    return (_response(call), *rows)


def get_audio_encoder_configurations(call: Call) -> Node:
    rows = [audio_encoder("trt:Configurations", call.facts)] if call.facts.has_audio else []
    return (_response(call), *rows)


def get_audio_source_configuration(call: Call) -> Node:
    _check_audio(call, AUDIO_SOURCE_CONFIG)
    return (_response(call), audio_source("trt:Configuration", call.facts))


def get_audio_encoder_configuration(call: Call) -> Node:
    _check_audio(call, AUDIO_ENCODER_CONFIG)
    return (_response(call), audio_encoder("trt:Configuration", call.facts))


def get_audio_source_configuration_options(call: Call) -> Node:
    if not call.facts.has_audio:
        raise invalid_value("NoConfig", "the stream carries no sound")
    return (_response(call), ("trt:Options", ("tt:InputTokensAvailable", AUDIO_SOURCE)))


def get_audio_encoder_configuration_options(call: Call) -> Node:
    options = (("tt:Options", *audio_options(call.facts)),) if call.facts.has_audio else ()
    return (_response(call), ("trt:Options", *options))


# Pieces.


def _profile(tag: str, facts: Facts, profile: Profile) -> Node:
    has_audio = profile.has_audio
    return (
        tag,
        {"token": profile.token, "fixed": True},
        ("tt:Name", profile.name),
        source_configuration("tt:VideoSourceConfiguration", facts),
        audio_source("tt:AudioSourceConfiguration", facts) if has_audio else None,
        encoder_configuration("tt:VideoEncoderConfiguration", facts, profile.encoder),
        audio_encoder("tt:AudioEncoderConfiguration", facts) if has_audio else None,
    )


def _h264_choices(choices: Choices) -> tuple[Node, ...]:
    sizes = [("tt:ResolutionsAvailable", ("tt:Width", width), ("tt:Height", height)) for width, height in choices.sizes]
    return (
        *sizes,
        ("tt:GovLengthRange", *span(choices.gov_length)),
        ("tt:FrameRateRange", *span(choices.fps)),
        ("tt:EncodingIntervalRange", ("tt:Min", 1), ("tt:Max", 1)),
        *(("tt:H264ProfilesSupported", name) for name in choices.profiles),
    )


def _uri(uri: str) -> tuple[Node, ...]:
    return (
        ("tt:Uri", uri),
        ("tt:InvalidAfterConnect", False),
        ("tt:InvalidAfterReboot", False),
        ("tt:Timeout", "PT0S"),
    )


def _response(call: Call) -> str:
    return f"trt:{call.body.tag.rpartition('}')[2]}Response"


def _configuration(call: Call, prefix: str) -> Element:
    given = find(call.body, f"{prefix}:Configuration")
    if given is None:
        raise invalid_args("Configuration is missing")
    return given


def _check_token(call: Call, wanted: str) -> None:
    token = text(call.body, "trt:ConfigurationToken")
    if token != wanted:
        raise invalid_value("NoConfig", f"there is no configuration {token[:64]!r}")


def _check_optional(call: Call, wanted: str) -> None:
    if text(call.body, "trt:ConfigurationToken", ""):
        _check_token(call, wanted)
    if token := text(call.body, "trt:ProfileToken", ""):
        profile_named(call.facts, token)


def _check_audio(call: Call, wanted: str) -> None:
    if not call.facts.has_audio:
        raise invalid_value("NoConfig", "the stream carries no sound")
    _check_token(call, wanted)


_READ = {
    "GetProfiles": get_profiles,
    "GetProfile": get_profile,
    "GetStreamUri": get_stream_uri,
    "GetSnapshotUri": get_snapshot_uri,
    "GetVideoSources": get_video_sources,
    "GetVideoSourceConfigurations": get_video_source_configurations,
    "GetCompatibleVideoSourceConfigurations": get_video_source_configurations,
    "GetVideoSourceConfiguration": get_video_source_configuration,
    "GetVideoSourceConfigurationOptions": get_video_source_configuration_options,
    "GetVideoEncoderConfigurations": get_video_encoder_configurations,
    "GetCompatibleVideoEncoderConfigurations": get_compatible_encoders,
    "GetVideoEncoderConfiguration": get_video_encoder_configuration,
    "GetVideoEncoderConfigurationOptions": get_video_encoder_configuration_options,
    "GetGuaranteedNumberOfVideoEncoderInstances": get_guaranteed_instances,
    "GetAudioSources": get_audio_sources,
    "GetAudioSourceConfigurations": get_audio_source_configurations,
    "GetCompatibleAudioSourceConfigurations": get_audio_source_configurations,
    "GetAudioSourceConfiguration": get_audio_source_configuration,
    "GetAudioSourceConfigurationOptions": get_audio_source_configuration_options,
    "GetAudioEncoderConfigurations": get_audio_encoder_configurations,
    "GetCompatibleAudioEncoderConfigurations": get_audio_encoder_configurations,
    "GetAudioEncoderConfiguration": get_audio_encoder_configuration,
    "GetAudioEncoderConfigurationOptions": get_audio_encoder_configuration_options,
}
_CHANGE = {
    "SetVideoEncoderConfiguration": set_video_encoder_configuration,
    "SetVideoSourceConfiguration": set_video_source_configuration,
    "SetSynchronizationPoint": set_synchronization_point,
    "CreateProfile": create_profile,
    "DeleteProfile": delete_profile,
    "AddVideoSourceConfiguration": add_configuration,
    "AddVideoEncoderConfiguration": add_configuration,
    "AddAudioSourceConfiguration": add_configuration,
    "AddAudioEncoderConfiguration": add_configuration,
    "RemoveVideoSourceConfiguration": remove_configuration,
    "RemoveVideoEncoderConfiguration": remove_configuration,
    "RemoveAudioSourceConfiguration": remove_configuration,
    "RemoveAudioEncoderConfiguration": remove_configuration,
}
_BLOCKING = frozenset({"SetVideoEncoderConfiguration", "SetSynchronizationPoint"})

TABLE: Table = {(NAMESPACES["trt"], name): Op(handler, "RM") for name, handler in _READ.items()}
TABLE |= {(NAMESPACES["trt"], name): Op(handler, "ACT", blocks=name in _BLOCKING) for name, handler in _CHANGE.items()}

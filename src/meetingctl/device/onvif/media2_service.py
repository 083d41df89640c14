"""The second media service (tr2): the same profiles in its own words. Announced only when onvif.conf switches it on."""

from __future__ import annotations

from dataclasses import replace

from meetingctl.device.onvif.call import SNAPSHOT_PATH, Call, Op, Table
from meetingctl.device.onvif.configurations import (
    apply_encoding,
    audio_source,
    check_source_configuration,
    read_encoding,
    source_configuration,
    source_options,
    span,
)
from meetingctl.device.onvif.encoder import Encoding, choices_of, encoding_of
from meetingctl.device.onvif.facts import Facts
from meetingctl.device.onvif.fault import Fault, action_failed, invalid_args, invalid_value, not_supported
from meetingctl.device.onvif.profiles import (
    AUDIO_ENCODER_CONFIG,
    AUDIO_SOURCE,
    AUDIO_SOURCE_CONFIG,
    VIDEO_SOURCE_CONFIG,
    Profile,
    encoder_named,
    profile_named,
    profiles_of,
    stream_uri,
)
from meetingctl.device.onvif.soap import NAMESPACES, Element, Node, find, integer, qname, text

_AAC = "MP4A-LATM"
_URI_PROTOCOLS = frozenset({"RtspUnicast", "RTSP", "RtspMulticast"})


def get_service_capabilities(call: Call) -> Node:
    from meetingctl.device.onvif.device_service import capabilities_of

    return ("tr2:GetServiceCapabilitiesResponse", capabilities_of("tr2", call.facts))


def get_profiles(call: Call) -> Node:
    token = text(call.body, "tr2:Token", "")
    kinds = {(item.text or "").strip() for item in call.body if item.tag == qname("tr2:Type")}
    profiles = (profile_named(call.facts, token),) if token else profiles_of(call.facts)
    return ("tr2:GetProfilesResponse", *(_profile(call.facts, profile, kinds) for profile in profiles))


def get_stream_uri(call: Call) -> Node:
    profile = profile_named(call.facts, text(call.body, "tr2:ProfileToken"))
    protocol = text(call.body, "tr2:Protocol")
    if protocol not in _URI_PROTOCOLS or (protocol == "RtspMulticast" and not call.facts.has_multicast):
        raise invalid_value("InvalidStreamSetup", f"{protocol[:40]} is not offered")
    return ("tr2:GetStreamUriResponse", ("tr2:Uri", stream_uri(call, profile)))


def get_snapshot_uri(call: Call) -> Node:
    profile_named(call.facts, text(call.body, "tr2:ProfileToken"))
    return ("tr2:GetSnapshotUriResponse", ("tr2:Uri", call.url(SNAPSHOT_PATH)))


def get_video_source_configurations(call: Call) -> Node:
    _wanted(call, VIDEO_SOURCE_CONFIG)
    return (_response(call), source_configuration("tr2:Configurations", call.facts))


def get_video_source_configuration_options(call: Call) -> Node:
    _wanted(call, VIDEO_SOURCE_CONFIG)
    return (_response(call), ("tr2:Options", *source_options(call.facts)))


def get_video_encoder_configurations(call: Call) -> Node:
    rows = [_encoder("tr2:Configurations", call.facts, token) for token in _encoders(call)]
    return (_response(call), *rows)


def get_video_encoder_configuration_options(call: Call) -> Node:
    return (_response(call), *(_options(call.facts, token) for token in _encoders(call)))


def get_video_encoder_instances(call: Call) -> Node:
    _wanted(call, VIDEO_SOURCE_CONFIG)
    count = len(profiles_of(call.facts))
    codec = ("tr2:Codec", ("tr2:Encoding", "H264"), ("tr2:Number", count))
    return (_response(call), ("tr2:Info", codec, ("tr2:Total", count)))


def get_audio_source_configurations(call: Call) -> Node:
    rows = [audio_source("tr2:Configurations", call.facts)] if call.facts.has_audio else []
    return (_response(call), *rows)


def get_audio_source_configuration_options(call: Call) -> Node:
    tokens = (("tt:InputTokensAvailable", AUDIO_SOURCE),) if call.facts.has_audio else ()
    return (_response(call), ("tr2:Options", *tokens))


def get_audio_encoder_configurations(call: Call) -> Node:
    rows = [_audio_encoder("tr2:Configurations", call.facts)] if call.facts.has_audio else []
    return (_response(call), *rows)


def get_audio_encoder_configuration_options(call: Call) -> Node:
    if not call.facts.has_audio:
        return (_response(call),)
    config = call.facts.config
    rates = (("tt:BitrateList", config.audio_bitrate_kbps), ("tt:SampleRateList", config.audio_rate // 1000))
    lists = ((name, ("tt:Items", value)) for name, value in rates)
    return (_response(call), ("tr2:Options", ("tt:Encoding", _AAC), *lists))


def set_video_source_configuration(call: Call) -> Node:
    given = find(call.body, "tr2:Configuration")
    if given is None:
        raise invalid_args("Configuration is missing")
    check_source_configuration(call.facts, given)
    return (_response(call),)


def set_audio_source_configuration(call: Call) -> Node:
    """Accept what is set already: the sound card is chosen by who installed the camera."""
    given = _audio_given(call, AUDIO_SOURCE_CONFIG)
    if text(given, "tt:SourceToken", AUDIO_SOURCE) != AUDIO_SOURCE:
        raise invalid_value("ConfigModify", "the audio source cannot be changed")
    return (_response(call),)


def set_audio_encoder_configuration(call: Call) -> Node:
    """Accept what is set already; the options offer nothing else."""
    given, config = _audio_given(call, AUDIO_ENCODER_CONFIG), call.facts.config
    is_same = text(given, "tt:Encoding", _AAC) == _AAC
    is_same &= integer(given, "tt:Bitrate", config.audio_bitrate_kbps) == config.audio_bitrate_kbps
    is_same &= integer(given, "tt:SampleRate", config.audio_rate // 1000) == config.audio_rate // 1000
    if not is_same:
        raise invalid_value("ConfigModify", "the audio encoder cannot be changed")
    return (_response(call),)


def _audio_given(call: Call, token: str) -> Element:
    given = find(call.body, "tr2:Configuration")
    if given is None:
        raise invalid_args("Configuration is missing")
    if not call.facts.has_audio or given.get("token") != token:
        raise invalid_value("NoConfig", f"there is no configuration {str(given.get('token'))[:64]!r}")
    return given


def set_video_encoder_configuration(call: Call) -> Node:
    given = find(call.body, "tr2:Configuration")
    if given is None:
        raise invalid_args("Configuration is missing")
    token = encoder_named(call.facts, given.get("token") or "")
    if text(given, "tt:Encoding", "H264").upper() != "H264":
        raise invalid_value("ConfigModify", "only H264 is offered")
    wanted = read_encoding(given, encoding_of(call.facts, token))
    gov, profile = given.get("GovLength", str(wanted.gov_length)), given.get("Profile", wanted.profile)
    if not gov.isascii() or not gov.isdigit() or len(gov) > 9:
        raise invalid_args("GovLength is no number")
    apply_encoding(call, token, replace(wanted, gov_length=int(gov), profile=profile))
    return (_response(call),)


def set_synchronization_point(call: Call) -> Node:
    profile_named(call.facts, text(call.body, "tr2:ProfileToken"))
    call.effects.request_keyframe()
    return (_response(call),)


def create_profile(call: Call) -> Node:
    raise action_failed("the profiles are fixed", "MaxNVTProfiles")


def delete_profile(call: Call) -> Node:
    profile_named(call.facts, text(call.body, "tr2:Token"))
    raise Fault("Sender", ("ter:Action", "ter:DeletionOfFixedProfile"), "the profiles are fixed")


def add_configuration(call: Call) -> Node:
    """Succeed when all of it is attached already; nothing else can be."""
    profile = profile_named(call.facts, text(call.body, "tr2:ProfileToken"))
    attached = {"VideoSource": VIDEO_SOURCE_CONFIG, "VideoEncoder": profile.encoder}
    if profile.has_audio:
        attached |= {"AudioSource": AUDIO_SOURCE_CONFIG, "AudioEncoder": AUDIO_ENCODER_CONFIG}
    if text(call.body, "tr2:Name", profile.name) != profile.name:
        raise not_supported("another name of a fixed profile")
    for item in (item for item in call.body if item.tag == qname("tr2:Configuration")):
        kind, token = text(item, "tr2:Type"), text(item, "tr2:Token", "")
        if kind not in attached or token not in {"", attached[kind]}:
            raise invalid_value("NoConfig", f"there is no configuration {token[:64] or kind[:64]!r}")
    return (_response(call),)


def remove_configuration(call: Call) -> Node:
    profile_named(call.facts, text(call.body, "tr2:ProfileToken"))
    raise not_supported("changing a fixed profile")


def _profile(facts: Facts, profile: Profile, kinds: set[str]) -> Node:
    def shown(kind: str) -> bool:
        return kind in kinds or "All" in kinds

    parts = (
        source_configuration("tr2:VideoSource", facts) if shown("VideoSource") else None,
        audio_source("tr2:AudioSource", facts) if profile.has_audio and shown("AudioSource") else None,
        _encoder("tr2:VideoEncoder", facts, profile.encoder) if shown("VideoEncoder") else None,
        _audio_encoder("tr2:AudioEncoder", facts) if profile.has_audio and shown("AudioEncoder") else None,
    )
    held = ("tr2:Configurations", *parts) if any(parts) else None
    return ("tr2:Profiles", {"token": profile.token, "fixed": True}, ("tr2:Name", profile.name), held)


def _encoder(tag: str, facts: Facts, token: str) -> Node:
    now: Encoding = encoding_of(facts, token)
    return (
        tag,
        {"token": token, "GovLength": now.gov_length, "Profile": now.profile},
        ("tt:Name", token),
        ("tt:UseCount", 1),
        ("tt:Encoding", "H264"),
        ("tt:Resolution", ("tt:Width", now.width_px), ("tt:Height", now.height_px)),
        ("tt:RateControl", ("tt:FrameRateLimit", now.fps), ("tt:BitrateLimit", now.bitrate_kbps)),
        ("tt:Quality", 3),
    )


def _options(facts: Facts, token: str) -> Node:
    choices = choices_of(facts, token)
    rates = range(choices.fps.most, choices.fps.least - 1, -1)
    return (
        "tr2:Options",
        {
            "GovLengthRange": f"{choices.gov_length.least} {choices.gov_length.most}",
            "FrameRatesSupported": " ".join(map(str, rates)),
            "ProfilesSupported": " ".join(choices.profiles),
            "ConstantBitRateSupported": False,
        },
        ("tt:Encoding", "H264"),
        ("tt:QualityRange", ("tt:Min", 1), ("tt:Max", 5)),
        *(("tt:ResolutionsAvailable", ("tt:Width", width), ("tt:Height", height)) for width, height in choices.sizes),
        ("tt:BitrateRange", *span(choices.bitrate_kbps)),
    )


def _audio_encoder(tag: str, facts: Facts) -> Node:
    return (
        tag,
        {"token": AUDIO_ENCODER_CONFIG},
        ("tt:Name", AUDIO_ENCODER_CONFIG),
        ("tt:UseCount", 1),
        ("tt:Encoding", _AAC),
        ("tt:Bitrate", facts.config.audio_bitrate_kbps),
        ("tt:SampleRate", facts.config.audio_rate // 1000),
    )


def _encoders(call: Call) -> list[str]:
    """Return the encoders that were asked for: one by its token, that of a profile, or all."""
    if token := text(call.body, "tr2:ConfigurationToken", ""):
        return [encoder_named(call.facts, token)]
    if token := text(call.body, "tr2:ProfileToken", ""):
        return [profile_named(call.facts, token).encoder]
    return [profile.encoder for profile in profiles_of(call.facts)]


def _wanted(call: Call, only: str) -> None:
    token = text(call.body, "tr2:ConfigurationToken", "")
    if token and token != only:
        raise invalid_value("NoConfig", f"there is no configuration {token[:64]!r}")
    if profile := text(call.body, "tr2:ProfileToken", ""):
        profile_named(call.facts, profile)


def _response(call: Call) -> str:
    return f"tr2:{call.body.tag.rpartition('}')[2]}Response"


_READ = {
    "GetProfiles": get_profiles,
    "GetStreamUri": get_stream_uri,
    "GetSnapshotUri": get_snapshot_uri,
    "GetVideoSourceConfigurations": get_video_source_configurations,
    "GetVideoSourceConfigurationOptions": get_video_source_configuration_options,
    "GetVideoEncoderConfigurations": get_video_encoder_configurations,
    "GetVideoEncoderConfigurationOptions": get_video_encoder_configuration_options,
    "GetVideoEncoderInstances": get_video_encoder_instances,
    "GetAudioSourceConfigurations": get_audio_source_configurations,
    "GetAudioSourceConfigurationOptions": get_audio_source_configuration_options,
    "GetAudioEncoderConfigurations": get_audio_encoder_configurations,
    "GetAudioEncoderConfigurationOptions": get_audio_encoder_configuration_options,
}
_CHANGE = {
    "SetVideoSourceConfiguration": set_video_source_configuration,
    "SetVideoEncoderConfiguration": set_video_encoder_configuration,
    "SetAudioSourceConfiguration": set_audio_source_configuration,
    "SetAudioEncoderConfiguration": set_audio_encoder_configuration,
    "SetSynchronizationPoint": set_synchronization_point,
    "CreateProfile": create_profile,
    "DeleteProfile": delete_profile,
    "AddConfiguration": add_configuration,
    "RemoveConfiguration": remove_configuration,
}
_BLOCKING = frozenset({"SetVideoEncoderConfiguration", "SetSynchronizationPoint"})

TABLE: Table = {(NAMESPACES["tr2"], name): Op(handler, "RM") for name, handler in _READ.items()}
TABLE |= {(NAMESPACES["tr2"], name): Op(handler, "ACT", blocks=name in _BLOCKING) for name, handler in _CHANGE.items()}
TABLE |= {(NAMESPACES["tr2"], "GetServiceCapabilities"): Op(get_service_capabilities, "PRE")}

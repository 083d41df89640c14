"""The profiles that recorders know by name: fixed, one for each stream, with the address of each."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from meetingctl.device.onvif.call import Call
from meetingctl.device.onvif.encoder import MAIN_TOKEN, SUB_TOKEN
from meetingctl.device.onvif.facts import Facts
from meetingctl.device.onvif.fault import invalid_value

# Recorders keep these names for years.
MAIN_PROFILE, SUB_PROFILE = "MainProfile", "SubProfile"
VIDEO_SOURCE, VIDEO_SOURCE_CONFIG = "VideoSource", "VideoSourceConfig"
AUDIO_SOURCE, AUDIO_SOURCE_CONFIG, AUDIO_ENCODER_CONFIG = "AudioSource", "AudioSourceConfig", "AudioEncoderConfig"
_LONGEST_URI = 128


@dataclass(frozen=True, slots=True)
class Profile:
    """A fixed profile: its encoder and whether it carries sound."""

    token: str
    name: str
    encoder: str
    path_suffix: str
    has_audio: bool


def profiles_of(facts: Facts) -> tuple[Profile, ...]:
    """Return the profiles: the main one, and the small one when the second stream is on."""
    main = Profile(MAIN_PROFILE, "Main", MAIN_TOKEN, "", facts.has_audio)
    if not facts.config.substream_enable:
        return (main,)
    return (main, Profile(SUB_PROFILE, "Sub", SUB_TOKEN, "-sub", False))


def profile_named(facts: Facts, token: str) -> Profile:
    """Raises: Fault (NoProfile)."""
    for profile in profiles_of(facts):
        if profile.token == token:
            return profile
    raise invalid_value("NoProfile", f"there is no profile {token[:64]!r}")


def encoder_named(facts: Facts, token: str) -> str:
    """Raises: Fault (NoConfig)."""
    if token not in {profile.encoder for profile in profiles_of(facts)}:
        raise invalid_value("NoConfig", f"there is no configuration {token[:64]!r}")
    return token


def kinds_of(facts: Facts) -> str:
    """Return the kinds of configuration, as Media2 lists them."""
    return "VideoSource VideoEncoder" + (" AudioSource AudioEncoder" if facts.has_audio else "")


def stream_uri(call: Call, profile: Profile) -> str:
    """Return the address of a profile's stream; with the login only where that is switched on and was proved."""
    config, login = call.facts.config, call.facts.login
    user = ""
    if config.onvif_uri_credentials and config.is_auth_on and login is not None and call.is_authenticated:
        user = f"{quote(login.user, safe='')}:{quote(login.password.reveal(), safe='')}@"
    plain = f"{call.host}:{config.rtsp_port}/{config.rtsp_path}{profile.path_suffix}"
    uri = f"rtsp://{user}{plain}"
    return uri if len(uri) <= _LONGEST_URI else f"rtsp://{plain}"

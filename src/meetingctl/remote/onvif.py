"""Ask a camera what a recorder would ask, with onvif-zeep. Nothing is changed on the camera."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meetingctl.core.errors import AuthError, ConfigError, MeetingctlError, Unreachable
from meetingctl.core.secret import Secret

_HINT = "pip install 'meetingctl[onvif]'"
_MANAGER = "{http://www.onvif.org/ver10/events/wsdl}SubscriptionManagerBinding"
_POINT = "http://www.onvif.org/ver10/events/wsdl/PullPointSubscription"


def inspect_camera(host: str, port: int, user: str, password: Secret, *, timeout_s: float) -> dict[str, Any]:
    """Connect, read capabilities, profiles and addresses, and pull events once.

    Raises: Unreachable, AuthError, ConfigError without the library, MeetingctlError for whatever else a recorder
    would stumble over.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of the client library
        try:
            return _inspect(host, port, user, password, timeout_s)
        except MeetingctlError:
            raise
        except Exception as exc:  # a boundary: the library raises whatever zeep, requests and lxml raise
            raise _translated(exc, host, port) from exc


def _inspect(host: str, port: int, user: str, password: Secret, timeout_s: float) -> dict[str, Any]:
    camera = _connect(host, port, user, password, timeout_s)
    information = camera.devicemgmt.GetDeviceInformation()
    media = camera.create_media_service()
    setup = {"Stream": "RTP-Unicast", "Transport": {"Protocol": "RTSP"}}
    streams = {
        item.token: media.GetStreamUri({"StreamSetup": setup, "ProfileToken": item.token}).Uri
        for item in media.GetProfiles()
    }
    if not streams:
        raise MeetingctlError(f"{host}:{port}: the camera has no profile")
    first = next(iter(streams))
    snapshot = media.GetSnapshotUri({"ProfileToken": first}).Uri
    source = media.GetVideoSources()[0].token
    camera.create_imaging_service().GetOptions({"VideoSourceToken": source})
    return {
        "model": information.Model,
        "firmware": information.FirmwareVersion,
        "serial": information.SerialNumber,
        "profiles": list(streams),
        "stream": streams[first],
        "snapshot": snapshot,
        "events": _pull_once(camera),
    }


def _connect(host: str, port: int, user: str, password: Secret, timeout_s: float) -> Any:
    try:
        import onvif
        from zeep import transports
    except ImportError as exc:
        raise ConfigError("the Python library onvif-zeep is missing", hint=_HINT) from exc
    # The library sets up the root logger when it is imported, and logs each fault.
    logging.getLogger("onvif").setLevel(logging.CRITICAL)
    wsdl = str(Path(onvif.__file__).parents[1] / "wsdl")
    library: Any = transports  # it tells no types
    transport = library.Transport(timeout=timeout_s, operation_timeout=timeout_s)
    # Without a name the library cannot write its header; a camera that asks for none takes any.
    return onvif.ONVIFCamera(host, port, user or "nobody", password.reveal(), wsdl, no_cache=True, transport=transport)


def _pull_once(camera: Any) -> int:
    """Subscribe, pull what waits, unsubscribe; return how many messages came."""
    service = camera.create_events_service()
    made = service.CreatePullPointSubscription({"InitialTerminationTime": "PT60S"})
    camera.xaddrs[_POINT] = made.SubscriptionReference.Address._value_1
    point = camera.create_onvif_service("pullpoint", portType="PullPointSubscription")
    try:
        return len(point.PullMessages({"Timeout": "PT0S", "MessageLimit": 10}).NotificationMessage)
    finally:
        client = point.zeep_client
        client.create_service(_MANAGER, camera.xaddrs[_POINT]).Unsubscribe()


def _translated(exc: Exception, host: str, port: int) -> MeetingctlError:
    where, reason = f"{host}:{port}", " ".join(str(exc).split())[:300]
    if "NotAuthorized" in reason or "not authorized" in reason or "401" in reason:
        return AuthError(f"{where}: the camera refuses the login", hint="give --onvif-user and a password")
    names: Mapping[str, str] = {
        "ConnectionError": "no answer",
        "ConnectTimeout": "no answer",
        "ReadTimeout": "no answer",
    }
    if any(word in reason for word in ("Connection refused", "timed out", "Max retries", "unreachable", *names)):
        return Unreachable(f"{where}: no ONVIF answer", hint="meetingctl remote discover --onvif")
    return MeetingctlError(f"{where}: {reason}")

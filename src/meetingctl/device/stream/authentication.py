"""Login of viewers: basic, digest or both, as GstRtspServer wants it."""

from __future__ import annotations

import ctypes
import logging
from typing import Any

from meetingctl.device.config import DeviceConfig
from meetingctl.device.stream.gstreamer import Gstreamer

ROLE = "viewer"
_BOTH = 3  # GST_RTSP_AUTH_BASIC | GST_RTSP_AUTH_DIGEST

log = logging.getLogger(__name__)


def make_auth(gst: Gstreamer, config: DeviceConfig) -> Any | None:
    """Return the RTSPAuth of the configuration, None when nobody must log in."""
    if not config.is_auth_on:
        return None
    server = gst.GstRtspServer
    token = server.RTSPToken()
    token.set_string(server.RTSP_TOKEN_MEDIA_FACTORY_ROLE, ROLE)
    auth = server.RTSPAuth()
    user, password = config.rtsp_user, config.rtsp_password.reveal()
    # What is added is accepted, offered or not: a login limited to digest must not know the other way.
    if config.rtsp_auth_method != "digest":
        auth.add_basic(server.RTSPAuth.make_basic(user, password), token)
    if config.rtsp_auth_method != "basic":
        auth.add_digest(user, password, token)
    auth.set_realm(config.rtsp_realm)
    _set_methods(gst, auth, config.rtsp_auth_method)
    return auth


def make_permissions(gst: Gstreamer) -> Any:
    """Return the permissions that let the role in; a server without auth ignores them."""
    permissions = gst.GstRtspServer.RTSPPermissions()
    permissions.add_role(ROLE)
    for name in ("media.factory.access", "media.factory.construct"):
        permissions.add_permission_for_role(ROLE, name, True)
    return permissions


def _set_methods(gst: Gstreamer, auth: Any, method: str) -> None:
    methods = gst.GstRtsp.RTSPAuthMethod
    if method != "both":
        auth.set_supported_methods(methods.BASIC if method == "basic" else methods.DIGEST)
        return
    # The bindings know the two methods as an enum and refuse their sum, so the C function is called directly.
    library = ctypes.CDLL("libgstrtspserver-1.0.so.0")
    library.gst_rtsp_auth_set_supported_methods.argtypes = (ctypes.c_void_p, ctypes.c_int)
    library.gst_rtsp_auth_set_supported_methods.restype = None
    library.gst_rtsp_auth_set_supported_methods(hash(auth), _BOTH)
    if int(auth.get_supported_methods()) != _BOTH:
        log.warning("both login methods cannot be offered at once: digest only")
        auth.set_supported_methods(methods.DIGEST)

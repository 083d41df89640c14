"""A small RTSP client: OPTIONS and DESCRIBE with basic and digest login, the protocol apart from the socket."""

from meetingctl.device.rtsp.auth import Login
from meetingctl.device.rtsp.client import Endpoint, check_options, describe, parse_url
from meetingctl.device.rtsp.sdp import Media, parse_sdp

__all__ = ["Endpoint", "Login", "Media", "check_options", "describe", "parse_sdp", "parse_url"]

"""One question to an RTSP server, with the login it asks for: bytes in, bytes or the final answer out. No sockets."""

from __future__ import annotations

from meetingctl.device.rtsp.auth import Login, answer_challenge, choose_challenge, parse_challenges
from meetingctl.device.rtsp.message import Response, ResponseDecoder, encode_request

USER_AGENT = "meetingctl"
# The question, the same with a login, and once more when the nonce was too old.
_MOST_REQUESTS = 3


class Exchange:
    """Ask one question on one connection.

    Send `start()`, then give everything that arrives to `receive`: it returns bytes to send, the final response, or
    None while it waits. A final 401 means that the login is wrong, absent, or of a kind that we cannot answer.
    """

    def __init__(self, method: str, url: str, login: Login | None, *, cnonce: str) -> None:
        """`url` carries no login; `cnonce` is a random text, used for one exchange only."""
        self._method = method
        self._url = url
        self._login = login
        self._cnonce = cnonce
        self._decoder = ResponseDecoder()
        self._cseq = 0
        self._has_answered = False

    def start(self) -> bytes:
        """Return the first request. Raises: InvalidInput."""
        return self._request()

    def receive(self, data: bytes) -> bytes | Response | None:
        """Take bytes from the server. Raises: MeetingctlError when it does not speak RTSP."""
        for response in self._decoder.feed(data):
            if response.header("cseq") not in {"", str(self._cseq)}:
                continue
            return self._next_request(response) or response
        return None

    def _next_request(self, response: Response) -> bytes | None:
        if response.status != 401 or self._login is None or self._cseq >= _MOST_REQUESTS:
            return None
        challenge = choose_challenge(parse_challenges(response.header_list("www-authenticate")))
        if challenge is None or (self._has_answered and not challenge.is_stale):
            return None
        self._has_answered = True
        return self._request(answer_challenge(challenge, self._login, self._method, self._url, cnonce=self._cnonce))

    def _request(self, authorization: str = "") -> bytes:
        self._cseq += 1
        headers = {"User-Agent": USER_AGENT}
        if self._method == "DESCRIBE":
            headers["Accept"] = "application/sdp"
        if authorization:
            headers["Authorization"] = authorization
        return encode_request(self._method, self._url, self._cseq, headers)

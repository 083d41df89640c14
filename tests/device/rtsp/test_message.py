from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meetingctl.core.errors import InvalidInput, MeetingctlError
from meetingctl.device.rtsp.message import (
    LARGEST_BODY_BYTES,
    LARGEST_HEAD_BYTES,
    Response,
    ResponseDecoder,
    encode_request,
)
from meetingctl.device.rtsp.sdp import Media, parse_sdp

printable = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=":"), min_size=1, max_size=20)
responses = st.builds(
    Response,
    st.integers(100, 999),
    printable,
    st.lists(st.tuples(printable.map(str.lower).filter(lambda name: name != "content-length"), printable)).map(tuple),
    st.binary(max_size=300),
)


def wire_of(response: Response) -> bytes:
    lines = [f"RTSP/1.0 {response.status} {response.reason}"]
    lines += [f"{name}: {value}" for name, value in response.headers]
    lines.append(f"Content-Length: {len(response.body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + response.body


def without_length(response: Response) -> Response:
    kept = tuple(pair for pair in response.headers if pair[0] != "content-length")
    return Response(response.status, response.reason, kept, response.body)


@given(st.lists(st.one_of(responses, st.binary(max_size=50)), max_size=6), st.data())
def test_any_chunking_yields_the_same_responses(parts: list[Response | bytes], data: st.DataObject) -> None:
    """Bytes among the responses are media: `$`, channel, length."""
    wire = b"".join(
        wire_of(part) if isinstance(part, Response) else b"$\x00" + len(part).to_bytes(2, "big") + part
        for part in parts
    )
    decoder, got = ResponseDecoder(), []
    while wire:
        size = data.draw(st.integers(1, len(wire)))
        got += decoder.feed(wire[:size])
        wire = wire[size:]
    assert [without_length(response) for response in got] == [part for part in parts if isinstance(part, Response)]


@given(st.binary(max_size=400))
def test_garbage_is_refused_or_waited_for_but_never_crashes(wire: bytes) -> None:
    try:
        list(ResponseDecoder().feed(wire + b"\r\n\r\n"))
    except MeetingctlError:
        pass


@pytest.mark.parametrize(
    "wire",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"RTSP/1.0 2OO OK\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nContent-Length: -1\r\n\r\n",
        f"RTSP/1.0 200 OK\r\nContent-Length: {LARGEST_BODY_BYTES + 1}\r\n\r\n".encode(),
        b"RTSP/1.0 200 OK\r\nX: " + b"y" * LARGEST_HEAD_BYTES,
    ],
)
def test_what_is_no_rtsp_or_too_large_is_refused(wire: bytes) -> None:
    with pytest.raises(MeetingctlError):
        list(ResponseDecoder().feed(wire))


def test_a_request_has_its_sequence_and_headers() -> None:
    wire = encode_request("DESCRIBE", "rtsp://h/x", 2, {"Accept": "application/sdp"})
    assert wire == b"DESCRIBE rtsp://h/x RTSP/1.0\r\nCSeq: 2\r\nAccept: application/sdp\r\n\r\n"


@pytest.mark.parametrize("url", ["rtsp://h/x\r\nEvil: 1", "rtsp://h/a b", "rtsp://h/\x00"])
def test_a_request_cannot_be_split(url: str) -> None:
    with pytest.raises(InvalidInput):
        encode_request("DESCRIBE", url, 1, {})


def test_sdp_of_a_camera() -> None:
    body = (
        b"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=Session\r\na=control:*\r\n"
        b"m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=control:stream=0\r\n"
        b"m=audio 0 RTP/AVP 97\r\na=rtpmap:97 mpeg4-generic/48000/1\r\na=control:stream=1\r\n"
        b"m=audio 0 RTP/AVP 0\r\n"
        b"m=broken\r\n"
    )
    assert parse_sdp(body) == (
        Media("video", 96, "H264", 90000, "stream=0"),
        Media("audio", 97, "MPEG4-GENERIC", 48000, "stream=1"),
        Media("audio", 0),
    )


@given(st.binary(max_size=300))
def test_any_sdp_is_read_without_an_error(body: bytes) -> None:
    parse_sdp(b"m=" + body)

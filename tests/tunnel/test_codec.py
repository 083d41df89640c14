"""Frames: any chunking gives the same frames, and nothing makes the decoder hold more than a header and a payload."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meetingctl.tunnel import codec

ALL_KINDS = frozenset(b"NDCWEPQ")
BASE_KINDS = frozenset(b"DC")

stream_ids = st.integers(0, 2**32 - 1)
frames = st.one_of(
    st.tuples(st.just(codec.DATA), stream_ids, st.binary(max_size=3000)),
    st.tuples(st.just(codec.OPEN), stream_ids, st.binary(min_size=2, max_size=40)),
    st.tuples(st.just(codec.CLOSE), stream_ids, st.binary(max_size=1)),
    st.tuples(st.just(codec.WINDOW), stream_ids, st.binary(min_size=4, max_size=4)),
    st.tuples(st.just(codec.END), stream_ids, st.just(b"")),
    st.tuples(st.sampled_from([codec.PING, codec.PONG]), st.just(0), st.binary(min_size=8, max_size=8)),
)


def chunks_of(wire: bytes, data: st.DataObject) -> list[bytes]:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=20)))
    return [wire[a:b] for a, b in zip([0, *cuts], [*cuts, len(wire)], strict=True)]


def decode(chunks: list[bytes], kinds: frozenset[int] = ALL_KINDS) -> tuple[list[tuple[int, int, bytes]], str]:
    """Return the frames, neighbouring slices of one stream joined, and the error text."""
    decoder = codec.FrameDecoder(kinds)
    got: list[tuple[int, int, bytes]] = []
    for chunk in chunks:
        buffer = bytearray(chunk)
        try:
            for kind, stream_id, payload in decoder.feed(memoryview(buffer)):
                if kind == codec.DATA and got and got[-1][:2] == (kind, stream_id):
                    got[-1] = (kind, stream_id, got[-1][2] + bytes(payload))
                else:
                    got.append((kind, stream_id, bytes(payload)))
        except codec.WireError as exc:
            return got, str(exc)
        buffer[:] = b"\xff" * len(buffer)
    return got, ""


@given(st.lists(frames, max_size=12), st.data())
def test_any_chunking_gives_the_same_frames(sent: list[tuple[int, int, bytes]], data: st.DataObject) -> None:
    wire = b"".join(codec.encode_frame(*frame) for frame in sent)
    whole = decode([wire])
    assert decode(chunks_of(wire, data)) == whole
    assert decode([wire[i : i + 1] for i in range(len(wire))]) == whole
    expected: list[tuple[int, int, bytes]] = []
    for frame in sent:
        if frame[0] == codec.DATA and not frame[2]:
            continue
        if frame[0] == codec.DATA and expected and expected[-1][:2] == frame[:2]:
            expected[-1] = (*frame[:2], expected[-1][2] + frame[2])
        else:
            expected.append(frame)
    assert whole == (expected, "")


@given(st.binary(max_size=400), st.data())
def test_noise_fails_at_the_same_place_in_any_chunking(wire: bytes, data: st.DataObject) -> None:
    assert decode(chunks_of(wire, data), BASE_KINDS) == decode([wire], BASE_KINDS)


@pytest.mark.parametrize(
    ("frame", "complaint"),
    [
        (codec.HEADER.pack(ord("G"), 1, 0), "not allowed"),
        (codec.HEADER.pack(codec.OPEN, 1, 2), "not allowed"),
        (codec.HEADER.pack(codec.PING, 0, 8), "not allowed"),
        (codec.HEADER.pack(codec.DATA, 1, codec.MAX_FRAME_BYTES + 1), "allowed are 0 to 1048576"),
        (codec.HEADER.pack(codec.CLOSE, 1, 2), "allowed are 0 to 1"),
        (b"GET / HTTP/1.1\r\n", "not allowed"),
    ],
)
def test_what_an_old_agent_may_not_send_is_fatal_for_ever(frame: bytes, complaint: str) -> None:
    decoder = codec.FrameDecoder(BASE_KINDS)
    with pytest.raises(codec.WireError, match=complaint):
        list(decoder.feed(memoryview(frame)))
    with pytest.raises(codec.WireError, match=complaint):
        list(decoder.feed(memoryview(codec.encode_frame(codec.DATA, 1, b"x"))))


def test_a_header_alone_allocates_nothing() -> None:
    decoder = codec.FrameDecoder(BASE_KINDS)
    tracemalloc.start()
    try:
        list(decoder.feed(memoryview(codec.HEADER.pack(codec.DATA, 1, codec.MAX_FRAME_BYTES))))
        for _ in range(1000):
            list(decoder.feed(memoryview(b"x" * 1000)))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 64 << 10


def test_data_is_not_copied() -> None:
    buffer = bytearray(codec.encode_frame(codec.DATA, 7, b"abc"))
    ((_, _, payload),) = codec.FrameDecoder(BASE_KINDS).feed(memoryview(buffer))
    buffer[-3:] = b"xyz"
    assert bytes(payload) == b"xyz"


@given(st.integers(1, 65535), st.one_of(st.none(), st.integers(0, 2**32 - 1)), st.binary(max_size=30))
def test_open_frames_keep_what_they_say_and_ignore_what_follows(port: int, credit: int | None, tail: bytes) -> None:
    payload = codec.encode_open(3, port, credit_bytes=credit)[codec.HEADER_BYTES :]
    assert codec.parse_open(payload) == (port, credit)
    if credit is not None:
        assert codec.parse_open(payload + tail) == (port, credit)


def test_an_old_agent_gets_two_bytes() -> None:
    assert codec.encode_open(1, 22, credit_bytes=None) == b"N\0\0\0\x01\0\0\0\x02\0\x16"


@given(st.integers(0, 2**32 - 1))
def test_window_frames_round_trip(credit: int) -> None:
    assert codec.parse_window(codec.encode_window(9, credit)[codec.HEADER_BYTES :]) == credit


@given(st.lists(frames, max_size=12), st.data(), st.integers(1, 4))
def test_turns_of_few_frames_give_the_same_frames(
    sent: list[tuple[int, int, bytes]], data: st.DataObject, most: int
) -> None:
    wire = b"".join(codec.encode_frame(*frame) for frame in sent)
    decoder = codec.FrameDecoder(ALL_KINDS)
    got: list[tuple[int, int, bytes]] = []
    for chunk in chunks_of(wire, data):
        rest = memoryview(chunk)
        while rest:
            turn = [(kind, stream_id, bytes(payload)) for kind, stream_id, payload in decoder.feed(rest, most)]
            assert len(turn) <= most + 1
            assert decoder.consumed_bytes > 0
            rest = rest[decoder.consumed_bytes :]
            got += turn
    joined: list[tuple[int, int, bytes]] = []
    for kind, stream_id, part in got:
        if kind == codec.DATA and joined and joined[-1][:2] == (kind, stream_id):
            joined[-1] = (kind, stream_id, joined[-1][2] + part)
        else:
            joined.append((kind, stream_id, part))
    assert (joined, "") == decode([wire])


def test_empty_frames_use_up_a_turn_too() -> None:
    decoder = codec.FrameDecoder(ALL_KINDS)
    wire = memoryview(codec.encode_frame(codec.DATA, 0) * 10)
    assert list(decoder.feed(wire, 3)) == []
    assert decoder.consumed_bytes == 3 * codec.HEADER_BYTES

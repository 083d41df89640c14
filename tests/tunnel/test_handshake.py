"""The lines of the handshake and what both ends make of each other's abilities."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meetingctl.core.errors import AuthError
from meetingctl.tunnel import codec, handshake
from meetingctl.tunnel.caps import BASE, Agreed, agreed_caps, kinds_from_agent, kinds_from_proxy, negotiate, offer_caps

PROXY = offer_caps(1 << 20, sid="ab" * 16)
AGENT = offer_caps(256 << 10)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


def test_the_base_handshake_is_what_existing_agents_expect() -> None:
    assert json.loads(handshake.encode_hello("K", "3fa9c1", None)) == {"token": "3fa9c1", "name": "K"}
    assert json.loads(handshake.encode_welcome("K", None)) == {"status": "authenticated", "device_key": "K"}
    refusal = json.loads(handshake.encode_refusal("no"))
    assert refusal == {"status": "error", "error": "auth_failed", "reason": "no", "message": "no"}


@given(st.text(max_size=5000))
def test_replies_stay_short_and_are_one_line(text: str) -> None:
    line = handshake.encode_refusal(text)
    assert len(line) < handshake.MAX_LINE_BYTES
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"{}",
        b'{"name":"K"}',
        b'{"name":"K","token":5}',
        b'{"name":null,"token":"x"}',
        b"[" * 4000,
        b'{"token":' + b"[" * 4000,
    ],
)
def test_a_bad_hello_is_a_protocol_error(line: bytes) -> None:
    with pytest.raises(codec.WireError):
        handshake.parse_hello(line)


@given(st.binary(max_size=200))
def test_no_hello_crashes_the_parser(line: bytes) -> None:
    try:
        handshake.parse_hello(line)
    except codec.WireError:
        return


def test_a_hello_keeps_unknown_keys_out_and_bad_caps_away() -> None:
    assert handshake.parse_hello(b'{"name":"K","token":"T","x":1,"caps":7}') == ("K", "T", None)
    assert handshake.parse_hello(handshake.encode_hello("K", "T", AGENT)).caps == AGENT


@pytest.mark.parametrize(
    "line",
    [
        b'{"error":"auth_failed"}',
        b'{"status":"ok"}',
        b'{"status":"error","reason":"no"}',
        b'{"status":null}',
        b"{}",
    ],
)
def test_anything_but_authenticated_is_a_refusal(line: bytes) -> None:
    with pytest.raises(AuthError):
        handshake.parse_reply(line)


def test_both_ends_agree_on_the_same_terms() -> None:
    answer = agreed_caps(PROXY, AGENT)
    assert answer is not None
    assert answer["sid"] == "ab" * 16
    at_proxy, at_agent = negotiate(PROXY, AGENT), negotiate(AGENT, answer)
    assert at_proxy == Agreed(True, True, True, True, 256 << 10, 1 << 20, 1 << 20, 1 << 20)
    assert at_agent == Agreed(True, True, True, True, 1 << 20, 256 << 10, 1 << 20, 1 << 20)


def test_without_caps_the_base_protocol_holds() -> None:
    assert negotiate(PROXY, None) == BASE
    assert agreed_caps(PROXY, {"v": 1}) is None
    assert BASE.send_frame_bytes == 16 << 10
    assert kinds_from_agent(BASE) == frozenset(b"DC")
    assert kinds_from_proxy(BASE) == frozenset(b"NDC")


@pytest.mark.parametrize("missing", ["fc", "eof", "ping"])
def test_a_capability_is_on_only_when_both_list_it(missing: str) -> None:
    offer = {key: value for key, value in AGENT.items() if key != missing}
    terms, answer = negotiate(PROXY, offer), agreed_caps(PROXY, offer)
    assert answer is not None
    assert missing not in answer
    assert {"fc": terms.flow, "eof": terms.eof, "ping": terms.ping} == {
        key: key != missing for key in ("fc", "eof", "ping")
    }


def test_the_smaller_frame_limit_holds_at_both_ends() -> None:
    answer = agreed_caps(PROXY, AGENT | {"maxframe": 65536})
    assert answer is not None
    assert answer["maxframe"] == 65536
    assert negotiate(AGENT, answer).send_frame_bytes == 65536


@given(st.dictionaries(st.sampled_from(["v", "fc", "eof", "ping", "maxframe", "direct", "x"]), json_values))
def test_no_caps_crash_the_negotiation(theirs: dict[str, Any]) -> None:
    terms = negotiate(PROXY, theirs)
    answer = agreed_caps(PROXY, theirs)
    assert (answer is not None) == terms.is_new
    assert 1 << 10 <= terms.send_frame_bytes <= codec.MAX_FRAME_BYTES
    json.dumps(answer)

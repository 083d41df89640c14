from __future__ import annotations

import base64

import pytest

from meetingctl.core.secret import Secret
from meetingctl.device.rtsp.auth import Challenge, Login, answer_challenge, choose_challenge, parse_challenges

MUFASA = Login("Mufasa", Secret("Circle of Life"))


def test_one_header_may_hold_several_challenges() -> None:
    found = parse_challenges(['Digest realm="a \\"b\\", c", nonce="n,1", stale=TRUE, Basic realm="d"', "Negotiate"])
    assert [challenge.scheme for challenge in found] == ["digest", "basic", "negotiate"]
    assert found[0].parameters == {"realm": 'a "b", c', "nonce": "n,1", "stale": "TRUE"}
    assert found[0].is_stale
    assert found[1].get("realm") == "d"


@pytest.mark.parametrize("header", ["", ",,,", 'realm="x"', "=", 'Digest realm="open', "\x00"])
def test_nonsense_gives_nothing_to_answer(header: str) -> None:
    assert choose_challenge(parse_challenges([header])) is None


def test_the_strongest_challenge_wins() -> None:
    headers = [
        'Basic realm="x"',
        'Digest realm="x", nonce="1", algorithm=MD5',
        'Digest realm="x", nonce="2", algorithm=SHA-256',
        'Digest realm="x", nonce="3", algorithm=SHA-512-256',
        'Digest realm="x", nonce="4", qop="auth-int"',
    ]
    for order in (headers, headers[::-1]):
        chosen = choose_challenge(parse_challenges(order))
        assert chosen is not None
        assert chosen.get("nonce") == "2"


def test_basic() -> None:
    header = answer_challenge(Challenge("basic"), Login("é", Secret("p:w")), "DESCRIBE", "rtsp://h/x", cnonce="")
    assert base64.b64decode(header.removeprefix("Basic ")).decode() == "é:p:w"


@pytest.mark.parametrize(
    ("algorithm", "response"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_digest_as_in_the_examples_of_rfc_7616(algorithm: str, response: str) -> None:
    challenge = Challenge(
        "digest",
        {
            "realm": "http-auth@example.org",
            "nonce": "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
            "qop": "auth, auth-int",
            "algorithm": algorithm,
            "opaque": "FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS",
        },
    )
    cnonce = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
    header = answer_challenge(challenge, MUFASA, "GET", "/dir/index.html", cnonce=cnonce)
    assert f'response="{response}"' in header
    assert 'opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"' in header
    assert f"algorithm={algorithm}" in header
    assert "qop=auth," in header
    assert "nc=00000001" in header


def test_digest_without_qop_as_rtsp_servers_send_it() -> None:
    """Worked out by hand from RFC 2069: MD5(MD5(a:r:b):n:MD5(DESCRIBE:rtsp://h/x))."""
    challenge = Challenge("digest", {"realm": "r", "nonce": "n"})
    header = answer_challenge(challenge, Login("a", Secret("b")), "DESCRIBE", "rtsp://h/x", cnonce="unused")
    assert 'response="b82dfefa6445d236a41bc6bf81ae58f3"' in header
    assert "cnonce" not in header


def test_quotes_in_a_user_are_escaped() -> None:
    challenge = Challenge("digest", {"realm": "r", "nonce": "n"})
    header = answer_challenge(challenge, Login('a"b\\', Secret("")), "DESCRIBE", "rtsp://h/", cnonce="")
    assert header.startswith('Digest username="a\\"b\\\\", ')

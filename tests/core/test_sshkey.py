"""Reading public keys: what is accepted, and what looks like a key and is none."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meetingctl.core.errors import InvalidInput
from meetingctl.core.sshkey import LONGEST_LINE, PublicKey, parse_public_key


def string(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value


def line(kind: str, *fields: bytes, named: str | None = None) -> str:
    blob = string((named or kind).encode()) + b"".join(map(string, fields))
    return f"{kind} {base64.b64encode(blob).decode()} somebody"


GOOD = line("ssh-ed25519", bytes(32))


@pytest.mark.parametrize("kind", [("ed25519",), ("rsa", "2048"), ("ecdsa", "256"), ("ecdsa", "384"), ("ecdsa", "521")])
def test_keys_of_ssh_keygen_and_their_fingerprints(require_program, tmp_path: Path, kind: tuple[str, ...]) -> None:
    program = require_program("ssh-keygen")
    path = tmp_path / "id"
    bits = ["-b", kind[1]] if len(kind) > 1 else []
    subprocess.run([program, "-q", "-t", kind[0], *bits, "-N", "", "-C", "it is me", "-f", path], check=True)
    text = path.with_suffix(".pub").read_text()
    key, comment = parse_public_key(text)
    assert comment == "it is me"
    assert text.startswith(key.text)
    shown = subprocess.run([program, "-l", "-f", path.with_suffix(".pub")], capture_output=True, text=True, check=True)
    assert key.fingerprint == shown.stdout.split()[1]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ssh-ed25519",
        GOOD.replace("ssh-ed25519 ", "ssh-rsa "),
        f'command="sh" {GOOD}',
        f"restrict {GOOD}",
        f"{GOOD}\n{GOOD}",
        f"{GOOD}\0",
        f"{GOOD}{' x' * LONGEST_LINE}",
        line("ssh-ed25519", bytes(31)),
        line("ssh-ed25519", bytes(32), b"more"),
        line("ssh-dss", b"\1", b"\1", b"\1", b"\1"),
        line("ssh-rsa", b"\1\0\1", b"\0" + b"\xff" * 128),
        line("ssh-rsa", b"\2", b"\0" + b"\xff" * 256),
        line("ssh-ed25519-cert-v01@openssh.com", bytes(32)),
        line("ecdsa-sha2-nistp256", b"nistp384", b"\4" + bytes(64)),
        "ssh-ed25519 ????",
        "ssh-ed25519 " + base64.b64encode(b"\xff\xff\xff\xffssh-ed25519").decode(),
    ],
)
def test_what_is_no_key(text: str) -> None:
    with pytest.raises(InvalidInput, match="Invalid public key"):
        parse_public_key(text)


@given(st.text(max_size=80))
def test_no_text_breaks_the_parser(text: str) -> None:
    try:
        key, _ = parse_public_key(text)
    except InvalidInput:
        return
    assert isinstance(key, PublicKey)


@given(st.binary(max_size=120))
def test_no_blob_breaks_the_parser(blob: bytes) -> None:
    try:
        parse_public_key(f"ssh-rsa {base64.b64encode(blob).decode()}")
    except InvalidInput:
        return

"""The PPK export, read back by PuTTY's own program."""

from __future__ import annotations

import subprocess
from pathlib import Path

import asyncssh
import pytest
from planes import MakeFleet

from meetingctl.core.errors import MeetingctlError
from meetingctl.server.db.schema import audit
from meetingctl.server.keys.ppk import convert

KINDS = {"ssh-ed25519": {}, "ssh-rsa": {"key_size": 2048}, "ecdsa-sha2-nistp256": {}, "ecdsa-sha2-nistp521": {}}


@pytest.mark.real
@pytest.mark.parametrize("kind", KINDS)
def test_puttygen_reads_every_kind(require_program, make_fleet: MakeFleet, tmp_path: Path, kind: str) -> None:
    program = require_program("puttygen")
    private = asyncssh.generate_private_key(kind, **KINDS[kind])
    (tmp_path / "cam-1").write_bytes(private.export_private_key("openssh"))
    fleet = make_fleet(device_private_keys_dir=tmp_path)
    fleet.device()
    answer = fleet.call("GET", "/api/devices/cam-1/private-ppk", key=fleet.admin)
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    assert "ssh-key.reveal-private" in [row["action"] for row in fleet.rows(audit.select())]
    ppk, phrase, back = tmp_path / "key.ppk", tmp_path / "phrase", tmp_path / "back"
    ppk.write_bytes(answer.content)
    phrase.write_text(answer.headers["x-ppk-passphrase"])
    empty = tmp_path / "empty"
    empty.write_text("")
    argv = [program, ppk, "-O", "private-openssh", "-o", back, "--old-passphrase", phrase, "--new-passphrase", empty]
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    assert asyncssh.read_private_key(back).get_fingerprint() == private.get_fingerprint()
    phrase.write_text("another")
    back.unlink()
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode != 0 or not back.exists()


def test_a_key_with_a_passphrase_is_not_converted() -> None:
    pem = asyncssh.generate_private_key("ssh-ed25519").export_private_key("openssh", passphrase="x")
    with pytest.raises(MeetingctlError, match="Conversion failed"):
        convert(pem, comment="c", passphrase="p")

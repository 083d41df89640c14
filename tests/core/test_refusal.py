"""What refusals of the API say to a person."""

from __future__ import annotations

import pytest

from meetingctl.core.errors import AuthError, Conflict, Forbidden, NotFound
from meetingctl.core.refusal import explain_refusal


@pytest.mark.parametrize(
    ("status", "text", "subject", "leaf", "message", "hint"),
    [
        (404, "Device not found", "cam-7", NotFound, "cam-7: device not found", "meetingctl fleet list"),
        (404, "Tunnel not found", "tunnel 9050", NotFound, "tunnel 9050: not found", "meetingctl tunnel list"),
        (404, "Key not found", "key abc", NotFound, "key abc: not found", "meetingctl token list"),
        (404, "Not found", None, NotFound, "not found", None),
        (
            409,
            "Device already exists",
            "cam-7",
            Conflict,
            "cam-7: device already exists",
            "meetingctl fleet show cam-7",
        ),
        (401, "Unauthorized", "devices", AuthError, "devices: no credential was presented", "meetingctl login"),
        (403, "Forbidden", "cam-7", Forbidden, "cam-7: a higher role is needed", "meetingctl whoami"),
        (
            403,
            "Device not authorized",
            "cam-7",
            Forbidden,
            "cam-7: device not authorized",
            "meetingctl fleet authorize cam-7",
        ),
    ],
)
def test_a_refusal_in_full(status, text, subject, leaf, message, hint) -> None:
    error = explain_refusal(status, text, subject=subject)
    assert (type(error), error.message, error.hint) == (leaf, message, hint)


def test_a_relay_port_names_the_setting_and_not_the_account() -> None:
    error = explain_refusal(403, "Relay port not allowed", subject="cam-7")
    assert "tunnel_relay_ports" in str(error.hint)


def test_a_role_that_the_server_names() -> None:
    assert explain_refusal(403, "Forbidden", subject="cam-7", role="operator").message == "cam-7: needs role operator"

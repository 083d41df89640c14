"""What refusals of the API say to a person."""

from __future__ import annotations

import pytest

from meetingctl.core.errors import AuthError, Conflict, Forbidden, NotFound
from meetingctl.core.refusal import explain_refusal, hint_for_afar, read_hint


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


def test_a_hint_of_ours_goes_before_the_spare_one() -> None:
    ours = explain_refusal(404, "Device not found", subject="cam-7", spare_hint="look elsewhere")
    assert ours.hint == "meetingctl fleet list"
    assert explain_refusal(403, "Wrong password", spare_hint="give the old one too").hint == "give the old one too"
    assert explain_refusal(403, "Forbidden").hint == "meetingctl whoami"


@pytest.mark.parametrize(
    "hint",
    ["meetingctl fleet rollout status 3", "use active or inactive", "set MEETINGCTL_SSH_HOST_KEYS of the server: x"],
)
def test_a_hint_that_helps_at_another_machine_is_sent(hint: str) -> None:
    assert hint_for_afar(hint) == hint


@pytest.mark.parametrize(
    "hint",
    [
        None,
        "",
        "ls -l /var/lib/meetingctl",
        "chmod 600 /etc/meetingctl/key",
        "choose another folder with --data",
        "meetingctl db migrate",
        "meetingctl serve api --workers 1",
        "two\r\nx-other: lines",
        "caf\u00e9",
        "x" * 201,
    ],
)
def test_other_hints_stay_at_the_server(hint: str | None) -> None:
    assert hint_for_afar(hint) is None


@pytest.mark.parametrize("sent", [None, "", " ", "x" * 201, "\x1b[2J", 7])
def test_what_is_no_hint_is_not_read(sent: object) -> None:
    assert read_hint(sent) is None

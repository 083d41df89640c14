"""What a failed command on a device means to the operator."""

from __future__ import annotations

import pytest

from meetingctl.core.errors import AuthError
from meetingctl.remote.visit import Answer, explain_failure

WRONG = "Sorry, try again.\nsudo: no password was provided\nsudo: 1 incorrect password attempt\n"
UNRESOLVED = "sudo: unable to resolve host cam-7: Name or service not known\n"


@pytest.mark.parametrize(
    ("stderr", "is_refusal", "says"),
    [
        (WRONG, True, "device may not become root: 1 incorrect password attempt"),
        ("sudo: a password is required\n", True, "a password is required"),
        (f"{UNRESOLVED}sudo: a password is required\n", True, "a password is required"),
        (f"{UNRESOLVED}cat: /etc/none: No such file or directory\n", False, "/etc/none: No such file or directory"),
        ("first\nlast\n", False, "last"),
        ("", False, "exit code 3"),
    ],
)
def test_the_reason_of_a_failure(stderr: str, is_refusal: bool, says: str) -> None:
    error = explain_failure("cam-7", "device", Answer(3, "", stderr))
    assert isinstance(error, AuthError) is is_refusal
    assert error.message.startswith("cam-7: ")
    assert error.message.endswith(says)

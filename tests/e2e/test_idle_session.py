"""A session that says nothing for minutes; a file of its own, so that nothing waits behind it."""

import subprocess
import time

import pytest

from e2e.conftest import idle_s

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]


@pytest.mark.idle_session
def test_a_session_survives_minutes_of_silence(idle_session):
    left_s = idle_session.started_s + idle_s() - time.monotonic()
    if left_s > 0:
        with pytest.raises(subprocess.TimeoutExpired):
            idle_session.process.wait(left_s)
    out, _ = idle_session.process.communicate(b"still\n", timeout=30)
    assert out == b"still back\n"
    assert idle_session.process.returncode == 0

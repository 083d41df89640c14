"""`doctor`: what it finds, what it says to do, what its bundle holds."""

from __future__ import annotations

import json
import tarfile

import pytest

from meetingctl.cli.doctor import check_clock, check_credentials, check_python, check_sqlite

from .runner import Cli, Result


def statuses(result: Result) -> dict[str, str]:
    return {row["check"]: row["status"] for row in result.json}


@pytest.mark.parametrize(
    ("finding", "status"),
    [
        (check_python((3, 10, 9)), "failed"),
        (check_python((3, 11, 0)), "ok"),
        (check_sqlite((3, 51, 2)), "ok"),
        (check_sqlite((3, 51, 3)), "ok"),
        (check_clock(None), "ok"),
        (check_clock(4.0), "ok"),
        (check_clock(-90.0), "warning"),
    ],
)
def test_limits(finding, status: str) -> None:
    assert finding.status == status
    assert (finding.hint is None) == (status == "ok")


def test_a_fresh_machine_is_no_fault(cli: Cli) -> None:
    cli.env["MEETINGCTL_TIMEOUT_S"] = "1"
    result = cli("doctor", "--json")
    found = statuses(result)
    assert found["python"] == "ok"
    assert found["settings"] == "ok"
    assert found["credentials"] == "ok"


def test_an_old_sqlite_is_named_without_alarm() -> None:
    assert "a rare fault when several processes write" in check_sqlite((3, 40, 1)).detail
    assert check_sqlite((3, 51, 3)).detail == "3.51.3"


def test_a_named_server_that_is_away_is_a_fault(cli: Cli) -> None:
    result = cli("doctor", "--json", "--server-url", "http://127.0.0.1:9")
    assert result.code == 1
    assert statuses(result)["server"] == "failed"


def test_a_running_server(admin: Cli) -> None:
    result = admin("doctor", "--json")
    assert result.code == 0
    found = statuses(result)
    assert (found["server"], found["clock"], found["identity"]) == ("ok", "ok", "ok")


def test_broken_settings_are_a_finding_not_the_end(cli: Cli) -> None:
    cli.env["MEETINGCTL_TIMEOUT_S"] = "soon"
    result = cli("doctor", "--json")
    assert result.code == 1
    assert statuses(result)["settings"] == "failed"


def test_credentials_that_others_may_read(cli: Cli, tmp_path) -> None:
    path = tmp_path / "credentials.toml"
    path.write_text("")
    path.chmod(0o644)
    assert check_credentials(path).hint == f"chmod 600 {path}"


def test_the_bundle_holds_no_secret(admin: Cli) -> None:
    secret = admin.env["MEETINGCTL_API_KEY"]
    path = admin.home / "report.tar.gz"
    assert admin("doctor", "--bundle", str(path)).code == 0
    assert path.stat().st_mode & 0o777 == 0o600
    with tarfile.open(path) as archive:
        members = {member.name: archive.extractfile(member) for member in archive.getmembers()}
        texts = {name: file.read().decode() for name, file in members.items() if file is not None}
    assert secret not in "".join(texts.values())
    settings = json.loads(texts["meetingctl-doctor/settings.json"])
    assert {row["key"]: row["value"] for row in settings}["api_key"] == "***"

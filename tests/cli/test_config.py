"""`config`, `login`, `logout`: the files that they write."""

from __future__ import annotations

import shutil
import tarfile
import tomllib
from pathlib import Path

import pytest

from .conftest import Server
from .runner import Cli


def user_file(cli: Cli) -> Path:
    return cli.home / ".config/meetingctl/config.toml"


def credentials_file(cli: Cli) -> Path:
    return cli.home / ".config/meetingctl/credentials.toml"


def write_user_file(cli: Cli, text: str) -> None:
    user_file(cli).parent.mkdir(parents=True, exist_ok=True)
    user_file(cli).write_text(text)


def test_set_keeps_comments_and_order(cli: Cli) -> None:
    write_user_file(cli, "# mine\n[default]\ncolor = 'never' # quiet\n\n[profile.site] # north\ntimeout_s = 3\n")
    assert cli("config", "set", "timeout_s", "10s", "--profile", "site").code == 0
    assert cli("config", "set", "api-workers", "2").code == 0
    text = user_file(cli).read_text()
    assert "# mine" in text
    assert "color = 'never' # quiet" in text
    assert "[profile.site] # north" in text
    assert tomllib.loads(text) == {
        "default": {"color": "never", "api_workers": 2},
        "profile": {"site": {"timeout_s": "10s"}},
    }


@pytest.mark.parametrize(
    ("key", "text", "stored", "shown"),
    [
        ("timeout_s", "1m30s", "1m30s", "90.0"),
        ("api_workers", "4", 4, "4"),
        ("agent_caps", "no", False, "False"),
        ("tunnel_relay_ports", "22,80", [22, 80], "22,80"),
        ("tunnel_allow_from", "10.0.0.0/8,any", ["10.0.0.0/8", "any"], "10.0.0.0/8,any"),
        ("tunnel_local_ports", "ssh=22,http=5000", {"ssh": 22, "http": 5000}, "{'ssh': 22, 'http': 5000}"),
        ("server_url", "https://fleet.example/", "https://fleet.example/", "https://fleet.example"),
    ],
)
def test_a_value_reads_back_as_it_was_set(key: str, text: str, stored: object, shown: str, cli: Cli) -> None:
    assert cli("config", "set", key, text).code == 0
    assert tomllib.loads(user_file(cli).read_text())["default"][key] == stored
    assert cli("config", "get", key).out == f"{shown}\n"


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["timeout_s", "soon"], 2, "not a duration"),
        (["timeout", "3"], 2, "did you mean timeout_s?"),
        (["mode", "open"], 2, "allowed are"),
        (["timeout_s"], 2, "meetingctl config set timeout_s 30.0"),
        (["api_key", "mk_a_b"], 2, "not on the command line"),
    ],
)
def test_a_wrong_set_changes_nothing(args: list[str], code: int, message: str, cli: Cli) -> None:
    result = cli("config", "set", *args)
    assert result.code == code
    assert message in result.err
    assert not user_file(cli).exists()
    assert not credentials_file(cli).exists()


def test_a_secret_goes_to_the_private_file(cli: Cli) -> None:
    result = cli("config", "set", "agent_token", stdin="3FA9C1\n")
    assert result.code == 0
    assert "3FA9C1" not in result.out + result.err
    assert credentials_file(cli).stat().st_mode & 0o777 == 0o600
    assert tomllib.loads(credentials_file(cli).read_text()) == {"default": {"agent_token": "3FA9C1"}}
    assert cli("config", "unset", "agent_token").code == 0
    assert "agent_token" not in credentials_file(cli).read_text()


def test_the_password_of_the_database_is_never_shown(cli: Cli) -> None:
    url = "postgresql://fleet:hunter2@db.example/fleet"
    results = [
        cli("config", "set", "db_url", url, "--json"),
        cli("config", "set", "db_url", url, "--dry-run", "--json"),
    ]
    results += [cli("config", "get", "db_url"), cli("config", "list", "--group", "api"), cli("config", "set", "db_url")]
    cli("doctor", "--bundle", str(cli.home / "report.tar.gz"))
    with tarfile.open(cli.home / "report.tar.gz") as archive:
        texts = [file.read().decode() for name in archive.getnames() if (file := archive.extractfile(name))]
    texts += [result.out + result.err for result in results]
    assert "hunter2" not in "".join(texts)
    assert results[2].out == "postgresql://fleet:***@db.example/fleet\n"
    assert tomllib.loads(user_file(cli).read_text())["default"]["db_url"] == url


def test_unset_of_what_is_not_set(cli: Cli) -> None:
    assert cli("config", "unset", "timeout_s").code == 1


def test_a_wrong_value_is_corrected_where_it_stands(cli: Cli) -> None:
    cli.env["MEETINGCTL_TIMEOUT_S"] = "soon"
    assert "hint: unset MEETINGCTL_TIMEOUT_S\n" in cli("config", "get", "mode").err
    del cli.env["MEETINGCTL_TIMEOUT_S"]
    write_user_file(cli, "[default]\ntimeout_s = 'soon'\n")
    assert f"hint: correct timeout_s in {user_file(cli)} [default]\n" in cli("config", "get", "mode").err


def test_a_group_that_is_none(cli: Cli) -> None:
    refused = cli("config", "list", "--group", "foo")
    assert (refused.code, "use one of cli, log, server" in refused.err) == (2, True)


def test_dry_run_of_what_cannot_be_done(cli: Cli) -> None:
    assert cli("config", "unset", "timeout_s", "--dry-run").code == 1
    assert cli("config", "profile", "remove", "lab", "--dry-run").code == 1
    cli("config", "profile", "add", "lab")
    assert cli("config", "profile", "add", "lab", "--dry-run").code == 2


def test_dry_run_writes_nothing(cli: Cli) -> None:
    assert cli("config", "set", "timeout_s", "3", "--dry-run").code == 0
    assert cli("config", "profile", "add", "site", "--dry-run").code == 0
    assert not user_file(cli).exists()


def test_profiles_from_beginning_to_end(cli: Cli) -> None:
    assert cli("config", "profile", "add", "site-a", "--server-url", "http://a.example").code == 0
    assert cli("config", "profile", "add", "site-a").code == 2
    assert cli("config", "profile", "use", "site-b").code == 2
    assert cli("config", "profile", "use", "site-a").code == 0
    assert cli("config", "get", "server_url").out == "http://a.example\n"
    assert cli("config", "get", "server_url", "--profile", "default").out == "http://127.0.0.1:8470\n"
    assert cli("--profile", "none", "config", "list").code == 2
    rows = cli("config", "profile", "list", "--json").json
    assert [(row["profile"], row["active"]) for row in rows] == [("default", False), ("site-a", True)]
    refused = cli("config", "profile", "remove", "site-a")
    assert (refused.code, "--yes" in refused.err) == (2, True)
    assert cli("config", "profile", "remove", "site-a", "--yes").code == 0
    assert cli("config", "get", "server_url").out == "http://127.0.0.1:8470\n"


def test_a_removed_profile_takes_its_key_along(cli: Cli, server: Server) -> None:
    cli("config", "profile", "add", "lab", "--server-url", server.url)
    cli("login", "--profile", "lab", stdin=f"{server.admin_key}\n")
    assert cli("config", "profile", "remove", "lab", "--yes").code == 0
    assert server.admin_key not in credentials_file(cli).read_text()
    assert [row["profile"] for row in cli("config", "profile", "list", "--json").json] == ["default"]


def test_check_names_the_file(cli: Cli, tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text("[default]\nmode = 'open'\n")
    result = cli("config", "check", str(bad))
    assert result.code == 78
    assert str(bad) in result.err
    assert cli("config", "check").code == 0


def test_login_asks_the_server_before_it_writes(cli: Cli, server: Server) -> None:
    wrong = cli("login", "--server-url", server.url, stdin="mk_0123456789ab_no\n")
    assert wrong.code == 4
    assert not credentials_file(cli).exists()
    done = cli("login", "--server-url", server.url, "--json", stdin=f"{server.admin_key}\n")
    assert done.code == 0
    assert done.json["role"] == "admin"
    assert server.admin_key not in done.out + done.err
    assert credentials_file(cli).stat().st_mode & 0o777 == 0o600
    assert cli("whoami", "--json").json["role"] == "admin"
    assert cli("logout").code == 0
    assert cli("config", "get", "api_key").out == "\n"


def test_login_reads_the_file_that_the_server_wrote(cli: Cli, server: Server) -> None:
    file = server.data_dir / "credentials.toml"
    done = cli("login", "--key-file", str(file), "--json")
    assert done.code == 0, done
    assert done.json["server_url"] == server.url
    assert cli("whoami", "--json").json["role"] == "admin"
    elsewhere = cli("login", "--key-file", str(file), "--server-url", "http://127.0.0.1:9", "--timeout", "2s")
    assert (elsewhere.code, "http://127.0.0.1:9" in elsewhere.err) == (69, True)


@pytest.mark.parametrize(
    "text", ["", "two words", "[default]\nserver_url = 'http://x'\n", "[default]\ntimeout_s = 3\n"]
)
def test_login_refuses_a_file_without_a_key(text: str, cli: Cli) -> None:
    file = cli.home / "key"
    file.write_text(text)
    refused = cli("login", "--key-file", str(file), "--server-url", "http://127.0.0.1:9")
    assert (refused.code, "holds no API key" in refused.err) == (2, True)


def test_the_key_of_a_server_under_systemd_works_at_once(cli: Cli, server: Server) -> None:
    folder = cli.home / "root/var/lib/meetingctl"
    folder.mkdir(parents=True)
    shutil.copy2(server.data_dir / "credentials.toml", folder)
    assert cli("whoami", "--json").json["role"] == "admin"


def test_a_key_of_the_environment_keeps_the_address_of_the_local_server(cli: Cli, server: Server) -> None:
    cli.env |= {"XDG_DATA_HOME": str(cli.home / "share"), "MEETINGCTL_API_KEY": "mk_0123456789ab_wrong"}
    folder = cli.home / "share/meetingctl"
    folder.mkdir(parents=True)
    shutil.copy2(server.data_dir / "credentials.toml", folder)
    refused = cli("whoami")
    assert refused.code == 4
    assert f"{server.url}: the credential is wrong" in refused.err


def test_login_for_a_profile_that_is_new(cli: Cli, server: Server) -> None:
    key_file = cli.home / "key"
    key_file.write_text(server.admin_key)
    result = cli("login", "--profile", "lab", "--server-url", server.url, "--key-file", str(key_file))
    assert result.code == 0
    assert cli("whoami", "--profile", "lab", "--json").json["profile"] == "lab"
    assert cli("config", "get", "server_url").out == "http://127.0.0.1:8470\n"


def test_login_uses_the_address_of_the_profile(cli: Cli, server: Server) -> None:
    cli("config", "profile", "add", "lab", "--server-url", server.url)
    result = cli("login", "--profile", "lab", "--json", stdin=f"{server.admin_key}\n")
    assert result.json["server_url"] == server.url


def test_login_without_a_key_is_a_usage_error(cli: Cli) -> None:
    result = cli("login", "--server-url", "http://127.0.0.1:9")
    assert result.code == 2
    assert "--key-file" in result.err


def test_a_group_readable_key_is_refused_with_the_line_to_run(cli: Cli, server: Server) -> None:
    cli("login", "--server-url", server.url, stdin=f"{server.admin_key}\n")
    credentials_file(cli).chmod(0o644)
    result = cli("whoami")
    assert result.code == 78
    assert f"chmod 600 {credentials_file(cli)}" in result.err

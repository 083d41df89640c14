"""The operators' commands against a real server: exit codes, questions, dry runs."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys

import pytest

from .runner import Cli


@pytest.fixture
def device(admin: Cli, own_name: str) -> str:
    """Create a device that only this test uses."""
    assert admin("fleet", "create", own_name, "--type", "rpicam", "--distribution", "trixie").code == 0
    return own_name


def test_some_failed_is_3_and_all_failed_keeps_its_code(admin: Cli, device: str) -> None:
    mixed = admin("fleet", "authorize", device, "nobody", "--json")
    assert mixed.code == 3
    assert [(row["name"], row["result"]) for row in mixed.json] == [(device, "ok"), ("nobody", "failed")]
    assert admin("fleet", "authorize", "nobody", "nothing").code == 1
    assert admin("fleet", "authorize", "nobody").code == 1


def test_authorize_and_revoke(admin: Cli, device: str) -> None:
    assert admin("fleet", "authorize", device).code == 0
    assert admin("fleet", "show", device, "--json").json["authorized"] is True
    assert admin("fleet", "revoke", device).code == 0
    assert admin("fleet", "show", device, "--json").json["authorized"] is False


def test_remove_asks_on_a_terminal_and_refuses_elsewhere(admin: Cli, device: str) -> None:
    off = admin("fleet", "remove", device)
    assert off.code == 2
    assert off.err.endswith(f"hint: meetingctl fleet remove {device} --yes\n")
    assert admin("fleet", "remove", device, asks=True, stdin="n\n").code == 2
    assert admin("fleet", "remove", device, "--no-input", asks=True).code == 2
    assert admin("fleet", "show", device).code == 0
    assert admin("fleet", "remove", device, asks=True, stdin="y\n").code == 0
    assert admin("fleet", "show", device).code == 1


@pytest.mark.parametrize(
    "args",
    [
        ["authorize", "{}"],
        ["revoke", "{}"],
        ["remove", "{}"],
        ["note", "{}", "changed"],
        ["tokens", "{}", "--set", "9"],
        ["tokens", "{}", "--new-code"],
        ["services", "{}", "--set", "ssh"],
        ["heartbeat", "{}"],
    ],
)
def test_dry_run_changes_nothing(args: list[str], admin: Cli, device: str) -> None:
    before = admin("fleet", "show", device, "--secrets", "--json").json
    result = admin("fleet", *(word.format(device) for word in args), "--dry-run")
    assert result.code == 0
    assert "would" in result.out + result.err
    assert admin("fleet", "show", device, "--secrets", "--json").json == before


def test_secrets_show_only_when_asked_for(admin: Cli, device: str) -> None:
    from meetingctl.cli.fleet import SECRET_FIELDS

    assert not SECRET_FIELDS & admin("fleet", "show", device, "--json").json.keys()
    assert admin("fleet", "show", device, "--json", "--secrets").json.keys() >= SECRET_FIELDS


def test_a_device_registers_once(admin: Cli, device: str) -> None:
    code = admin("fleet", "show", device, "--secrets", "--fields", "token_code", "--json").json["token_code"]
    assert admin("fleet", "register", device, stdin="zzzzzz\n").code == 2
    assert admin("fleet", "register", device, stdin="000000\n" if code != "000000" else "111111\n").code == 4
    first = admin("fleet", "register", device, "--json", stdin=f"{code}\n")
    assert first.code == 0
    assert first.json["device_token"]
    again = admin("fleet", "register", device, "--json", stdin=f"{code}\n")
    assert (again.code, again.json["error"]["code"]) == (1, "conflict")


def test_heartbeat_as_the_device(admin: Cli, device: str) -> None:
    code = admin("fleet", "show", device, "--secrets", "--json").json["token_code"]
    path = admin.home / "code"
    path.write_text(code)
    sent = admin("fleet", "heartbeat", device, "--token-file", str(path), "--ip-lan", "10.1.2.3", "--json")
    assert sent.json["last_seen"].endswith("Z")
    shown = admin("fleet", "show", device, "--json").json
    assert (shown["ip_lan"], shown["status"]) == ("10.1.2.3", "Available")


def test_a_new_code_replaces_the_old_one(admin: Cli, device: str) -> None:
    old = admin("fleet", "show", device, "--secrets", "--json").json["token_code"]
    assert admin("fleet", "tokens", device, "--new-code").code == 2
    made = admin("fleet", "tokens", device, "--new-code", "--yes", "--json").json["token_code"]
    assert made != old
    assert admin("fleet", "show", device, "--secrets", "--json").json["token_code"] == made


@pytest.mark.parametrize(
    "args",
    [
        ["create"],
        ["create", "x"],
        ["create", "x", "--type", "t"],
        ["create", "--serial", "s"],
        ["create", "x", "--generate"],
    ],
)
def test_create_needs_type_and_distribution_or_generate_alone(args: list[str], admin: Cli) -> None:
    assert admin("fleet", *args).code == 2


def test_create_with_everything_made(admin: Cli) -> None:
    made = admin("fleet", "create", "--generate", "--json").json
    assert admin("fleet", "show", made["device_key"]).code == 0


@pytest.mark.parametrize(
    "args",
    [
        ["fleet", "remove", "nobody"],
        ["fleet", "revoke", "nobody"],
        ["fleet", "note", "nobody", "text"],
        ["fleet", "tokens", "nobody", "--set", "1"],
        ["fleet", "services", "nobody", "--set", "ssh"],
        ["fleet", "heartbeat", "nobody"],
        ["fleet", "create", "{}", "--type", "t", "--distribution", "d"],
        ["tunnel", "open", "nobody", "ssh"],
        ["tunnel", "close", "9099"],
        ["token", "revoke", "abc"],
    ],
)
def test_dry_run_promises_nothing_impossible(args: list[str], admin: Cli, device: str) -> None:
    result = admin(*(word.format(device) for word in args), "--dry-run")
    assert result.code == 1, result
    assert "hint: meetingctl " in result.err


@pytest.mark.parametrize(
    "args",
    [
        ["fleet", "remove", "{}"],
        ["fleet", "note", "{}", "text"],
        ["fleet", "create", "new-one", "--type", "t", "--distribution", "d"],
        ["tunnel", "open", "{}", "ssh"],
        ["token", "create", "someone"],
    ],
)
def test_each_dry_run_has_the_same_shape(args: list[str], admin: Cli, device: str) -> None:
    told = admin(*(word.format(device) for word in args), "--dry-run", "--json").json
    for plan in told if isinstance(told, list) else [told]:
        assert (plan["dry_run"], plan["would_change"]) == (True, True)
        assert plan["action"]
        assert plan["object"]


def test_what_a_command_asks_for_alone_it_gets_without_an_audit_record(admin: Cli, device: str) -> None:
    def reveals() -> int:
        rows = admin("audit", "list", "--object", f"device:{device}", "--json").json
        return sum(row["action"] == "device.reveal" for row in rows)

    before = reveals()
    assert admin("fleet", "show", device, "--fields", "status").code == 0
    assert admin("fleet", "tokens", device).code == 0
    assert reveals() == before
    assert admin("fleet", "show", device, "--secrets").code == 0
    assert reveals() == before + 1


def test_create_refuses_reserved_words_and_taken_keys(admin: Cli, device: str) -> None:
    words = ["--type", "t", "--distribution", "d"]
    assert admin("fleet", "create", "register", *words).code == 2
    assert admin("fleet", "create", device, *words).code == 1


def test_a_list_narrows(admin: Cli, device: str) -> None:
    rows = admin("fleet", "list", "--filter", f"device_key={device}", "--fields", "device_key,status", "--json").json
    assert rows == [{"device_key": device, "status": "Unknown"}]
    lines = admin("fleet", "list", "-o", "ndjson", "--prefix", device).out.splitlines()
    assert [json.loads(line)["device_key"] for line in lines] == [device]
    assert admin("fleet", "list", "--filter", "device_key=none*").out == ""


def test_a_table_on_a_terminal(admin: Cli, device: str) -> None:
    admin.env |= {"COLUMNS": "200", "TERM": "xterm"}
    shown = admin("fleet", "list", "--prefix", device, terminal=True).out
    assert "DEVICE" in shown
    assert device in shown
    admin.env["NO_COLOR"] = "1"
    assert "\x1b" not in admin("fleet", "list", "--prefix", device, terminal=True).out


def test_watch_shows_again_until_interrupted(admin: Cli, device: str) -> None:
    argv = [sys.executable, "-m", "meetingctl", "fleet", "list", "--watch", "--prefix", device, "-o", "ndjson"]
    process = subprocess.Popen(argv, env=admin.environment(), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    shown = [json.loads(process.stdout.readline())["device_key"] for _ in range(2)]
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert shown == [device, device]
    assert process.returncode in {0, 130}


def test_a_tunnel_from_open_to_close(admin: Cli, device: str) -> None:
    admin("fleet", "authorize", device)
    opened = admin("tunnel", "open", device, "ssh", "--for", "10m", "--allow-from", "192.0.2.0/24", "--json").json
    assert admin("tunnel", "open", device, "ssh", "--json").json["port"] == opened["port"]
    assert admin("tunnel", "open", device, "ssh").out == f"{opened['url']}\n"
    port = str(opened["port"])
    assert admin("tunnel", "show", port, "--json").json["device_key"] == device
    assert port in [str(row["port"]) for row in admin("tunnel", "list", "--json").json]
    assert admin("tunnel", "close", port, "--dry-run").code == 0
    assert admin("tunnel", "close", port).code == 0
    assert admin("tunnel", "close", port).code == 1


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["open", "{}", "smtp"], 2),
        (["open", "{}", "relay"], 2),
        (["open", "{}", "70000"], 2),
        (["open", "{}", "ssh", "--for", "soon"], 2),
        (["open", "{}", "ssh", "--for", "0"], 2),
        (["open", "{}", "ssh", "--allow-from", "300.1.1.1"], 2),
        (["stats", "nobody"], 1),
        (["open", "{}", "ssh"], 4),
        (["close"], 2),
        (["close", "9050", "--all"], 2),
        (["close", "--all"], 2),
        (["close", "0"], 2),
        (["show", "9099"], 1),
    ],
)
def test_what_a_tunnel_command_refuses(args: list[str], code: int, admin: Cli, device: str) -> None:
    assert admin("tunnel", *(word.format(device) for word in args)).code == code


def test_keys_and_their_roles(admin: Cli, own_name: str) -> None:
    made = admin("token", "create", own_name)
    key = made.out.strip()
    assert key.startswith("mk_")
    assert key not in made.err
    viewer = Cli(admin.home, admin.env | {"MEETINGCTL_API_KEY": key})
    assert viewer("whoami", "--json").json["role"] == "viewer"
    refused = viewer("fleet", "create", "--generate", "--json")
    assert (refused.code, refused.json["error"]["code"]) == (4, "forbidden")
    assert refused.json["error"]["message"].startswith("new device: ")
    key_id = next(row["id"] for row in admin("token", "list", "--json").json if row["name"] == own_name)
    assert admin("token", "revoke", key_id).code == 2
    assert admin("token", "revoke", key_id, "--yes").code == 0
    assert viewer("whoami").code == 4


def test_a_refusal_says_what_is_wrong_and_what_to_do(admin: Cli, device: str) -> None:
    again = admin("fleet", "create", device, "--type", "t", "--distribution", "d")
    assert again.err == f"error: {device}: device already exists\n\nhint: meetingctl fleet show {device}\n"
    unauthorized = admin("tunnel", "open", device, "ssh")
    assert unauthorized.err.endswith(f"hint: meetingctl fleet authorize {device}\n")
    admin("fleet", "authorize", device)
    assert "tunnel_relay_ports" in admin("tunnel", "open", device, "7").err
    unknown = admin("fleet", "services", device, "--set", "foo")
    assert (unknown.code, "use ssh, http, vnc, scp, debug" in unknown.err) == (2, True)
    assert "hint: meetingctl token list\n" in admin("token", "revoke", "abc", "--yes").err
    assert "shorter than 1 s" in admin("token", "create", "ci3", "--expires", "0d").err


def test_open_tells_the_end_and_warns_about_an_absent_agent(admin: Cli, device: str) -> None:
    admin("fleet", "authorize", device)
    opened = admin("tunnel", "open", device, "http")
    assert re.search(r"until \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ; end it with: meetingctl tunnel close \d+\n", opened.err)
    assert "its agent is not connected" in opened.err
    assert admin("tunnel", "open", device, "http", "--json").json["online"] is False


def test_a_role_that_is_none(admin: Cli) -> None:
    assert admin("token", "create", "x", "--role", "root").code == 2
    assert admin("token", "create", "x", "--role", "operator", "--dry-run").code == 0


def test_audit_follows_a_device(admin: Cli, device: str) -> None:
    admin("fleet", "note", device, "seen")
    rows = admin("audit", "list", "--object", f"device:{device}", "--json").json
    assert {row["object"] for row in rows} == {f"device:{device}"}
    assert admin("audit", "verify").out.startswith("ok: ")


def test_a_local_port_leaves_the_others_as_they_are(admin: Cli, device: str) -> None:
    for args, ports in (
        (["--local-port", "ssh=22", "--local-port", "http=8080"], {"ssh": 22, "http": 8080}),
        (["--local-port", "http=5000"], {"ssh": 22, "http": 5000}),
        (["--local-port", "http="], {"ssh": 22}),
        (["--set", "ssh"], {"ssh": 22}),
    ):
        assert admin("fleet", "services", device, *args, "--json").json["local_ports"] == ports

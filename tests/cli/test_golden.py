"""The JSON of every command, as programs read it, compared with files.

`UPDATE_GOLDEN=1 pytest tests/cli/test_golden.py` rewrites them. What changes from run to run is replaced: times, made
secrets, ports of the system, versions, paths.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from .conftest import Server, running_server
from .runner import Cli, Result
from .test_tree import LEAVES

GOLDEN = Path(__file__).parent / "golden"
KEY_BLOB = base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes(32)).decode()

# One story against a new server; each step is one file. `{...}` is filled from earlier steps.
STORY: list[tuple[str, str, str]] = [
    ("whoami", "whoami", ""),
    ("login", "login --key-file {key_file}", ""),
    ("logout", "logout", ""),
    ("dry run", "login --key-file {key_file} --dry-run", ""),
    ("version", "version", ""),
    ("help", "help targets", ""),
    ("config get", "config get timeout_s", ""),
    ("config set", "config set timeout_s 20s", ""),
    ("config unset", "config unset timeout_s", ""),
    ("config list", "config list --origin --group server", ""),
    ("config path", "config path", ""),
    ("config check", "config check", ""),
    ("config profile add", "config profile add lab", ""),
    ("config profile list", "config profile list", ""),
    ("config profile use", "config profile use default", ""),
    ("config profile remove", "config profile remove lab --dry-run", ""),
    ("completion install", "completion install fish --dry-run", ""),
    ("completion uninstall", "completion uninstall fish", ""),
    ("fleet create", "fleet create cam-7 --type rpicam --distribution trixie --serial S-1", ""),
    ("fleet list", "fleet list", ""),
    ("fleet authorize", "fleet authorize cam-7", ""),
    ("fleet revoke", "fleet revoke cam-7 --dry-run", ""),
    ("fleet note", "fleet note cam-7 north-door", ""),
    ("fleet tokens", "fleet tokens cam-7 --set 2", ""),
    ("fleet services", "fleet services cam-7 --set ssh,http --local-port http=5000", ""),
    ("fleet heartbeat", "fleet heartbeat cam-7 --ip-lan 10.0.0.7", ""),
    ("fleet show", "fleet show cam-7", ""),
    ("fleet register", "fleet register cam-7", "{token_code}\n"),
    ("fleet rename", "fleet rename cam-7 lobby", ""),
    ("fleet tag", "fleet tag cam-7 --add indoor", ""),
    ("fleet parent", "fleet parent cam-7", ""),
    ("fleet keys add", "fleet keys add cam-7 {pubkey} --ssh-user device", ""),
    ("fleet keys list", "fleet keys list", ""),
    ("fleet keys show", "fleet keys show cam-7", ""),
    ("fleet keys rm", "fleet keys rm cam-7", ""),
    ("fleet keys log", "fleet keys log cam-7", ""),
    ("fleet keys rotate", "fleet keys rotate {pubkey} --yes", ""),
    ("fleet keys server", "fleet keys server", ""),
    ("fleet keys export-ppk", "fleet keys export-ppk cam-7 --out {new_dir} --dry-run", ""),
    ("tunnel open", "tunnel open cam-7 ssh --for 1h", ""),
    ("tunnel list", "tunnel list", ""),
    ("tunnel show", "tunnel show 9050", ""),
    ("tunnel stats", "tunnel stats", ""),
    ("tunnel close", "tunnel close 9050", ""),
    ("role list", "role list", ""),
    ("role show", "role show operator", ""),
    ("user create", "user create anna --role operator", "long enough\n"),
    ("user list", "user list", ""),
    ("user update", "user update anna --role viewer --ssh-key {pubkey}", ""),
    ("user password", "user password anna", "another one\n"),
    ("user token", "user token anna --yes", ""),
    ("user show", "user show anna", ""),
    ("user keys", "user keys", ""),
    ("user rm", "user rm anna --yes", ""),
    ("token create", "token create ci --role operator --expires 90d", ""),
    ("token list", "token list", ""),
    ("token revoke", "token revoke {key_id} --yes", ""),
    ("audit list", "audit list --limit 2", ""),
    ("audit export", "audit export --out {key_file}.jsonl", ""),
    ("audit verify", "audit verify", ""),
    ("fleet publish", "fleet publish {archive} --type rpicam --distribution trixie --release-version 1.0", ""),
    ("fleet releases list", "fleet releases list", ""),
    ("fleet releases show", "fleet releases show rpicam/trixie/1.0", ""),
    ("fleet releases verify", "fleet releases verify --all", ""),
    ("fleet releases notes", "fleet releases notes rpicam/trixie/1.0", ""),
    ("fleet releases download", "fleet releases download rpicam/trixie/1.0 --out {archive}.copy", ""),
    ("fleet channels set", "fleet channels set rpicam/trixie 1.0", ""),
    ("fleet channels list", "fleet channels list", ""),
    ("fleet updates", "fleet updates", ""),
    ("fleet history", "fleet history", ""),
    ("fleet rollout start", "fleet rollout start rpicam/trixie/1.0", ""),
    ("fleet rollout status", "fleet rollout status 1 --fields id,channel,version,previous_version,plan", ""),
    ("fleet rollout list", "fleet rollout list --fields id,channel,version,waves", ""),
    ("fleet rollout pause", "fleet rollout pause 1 --dry-run", ""),
    ("fleet rollout resume", "fleet rollout resume 1 --dry-run", ""),
    ("fleet rollout abort", "fleet rollout abort 1 --dry-run", ""),
    ("fleet channels rm", "fleet channels rm rpicam/trixie --dry-run", ""),
    ("fleet types create", "fleet types create rpicam --prefix CAM --services ssh,http --distribution trixie", ""),
    ("fleet types list", "fleet types list", ""),
    ("fleet types show", "fleet types show rpicam", ""),
    ("fleet types update", "fleet types update rpicam --tags indoor", ""),
    ("fleet types icon", "fleet types icon rpicam {icon}", ""),
    ("fleet types fork", "fleet types fork rpicam rpicam-next --prefix NEXT", ""),
    ("fleet types merge", "fleet types merge rpicam-next --yes", ""),
    ("fleet types rm", "fleet types rm rpicam --dry-run", ""),
    ("fleet distributions create", "fleet distributions create rpicam/trixie", ""),
    ("fleet distributions list", "fleet distributions list", ""),
    ("fleet distributions put", "fleet distributions put cam-7 {distrib_json}", ""),
    ("fleet distributions get", "fleet distributions get cam-7", ""),
    ("fleet files upload", "fleet files upload rpicam/trixie {archive}", ""),
    ("fleet files list", "fleet files list cam-7", ""),
    ("fleet distributions show", "fleet distributions show cam-7", ""),
    ("fleet files rm", "fleet files rm rpicam/trixie app.tar.gz --yes", ""),
    ("fleet events", "fleet events --device cam-7 -n 1 --fields source,subject,by,result", ""),
    ("fleet webhooks add", "fleet webhooks add https://hooks.example.invalid/in --event device.offline", ""),
    ("fleet webhooks list", "fleet webhooks list", ""),
    ("fleet webhooks show", "fleet webhooks show 1", ""),
    ("fleet webhooks update", "fleet webhooks update 1 --off", ""),
    ("fleet webhooks ping", "fleet webhooks ping 1 --dry-run", ""),
    ("fleet webhooks deliveries", "fleet webhooks deliveries 1", ""),
    ("fleet webhooks redeliver", "fleet webhooks redeliver 1 1 --dry-run", ""),
    ("fleet webhooks rm", "fleet webhooks rm 1 --yes", ""),
    ("builder start", "builder start rpicam/trixie --version 2.0", ""),
    ("builder upload", "builder upload {build} {archive}", ""),
    ("builder manifest", "builder manifest {build}", ""),
    ("builder package", "builder package {build} --wait", ""),
    ("builder status", "builder status {job}", ""),
    ("builder download", "builder download {job} --out {archive}.built", ""),
    ("builder cancel", "builder cancel {job} --dry-run", ""),
    ("builder commit", "builder commit {job} --notes built", ""),
    ("builder history", "builder history rpicam/trixie --fields version,action,notes", ""),
    ("builder duplicate", "builder duplicate rpicam/trixie/2.0 2.1", ""),
    ("builder rollback", "builder rollback rpicam/trixie/2.0 --dry-run", ""),
    ("fleet remove", "fleet remove cam-7 --yes", ""),
    ("db status", "db status --data {data_dir}", ""),
    ("db migrate", "db migrate --data {new_dir}", ""),
    ("db backup", "db backup {new_dir}/copy.tar --data {new_dir}", ""),
    ("db restore", "db restore {new_dir}/copy.tar --data {new_dir}/again", ""),
    ("db copy", "db copy {new_dir}/meetingctl.db {new_dir}/second.db", ""),
    ("db check", "db check --data {new_dir}", ""),
    ("db query", "db query 'select device_key from devices' --data {new_dir}", ""),
    ("db import-mysql", "db import-mysql {dump} --data {new_dir}", ""),
    ("failure", "fleet show nobody", ""),
]

# Daemons, texts that other files hold, and commands whose own area tests their JSON.
ELSEWHERE = {
    "builder bundle",
    "doctor",
    "fleet rollout drive",
    "serve api",
    "serve all",
    "serve tunnel",
    "serve unit",
    "tunnel agent",
    "completion show",
    "demo",
}
ELSEWHERE_NOUNS = {"remote", "device"}

SCRUB = [
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"), "TIME"),
    (re.compile(r"mk_[0-9a-f]+_[\w-]+"), "API_KEY"),
    (re.compile(r"whsec_[\w-]+"), "WEBHOOK_SECRET"),
    (re.compile(r"http://127\.0\.0\.1:\d+"), "SERVER"),
]
MADE = {"token_code", "ap_password", "http_pw_low", "http_pw_medium", "http_pw_high", "device_token", "token"}
VARIES = {"id", "python", "sqlite", "platform", "size_bytes", "request_id", "engine", "revision", "newest_revision"}
VARIES |= {"after", "rows", "text", "version", "checksum"}


def scrub(value: Any, folders: dict[str, str], key: str = "") -> Any:
    """Replace what differs between two runs."""
    if key == "rows":
        return "<rows>"
    if isinstance(value, dict):
        return {name: scrub(item, folders, name) for name, item in value.items()}
    if isinstance(value, list):
        return [scrub(item, folders) for item in value]
    if key in MADE | VARIES and value is not None and not isinstance(value, bool):
        return f"<{key}>"
    if isinstance(value, str):
        for pattern, name in SCRUB:
            value = pattern.sub(name, value)
        for folder, name in folders.items():
            value = value.replace(folder, name)
    return value


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Result, Any]]:
    """Tell the story once; return each step's result and its scrubbed JSON."""
    folder = tmp_path_factory.mktemp("story")
    with running_server(tmp_path_factory.mktemp("server")) as server:
        return dict(_tell(folder, server))


def _tell(folder: Path, server: Server):
    (folder / "home").mkdir()
    cli = Cli(folder / "home", {"MEETINGCTL_SERVER_URL": server.url, "MEETINGCTL_API_KEY": server.admin_key})
    (folder / "key").write_text(server.admin_key)
    (folder / "app.tar.gz").write_bytes(b"archive")
    (folder / "icon.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(20))
    (folder / "distrib.json").write_text('{"files": ["app.tar.gz"]}')
    known: dict[str, Any] = {"archive": folder / "app.tar.gz", "icon": folder / "icon.png"}
    (folder / "id.pub").write_text(f"ssh-ed25519 {KEY_BLOB} test\n")
    known["pubkey"] = folder / "id.pub"
    known["distrib_json"] = folder / "distrib.json"
    known["dump"] = folder / "meeting.sql"
    known["dump"].write_text("INSERT INTO devices (device_key, token_code) VALUES ('cam-9', '3FA9C1'), ('no key', '');")
    known |= {"key_file": folder / "key", "data_dir": server.data_dir, "new_dir": folder / "new"}
    folders = {str(folder / "home"): "HOME", str(folder): "FOLDER", str(server.data_dir): "DATA"}
    for name, line, stdin in STORY:
        result = cli(*shlex.split(line.format(**known)), "--json", stdin=stdin.format(**known))
        try:
            value = result.json
        except ValueError:
            value = {"not JSON": result.out, "stderr": result.err}
        if name == "fleet create":
            known["token_code"] = value.get("token_code")
        if name == "builder start":
            known["build"] = value["build_id"]
            folders[value["build_id"]] = "BUILD"
        if name == "builder package":
            known["job"] = value["job_id"]
            folders[value["job_id"]] = "JOB"
            folders[str(value["sha256"])] = "SHA256"
        if name == "token create":
            known["key_id"] = value["id"]
            folders[value["id"]] = "KEY_ID"
        yield name, (result, scrub(value, folders))


@pytest.mark.parametrize("name", [name for name, _, _ in STORY])
def test_json_is_as_it_was(name: str, told: dict[str, tuple[Result, Any]]) -> None:
    result, value = told[name]
    assert result.code == (1 if name == "failure" else 0), result
    path = GOLDEN / f"{name.replace(' ', '-')}.json"
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    if os.environ.get("UPDATE_GOLDEN") == "1":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_every_command_has_its_json_here() -> None:
    told_here = {name for name, _, _ in STORY}
    missing = {path for path in LEAVES if path not in told_here | ELSEWHERE and path.split()[0] not in ELSEWHERE_NOUNS}
    assert missing == set()


def test_no_golden_file_is_left_over() -> None:
    assert {path.stem for path in GOLDEN.glob("*.json")} == {name.replace(" ", "-") for name, _, _ in STORY}

"""The original's tables, from a dump that MariaDB wrote, in our database; and the server that then runs on it."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from planes import Fleet, Live, MakeFleet

from meetingctl.core.clock import wire_text
from meetingctl.core.errors import Conflict, InvalidInput, NotFound
from meetingctl.core.settings import Settings
from meetingctl.server.db import admin, mysql_import
from meetingctl.server.db.mysql_import import import_dump
from meetingctl.server.db.schema import users

DUMP = Path(__file__).parent / "meeting-dump.sql"
KEY = "A0B1C2D3E4F5A6B7C8D9E0F1A2B3C4D5"
TOKEN = "legacy-builder-token-of-alice-0001"
COUNTS = {  # read, taken, skipped
    "devices": (5, 3, 2),
    "device_types": (4, 2, 2),
    "update_channels": (3, 2, 1),
    "device_keys": (4, 2, 2),
    "tunnel_ports": (7, 2, 5),
    "connection_logs": (5, 3, 2),
    "builder_users": (3, 2, 1),
}


def settings_of(url: sa.URL) -> Settings:
    return Settings(db_url=url.render_as_string(hide_password=False))


def counts(report: dict[str, Any], *names: str) -> dict[str, tuple[int, ...]]:
    return {row["table"]: tuple(row[name] for name in names) for row in report["tables"]}


def rows(url: sa.URL) -> dict[str, int]:
    found: dict[str, int] = admin.status(settings_of(url), Path())["rows"]
    return found


def write_dump(folder: Path, *statements: str) -> Path:
    path = folder / "dump.sql"
    path.write_text("\n".join(statements))
    return path


def test_a_dump_is_taken_once(any_url: sa.URL, tmp_path: Path) -> None:
    settings, before = settings_of(any_url), rows(any_url)
    planned = import_dump(settings, tmp_path, DUMP, dry_run=True)
    assert rows(any_url) == before, "a dry run changes nothing"
    done = import_dump(settings, tmp_path, DUMP)
    assert done == planned
    assert counts(done, "read", "taken", "skipped") == COUNTS
    assert done["other_tables"] == {"audit_things": 2}
    after = rows(any_url)
    assert (after["devices"], after["connection_logs"], after["device_keys"], after["users"]) == (3, 3, 2, 2)
    again = import_dump(settings, tmp_path, DUMP)
    assert counts(again, "taken") == dict.fromkeys(COUNTS, (0,))
    assert counts(again, "there") == {name: (taken,) for name, (_, taken, _) in COUNTS.items()}
    assert rows(any_url) | {"audit": 0} == after | {"audit": 0}
    assert admin.check(settings, tmp_path)["problems"] == []


def test_the_report_says_what_was_left_out_and_tells_no_secret(sqlite_url: sa.URL, tmp_path: Path) -> None:
    report = import_dump(settings_of(sqlite_url), tmp_path, DUMP)
    told = {(each["table"], each["row"]): each["what"] for each in report["details"]}
    assert told["devices", "register"] == "skipped: not a device key, or a reserved word"
    assert told["devices", "cam-2"] == "unknown services left out: nonsense"
    assert told["connection_logs", "gone"] == "skipped: its device is not here"
    assert told["builder_users", "bob"] == "role builder is not one of ours: it became user"
    assert ("builder_users", "alice") not in told, "all of her account was taken"
    assert ("tunnel_ports", "9053") not in told, "a free port is no news"
    for secret in (TOKEN, "3fa9c1", "ap-secret-1", "$2y$"):
        assert secret not in str(report)
    audited = admin.query(settings_of(sqlite_url), tmp_path, "SELECT * FROM audit")
    assert [row["action"] for row in audited][-1] == "db.import"
    assert TOKEN not in str(audited)


def test_the_server_goes_on_where_the_original_was(any_url: sa.URL, tmp_path: Path) -> None:
    import_dump(settings_of(any_url), tmp_path, DUMP)
    fleet = Fleet(any_url, tmp_path, mode="enforce")
    try:
        shown = fleet.call("GET", f"/api/devices/{KEY}", key=fleet.admin).json()
        assert shown["device_name"] == "Caméra d'entrée; (nord)"
        assert shown["note"] == 'line one\nline "two"\\ end; INSERT INTO devices VALUES (1)'
        assert (shown["authorized"], shown["token_count"], shown["services"]) == (True, 2, ["ssh", "http"])
        assert (shown["registered_at"], shown["last_seen"]) == ("2025-02-03 04:05:06", "2025-03-04 05:06:07")
        assert (shown["ip_address"], shown["mac"], shown["bundles"]) == (
            "198.51.100.7",
            "b8:27:eb:01:02:03",
            ["core", "av"],
        )
        assert (shown["token_code"], shown["ap_password"], shown["http_pw_high"]) == ("3FA9C1", "ap-secret-1", "high1")
        child = fleet.call("GET", "/api/devices/cam-2", key=fleet.admin).json()
        assert (child["parent_device_key"], child["authorized"], child["services"]) == (KEY, False, ["ssh", "vnc"])
        assert fleet.call("GET", "/api/devices/cam-3", key=fleet.admin).json()["device_name"] == "日本 🎥"

        # The device's own code, and the token of a person, work as they did.
        assert fleet.call("POST", f"/api/devices/{KEY}/online", code="3fa9c1").status_code == 200
        assert fleet.call("POST", f"/api/devices/{KEY}/online", code="000000").status_code == 401
        user = fleet.call("GET", "/api/builder/whoami", key=TOKEN)
        assert (user.status_code, user.json()["user"]["username"]) == (200, "alice")
        assert fleet.call("GET", "/api/builder/whoami", key="t").status_code == 401

        # So does a person's password, once kept the way the original did and from then on in ours.
        for number, password in enumerate(("wrong horse", "correct horse", "correct horse")):
            body = {"username": "alice", "password": password}
            login = fleet.call("POST", "/api/auth/login", json=body)
            assert login.status_code == (401 if number == 0 else 200), login.text
        (stored,) = fleet.rows(sa.select(users.c.password_hash).where(users.c.username == "alice"))
        assert stored["password_hash"].startswith("$argon2id$")

        tunnels = fleet.call("GET", "/api/tunnels", key=fleet.admin).json()["tunnels"]
        assert {(t["port"], t["device_key"], t["service"], t["expires_at"]) for t in tunnels} == {
            (9050, "cam-2", "ssh", None),
            (9051, KEY, "http", "2099-01-01 00:00:00"),
        }
        key = fleet.call("GET", f"/api/devices/{KEY}/ssh-key", key=fleet.admin).json()
        assert (key["status"], key["ssh_user"], key["last_ssh"]) == ("authorized", "device", "2025-03-01 00:00:00")
        assert key["fingerprint"].startswith("SHA256:")
        assert fleet.call("GET", "/api/devices/cam-2/ssh-key", key=fleet.admin).json()["status"] == "revoked"
        logs = fleet.call("GET", "/api/devices/cam-2/logs", key=fleet.admin).json()
        assert [(line["timestamp"], line["event"]) for line in logs] == [("2025-03-04 05:06:08", "disconnect")]
        types = fleet.call("GET", "/api/device-types", key=fleet.admin).json()["device_types"]
        by_name = {each["name"]: each for each in types}
        assert by_name["rpicam-pro"]["parent_id"] == by_name["rpicam"]["id"]
        assert by_name["rpicam"]["tags"] == ["camera", "indoor"]
        channels = fleet.call("GET", "/api/admin/update-channels", key=fleet.admin).json()["items"]
        assert {(c["channel"], c["target_version"], bool(c["active"])) for c in channels} == {
            ("default", "1.2.3", True),
            ("beta", "1.3.0-rc1", False),
        }
        created = fleet.call("GET", "/api/users", key=fleet.admin).json()["users"]
        assert {(u["username"], u["role"], u["authorized"], u["created_at"]) for u in created} == {
            ("alice", "admin", 1, "2024-05-06 07:08:09"),
            ("bob", "user", 0, "2024-05-06 07:08:10"),
        }
    finally:
        fleet.close()


@pytest.mark.parametrize(
    "stored", ["", "5f4dcc3b5aa765d61d8327deb882cf99", f"$2y$31${'a' * 53}", "$1$x$y", "$2y$10$short"]
)
def test_a_password_that_cannot_be_checked_is_left_out(stored: str, sqlite_url: sa.URL, tmp_path: Path) -> None:
    insert = (
        f"INSERT INTO builder_users (username, password, token) VALUES ('carol','{stored}','a-token-that-is-long');"
    )
    report = import_dump(settings_of(sqlite_url), tmp_path, write_dump(tmp_path, insert))
    told = [each["what"] for each in report["details"]]
    assert told == (["its password cannot be checked here: set a new one"] if stored else [])
    found = admin.query(settings_of(sqlite_url), tmp_path, "SELECT username, password_hash FROM users")
    assert found == [{"username": "carol", "password_hash": None}]


def test_a_later_dump_adds_what_is_new_and_changes_nothing(make_fleet: MakeFleet, tmp_path: Path) -> None:
    fleet = make_fleet()
    settings = settings_of(fleet.url)
    fleet.device("cam-2", note="ours")
    log = "INSERT INTO connection_logs (device_key, timestamp, event, host, remote) VALUES "
    first = write_dump(
        tmp_path,
        "INSERT INTO devices (device_key, token_code, note) VALUES ('cam-2','AAAAAA','theirs'),('cam-9','BBBBBB','');",
        log + "('cam-9','2025-01-01 00:00:00','a','',''),('cam-9','2025-01-01 00:00:00','a','','');",
    )
    assert counts(import_dump(settings, tmp_path, first), "taken", "there")["devices"] == (1, 1)
    assert fleet.call("GET", "/api/devices/cam-2/note", key=fleet.admin).json() == {"note": "ours"}
    second = write_dump(
        tmp_path,
        "INSERT INTO devices (id, device_key, token_code) VALUES (1,'CAM-9','CCCCCC'),(7,'cam-10','DDDDDD');",
        log + "('cam-9','2025-01-01 00:00:00','a','',''),('cam-9','2025-01-01 00:00:00','a','',''),"
        "('cam-9','2025-01-01 00:00:00','b','','');",
        "INSERT INTO connection_logs (device_id, created_at, action) VALUES (7,'2025-01-02 00:00:00','by number');",
    )
    report = import_dump(settings, tmp_path, second)
    assert counts(report, "taken", "there", "skipped")["devices"] == (1, 0, 1)
    assert counts(report, "taken", "there")["connection_logs"] == (2, 2)
    assert "differs only in case from cam-9" in str(report["details"])
    lines = fleet.call("GET", "/api/devices/cam-9/logs", key=fleet.admin).json()
    assert sorted(line["event"] for line in lines) == ["a", "a", "b"]
    assert fleet.call("GET", "/api/devices/cam-10/logs", key=fleet.admin).json()[0]["event"] == "by number"


def test_parents_never_make_a_circle(sqlite_url: sa.URL, tmp_path: Path) -> None:
    dump = write_dump(
        tmp_path,
        "INSERT INTO devices (device_key, token_code, parent_device_key) VALUES "
        "('a','AAAAAA','b'),('b','BBBBBB','c'),('c','CCCCCC','a'),('d','DDDDDD','d');",
    )
    report = import_dump(settings_of(sqlite_url), tmp_path, dump)
    left_out = [each["row"] for each in report["details"] if "parent" in each["what"]]
    assert left_out == ["c", "d"]


def test_many_lines_are_taken_and_found_again(any_url: sa.URL, tmp_path: Path) -> None:
    lines = ",".join(f"('cam-1','{wire_text(1_700_000_000_000 + n * 500)}','e{n % 7}','h','r')" for n in range(1800))
    dump = write_dump(
        tmp_path,
        "INSERT INTO devices (device_key, token_code) VALUES ('cam-1','AAAAAA');",
        f"INSERT INTO connection_logs (device_key, timestamp, event, host, remote) VALUES {lines};",
    )
    packed = tmp_path / "dump.sql.gz"
    packed.write_bytes(gzip.compress(dump.read_bytes()))
    first = import_dump(settings_of(any_url), tmp_path, packed)
    assert counts(first, "taken", "there")["connection_logs"] == (1800, 0)
    again = import_dump(settings_of(any_url), tmp_path, dump)
    assert counts(again, "taken", "there")["connection_logs"] == (0, 1800)


def test_the_list_of_what_was_left_out_has_an_end(
    sqlite_url: sa.URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mysql_import, "MOST_DETAILS", 3)
    bad = ",".join(f"('bad key {number}')" for number in range(10))
    report = import_dump(
        settings_of(sqlite_url), tmp_path, write_dump(tmp_path, f"INSERT INTO devices (device_key) VALUES {bad};")
    )
    assert (len(report["details"]), report["more_details"]) == (3, 7)


def test_what_breaks_off_leaves_nothing(any_url: sa.URL, tmp_path: Path) -> None:
    before = rows(any_url)
    whole = DUMP.read_text()
    cut = write_dump(tmp_path, whole[: whole.index("(9055,")])
    with pytest.raises(InvalidInput, match=r"at byte \d+"):
        import_dump(settings_of(any_url), tmp_path, cut)
    packed = tmp_path / "cut.sql.gz"
    packed.write_bytes(gzip.compress(DUMP.read_bytes())[:-200])
    with pytest.raises(InvalidInput, match="is not whole"):
        import_dump(settings_of(any_url), tmp_path, packed)
    assert rows(any_url) == before


def test_what_cannot_be_imported(sqlite_url: sa.URL, tmp_path: Path) -> None:
    settings = settings_of(sqlite_url)
    with pytest.raises(NotFound, match="cannot read"):
        import_dump(settings, tmp_path, tmp_path / "missing.sql")
    for content in ("", "hello", "CREATE TABLE x (a int);"):
        with pytest.raises(InvalidInput, match="no table of Meeting"):
            import_dump(settings, tmp_path, write_dump(tmp_path, content))
    with pytest.raises(NotFound) as caught:
        import_dump(Settings(), tmp_path / "nothing", DUMP)
    assert "no database" in caught.value.message
    assert not (tmp_path / "nothing").exists()


def test_a_server_on_the_same_file_is_not_disturbed(tmp_path: Path) -> None:
    with Live(tmp_path), pytest.raises(Conflict, match="another server"):
        import_dump(Settings(), tmp_path, DUMP)

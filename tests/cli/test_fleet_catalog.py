"""Device types, distributions and files against a real server."""

from __future__ import annotations

from pathlib import Path

import pytest

from .runner import Cli

PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)


@pytest.fixture
def name(admin: Cli, own_name: str) -> str:
    """Create a device type that only this test uses."""
    assert admin("fleet", "types", "create", own_name, "--prefix", "CAM", "--services", "ssh,http").code == 0
    return own_name


@pytest.fixture
def place(admin: Cli, name: str) -> str:
    """Make a distribution, and a device `dev-NAME` that has it."""
    assert admin("fleet", "distributions", "create", f"{name}/d1").code == 0
    assert admin("fleet", "create", f"dev-{name}", "--type", name, "--distribution", "d1").code == 0
    return f"{name}/d1"


def test_a_type_is_made_changed_and_removed(admin: Cli, name: str) -> None:
    made = admin("fleet", "types", "show", name.upper(), "--json").json
    assert (made["serial_prefix"], made["services_default"]) == ("CAM", ["ssh", "http"])
    assert admin("fleet", "types", "show", str(made["id"]), "--json").json == made
    changed = admin("fleet", "types", "update", name, "--tags", "a, b", "--status", "inactive", "--json").json
    assert (changed["tags"], changed["status"], changed["serial_prefix"]) == (["a", "b"], "inactive", "CAM")
    assert admin("fleet", "types", "update", name).code == 2
    again = admin("fleet", "types", "create", name, "--prefix", "CAM", "--json")
    assert (again.code, again.json["error"]["code"]) == (1, "conflict")
    assert admin("fleet", "types", "rm", name).code == 2
    assert admin("fleet", "types", "rm", name, "--yes").out == f"deleted {name}\n"
    gone = admin("fleet", "types", "show", name)
    assert (gone.code, "meetingctl fleet types list" in gone.err) == (1, True)


def test_a_fork_is_merged_into_its_parent(admin: Cli, name: str) -> None:
    assert admin("fleet", "types", "merge", name, "--yes").code == 2
    fork = admin("fleet", "types", "fork", name, f"{name}-f", "--prefix", "NEXT", "--json").json
    assert fork["parent_id"] == admin("fleet", "types", "show", name, "--json").json["id"]
    assert admin("fleet", "types", "merge", f"{name}-f", "--yes").code == 0
    assert admin("fleet", "types", "show", name, "--json").json["serial_prefix"] == "NEXT"
    assert admin("fleet", "types", "show", f"{name}-f").code == 1


def test_an_icon_is_set_and_fetched(admin: Cli, name: str, tmp_path: Path) -> None:
    icon, copy = tmp_path / "a.png", tmp_path / "b.png"
    icon.write_bytes(PNG)
    assert admin("fleet", "types", "icon", name, "--out", str(copy)).code == 1
    assert admin("fleet", "types", "icon", name, str(icon)).code == 0
    assert admin("fleet", "types", "icon", name, "--out", str(copy)).code == 0
    assert copy.read_bytes() == PNG
    icon.write_text("<svg/>")
    assert admin("fleet", "types", "icon", name, str(icon)).code != 0
    assert admin("fleet", "types", "icon", name).code == 2


def test_files_are_uploaded_listed_and_removed(admin: Cli, name: str, place: str, tmp_path: Path) -> None:
    big, small = tmp_path / "big.bin", tmp_path / "small.bin"
    big.write_bytes(bytes(3_000_000))
    small.write_bytes(b"")
    sent = admin("fleet", "files", "upload", place, str(big), str(small), str(tmp_path / "none"))
    assert sent.code == 3
    assert "sending big.bin, 3000000 bytes\n" in sent.err
    rows = admin("fleet", "files", "list", f"dev-{name}", "--json").json
    assert [row["file"] for row in rows] == ["big.bin", "small.bin"]
    assert admin("fleet", "distributions", "show", f"dev-{name}", "--json").json["files"] == ["big.bin", "small.bin"]
    assert admin("fleet", "files", "rm", place, "big.bin").code == 2
    assert admin("fleet", "files", "rm", place, "big.bin", "--yes").code == 0
    assert admin("fleet", "files", "rm", place, "big.bin", "--yes").code == 1
    assert [row["file"] for row in admin("fleet", "files", "list", f"dev-{name}", "--json").json] == ["small.bin"]


def test_progress_is_a_bar_on_a_terminal_and_nothing_in_json(admin: Cli, place: str, tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(bytes(1_000_000))
    bar = admin("fleet", "files", "upload", place, str(file), terminal=True).err
    assert bar.count("\r[") > 2
    assert "[####################] 100 % a.bin\n" in bar
    assert admin("fleet", "files", "upload", place, str(file), "--json").err == ""
    assert admin("fleet", "files", "upload", place, str(file), "--quiet", terminal=True).err == ""


def test_distrib_json_goes_there_and_back(admin: Cli, name: str, place: str, tmp_path: Path) -> None:
    file, copy = tmp_path / "in.json", tmp_path / "out.json"
    file.write_text('{"a": [1, "ü"]}')
    missing = admin("fleet", "distributions", "get", f"dev-{name}")
    assert missing.code == 1
    assert missing.err.startswith(f"error: dev-{name}: distrib.json not found")
    assert missing.err.endswith(f"hint: meetingctl fleet distributions put dev-{name} FILE\n")
    assert admin("fleet", "distributions", "put", f"dev-{name}", str(file), "--dry-run").code == 0
    assert admin("fleet", "distributions", "get", f"dev-{name}").code == 1
    assert admin("fleet", "distributions", "put", f"dev-{name}", str(file)).out == f"{place}\n"
    assert admin("fleet", "distributions", "get", f"dev-{name}", "--json").json == {"a": [1, "ü"]}
    assert admin("fleet", "distributions", "get", f"dev-{name}", "--out", str(copy)).code == 0
    assert copy.read_bytes() == admin("fleet", "distributions", "get", f"dev-{name}").out.rstrip("\n").encode()
    file.write_text("{")
    assert admin("fleet", "distributions", "put", f"dev-{name}", str(file)).code == 2


def test_a_distribution_makes_the_folder_of_its_type(admin: Cli, name: str, place: str) -> None:
    assert {"device_type": name, "distribution": "d1"} in admin("fleet", "distributions", "list", "--json").json
    assert admin("fleet", "distributions", "list", name).out == f"{name}\td1\n"
    assert admin("fleet", "distributions", "create", place).code == 1
    assert admin("fleet", "distributions", "create", f"{name}/d2").code == 0
    for bad in ("x", "a/b/c", "/d"):
        assert admin("fleet", "distributions", "create", bad).code == 2


@pytest.mark.parametrize(
    "line",
    [
        "types create {name}-x --prefix A",
        "types update {name} --prefix OTHER",
        "types fork {name} {name}-x --prefix A",
        "types icon {name} {file}",
        "types rm {name}",
        "distributions create {name}/d2",
        "files upload {name}/d1 {file}",
        "files rm {name}/d1 kept.png",
    ],
)
def test_a_dry_run_changes_nothing(line: str, admin: Cli, own_name: str, tmp_path: Path) -> None:
    name = own_name
    file = tmp_path / "kept.png"
    file.write_bytes(PNG)
    assert admin("fleet", "types", "create", name, "--prefix", "CAM").code == 0
    assert admin("fleet", "distributions", "create", f"{name}/d1").code == 0
    assert admin("fleet", "create", name, "--type", name, "--distribution", "d1").code == 0
    if "rm" in line:
        assert admin("fleet", "files", "upload", f"{name}/d1", str(file)).code == 0

    def state() -> list[object]:
        looks = (["types", "list"], ["distributions", "list", name], ["files", "list", name])
        return [admin("fleet", *look, "--json").json for look in looks]

    before = state()
    told = admin("fleet", *line.format(name=name, file=file).split(), "--dry-run")
    assert told.code == 0, told
    assert "would" in told.out + told.err
    assert state() == before

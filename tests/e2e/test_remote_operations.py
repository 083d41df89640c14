"""The everyday commands through the tunnel and an agent, against OpenSSH's server."""

import json
from unittest.mock import ANY

import pytest

pytestmark = pytest.mark.real


def operate(world, *args, code=0):
    words = ("remote", *args, "-i", str(world.sshd.identity), "--user", world.sshd.user, "--via", "tunnel", "--json")
    done = world.operator.run(*words)
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_files_and_configuration_go_through_the_tunnel(world, tmp_path):
    web, there = tmp_path / "web", tmp_path / "there"
    (web / "static").mkdir(parents=True)
    (web / "app.py").write_text("print(1)\n")
    (web / "static/big").write_bytes(bytes(range(256)) * 8192)
    first, second = (operate(world, "deploy", world.key, f"{web}/", "--to", str(there))[0] for _ in range(2))
    assert (first["changed"], second["changed"], first["route"]["way"]) == (True, False, "tunnel")
    assert (there / "static/big").read_bytes() == (web / "static/big").read_bytes()
    copied = operate(world, "copy", f"{world.key}:{there}", str(tmp_path / "back"))
    assert copied["size_bytes"] == 9 + 256 * 8192
    assert (tmp_path / "back/app.py").read_text() == "print(1)\n"
    config = tmp_path / "config.env"
    config.write_text("# kept\nVIDEOIN_FPS=15\n")
    changed = operate(world, "config", "set", world.key, "VIDEOIN_FPS", "20", "--file", str(config))
    assert changed[0]["changed"] is True
    assert config.read_text().startswith("# kept\nVIDEOIN_FPS=20\n")


def test_facts_logs_and_checks_of_a_device_of_the_fleet(world, tmp_path):
    facts = operate(world, "facts", world.key, "--only", "system")[0]["facts"]["system"]
    assert facts["uptime_s"] > 0
    archive = operate(world, "collect", world.key, "--out", str(tmp_path))[0]
    assert (tmp_path / archive["file"]).stat().st_size == archive["size_bytes"]
    assert world.operator.run("fleet", "heartbeat", world.key).returncode == 0
    checks = operate(world, "smoke", world.key, "--only", "clock,agent,heartbeat")[0]["checks"]
    assert [row["ok"] for row in checks] == [True, True, True], checks
    rtsp = operate(world, "smoke", world.key, "--only", "rtsp", code=1)[0]
    assert rtsp["checks"][0]["ok"] is False


def test_a_device_is_looked_at_before_an_installation(world, tmp_path):
    looked = operate(world, "install", world.key, "--check-only")
    assert (looked["route"]["way"], looked["device"]["arch"], looked["obstacles"]) == ("tunnel", ANY, ANY)
    assert looked["device"]["uptime_s"] > 0
    assert (looked["steps"], looked["changed"], looked["log"]) == ([], False, None)

"""What the everyday commands share: a device that hangs, a change that does not end, a device that lacks something."""

from __future__ import annotations

from pathlib import Path

from .machine import reports_of


def test_a_device_that_hangs_ends_at_its_deadline(here, camera, second_camera, machine):
    machine.unit("rtsp-recorder")
    machine.program("systemctl", "sleep 60")
    targets = (camera.target, second_camera.target)
    words = ("remote", "services", "list", *targets, "-i", str(camera.identity), "--deadline", "3s", "--json")
    done = here(*words)
    reports = reports_of(done.out)
    assert done.code != 0
    assert len(reports) == 2
    assert all("within 3 s" in report["error"]["message"] for report in reports)


def test_a_device_whose_far_side_hangs_keeps_its_file(here, camera, machine, tmp_path):
    config = tmp_path / "config.env"
    config.write_text("VIDEOIN_FPS=15\n")
    machine.program("python3", "sleep 60")
    words = ("remote", "config", "set", camera.target, "VIDEOIN_FPS", "20", "--file", str(config))
    done = here(*words, "-i", str(camera.identity), "--deadline", "3s")
    assert done.code != 0
    assert "within 3 s" in done.err
    assert config.read_text() == "VIDEOIN_FPS=15\n"
    folders = [call.removeprefix("staged ") for call in machine.calls if call.startswith("staged ")]
    assert not any(Path(folder).exists() for folder in folders)


def test_a_device_without_python_says_so(here, camera, machine, tmp_path):
    machine.program("python3", "echo 'sh: python3: not found' >&2; exit 127")
    (tmp_path / "x").write_text("x")
    words = ("remote", "deploy", camera.target, str(tmp_path / "x"), "--to", str(tmp_path / "to"))
    done = here(*words, "-i", str(camera.identity))
    assert (done.code, "python3 is not installed there" in done.err) == (1, True), done.err
    machine.program("python3", "echo nonsense")
    garbled = here(*words, "-i", str(camera.identity))
    assert (garbled.code, "makes sense" in garbled.err) == (1, True)

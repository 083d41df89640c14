from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meetingctl.core import layout
from meetingctl.core.errors import InvalidInput

PATHS = {name: value for name, value in vars(layout).items() if isinstance(value, str) and value.startswith("/")}


@pytest.mark.parametrize("name", sorted(PATHS))
def test_every_path_lies_below_the_root(name: str, tmp_path: Path) -> None:
    assert layout.below(tmp_path, PATHS[name]) == tmp_path / PATHS[name].lstrip("/")


def test_the_real_root_changes_nothing() -> None:
    assert layout.below(Path("/"), layout.CONFIG_ENV) == Path("/etc/rpi-cam/config.env")


@pytest.mark.parametrize("bad", ["etc/x", "", "../x", "/etc/../x", "/..", "/a\0b"])
def test_relative_and_climbing_paths_are_refused(bad: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        layout.below(tmp_path, bad)


def test_a_link_that_leaves_the_root_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "etc").symlink_to(tmp_path)
    with pytest.raises(InvalidInput, match="symbolic link"):
        layout.below(root, "/etc/x")


@given(st.text(max_size=40))
def test_no_text_escapes(text: str) -> None:
    root = Path("/nowhere/root")
    try:
        path = layout.below(root, text)
    except InvalidInput:
        return
    assert path.is_relative_to(root)


def test_units_and_their_files() -> None:
    assert len(set(layout.UNITS)) == 7
    assert layout.unit_file_path(layout.STREAM_UNIT) == "/etc/systemd/system/rpi-av-rtsp-recorder.service"
    assert layout.thumbnail_path("rec_1") == "/var/cache/rpi-cam/thumbnails/rec_1.jpg"

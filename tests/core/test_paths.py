import os
import pwd
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meetingctl.core.errors import InvalidInput, MeetingctlError, TooLarge
from meetingctl.core.paths import (
    NO_HOME,
    default_data_dir,
    home_of,
    read_small_text,
    safe_join,
    sync_folder,
    user_config_dir,
    write_atomic,
)

_NASTY = [
    "..",
    ".",
    "",
    "a/b",
    "/etc",
    "%2e%2e",
    "..%2f",
    "%252e",
    "a\\b",
    "a\0",
    "x" * 300,
    "a.",
    "аdmin",
    ".hidden",
    "~",
]


@pytest.mark.parametrize("part", _NASTY)
def test_nasty_parts_are_refused(part: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        safe_join(tmp_path, "sub", part)


@given(st.lists(st.one_of(st.text(max_size=20), st.sampled_from(_NASTY)), min_size=1, max_size=4))
def test_a_joined_path_never_leaves_its_root(parts: list[str]) -> None:
    root = Path("/srv/root")
    try:
        joined = safe_join(root, *parts)
    except InvalidInput:
        return
    assert joined.is_relative_to(root)
    assert joined != root


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to("/etc")
    with pytest.raises(InvalidInput):
        safe_join(tmp_path, "out", "passwd")


def test_an_atomic_write_replaces_whole_files_with_the_mode_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "secret"
    write_atomic(path, "one", mode=0o600)
    write_atomic(path, b"two", mode=0o600)
    assert path.read_text() == "two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["secret"]


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    write_atomic(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "\ud800")
    with pytest.raises(TypeError):
        write_atomic(path, 7)  # type: ignore[arg-type]  # the failure must come after the temporary file exists
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["kept"]


def test_a_service_without_a_home_has_its_state_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(number: int) -> None:
        raise KeyError(number)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert home_of({}) == NO_HOME
    assert user_config_dir({}) == NO_HOME / ".config/meetingctl"
    assert default_data_dir({"STATE_DIRECTORY": "/var/lib/meetingctl"}) == Path("/var/lib/meetingctl")
    assert home_of({"HOME": "/home/pi"}) == Path("/home/pi")


def test_a_small_text_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "code.txt"
    path.write_bytes(b"\xef\xbb\xbf3FA9C1\n" + b"x" * 100)
    assert read_small_text(path) == "3FA9C1\n" + "x" * 100
    assert read_small_text(path, limit_bytes=110) == "3FA9C1\n" + "x" * 100


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [(b"x" * 111, TooLarge, "over 110 bytes"), (b"ab\xff", InvalidInput, "byte 3 is not UTF-8 text")],
)
def test_a_text_that_cannot_be_meant(content: bytes, error: type, message: str, tmp_path: Path) -> None:
    path = tmp_path / "code.txt"
    path.write_bytes(content)
    with pytest.raises(error, match=message):
        read_small_text(path, limit_bytes=110)


@pytest.mark.parametrize(
    ("path", "message"), [("/dev/zero", "/dev/zero: over 65536 bytes"), ("/", "/: not a file that holds text")]
)
def test_what_has_no_end_or_is_no_file_is_refused(path: str, message: str) -> None:
    with pytest.raises((InvalidInput, TooLarge), match=message):
        read_small_text(Path(path))


def test_the_empty_device_is_an_empty_file() -> None:
    assert read_small_text(Path("/dev/null")) == ""


def test_a_pipe_is_a_file_with_a_deadline_and_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(MeetingctlError, match="did not end in time"):
        read_small_text(path, wait_s=0.05)
    writer = threading.Thread(target=path.write_text, args=("3FA9C1\n",))
    writer.start()
    assert read_small_text(path, wait_s=10) == "3FA9C1\n"
    writer.join(10)


def test_only_a_folder_that_is_there_is_synced(tmp_path: Path) -> None:
    sync_folder(tmp_path)
    write_atomic(tmp_path / "file", "text")
    with pytest.raises(NotADirectoryError):
        sync_folder(tmp_path / "file")
    with pytest.raises(FileNotFoundError):
        sync_folder(tmp_path / "none")

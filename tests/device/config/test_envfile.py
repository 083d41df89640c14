from __future__ import annotations

import string
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from meetingctl.core.errors import InvalidInput
from meetingctl.device.config.envfile import parse_env, quote_value, update_env

# What a value may hold: everything but control characters, surrogates and line separators.
VALUES = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=60)
NASTY = st.text(st.sampled_from("\"'\\$`#!;&|<>(){}[]*?~=% \u00e9ab1"), max_size=30)
KEYS = st.text(st.sampled_from("ABCdef_"), min_size=1, max_size=4)
RAW_LINES = st.one_of(
    st.text(max_size=30),
    st.builds("{}={}".format, KEYS, st.text(max_size=20)),
    st.builds('export {}="{}" # {}'.format, KEYS, NASTY, NASTY),
    st.builds("  {}='{}'\r".format, KEYS, NASTY),
    st.just("# a comment"),
)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("K=plain", "plain"),
        ("K=", ""),
        ('K=""', ""),
        ('K="two words"', "two words"),
        ("K='a $HOME \"b\" \\'", 'a $HOME "b" \\'),
        (r'K="a\"b\\c\$d\`e\n"', r'a"b\c$d`e\n'),
        ('K="$HOME $(id) `id`"', "$HOME $(id) `id`"),
        ("K=value # why", "value"),
        ('K="value" # "why"', "value"),
        ("K=a#b", "a#b"),
        ("K= # nothing", ""),
        ("K=#fff", "#fff"),
        ("K=RPi Camera", "RPi Camera"),
        (r"K=a\ b\#c", "a b#c"),
        ("K=end\\", "end\\"),
        ("  export  K = spaced  ", "spaced"),
        ("K=dos\r", "dos"),
        ('K="dos"\r', "dos"),
        ("\ufeffK=marked", "marked"),
        # As the original's web page writes it: quotes around, nothing escaped.
        ('K="say "hi""', 'say "hi"'),
        ('K="back\\"', "back\\"),
        ("K=x=y==", "x=y=="),
    ],
)
def test_reading(written: str, value: str) -> None:
    file = parse_env(f"A=1\n{written}\nB=2\n")
    assert file.values() == {"A": "1", "K": value, "B": "2"}
    assert file.broken_lines() == []


@pytest.mark.parametrize("written", ["what is this", 'K="open', "K='open", "1K=x", "=x", 'K="', "if true; then"])
def test_lines_that_say_nothing_are_kept_and_named(written: str) -> None:
    file = parse_env(f"A=1\n{written}\n# fine\n\n")
    assert file.values() == {"A": "1"}
    assert file.broken_lines() == [2]
    assert file.render() == f"A=1\n{written}\n# fine\n\n"


def test_the_last_assignment_wins() -> None:
    file = parse_env("A=1\nB=2\nA=3\n")
    assert (file.values()["A"], file.line_numbers("A")) == ("3", [1, 3])


def test_writing_in_place() -> None:
    text = "# camera\n  export A='1'  # keep me\r\nB=2\n\n#C=4\nX Y\nUNKNOWN=7"
    file = update_env(parse_env(text), {"A": 'a"b', "C": "5 6", "B": "3"})
    assert file.render() == ('# camera\n  export A="a\\"b"  # keep me\r\nB=3\n\n#C=4\nX Y\nUNKNOWN=7\nC="5 6"\n')
    assert file == parse_env(file.render())


def test_writing_removes_and_joins_repeated_keys() -> None:
    assert update_env(parse_env("A=1\nB=2\nA=3\n"), {"A": "4"}).render() == "B=2\nA=4\n"
    assert update_env(parse_env("A=1\nB=2\nA=3\n"), {"A": None, "Z": None}).render() == "B=2\n"


def test_an_empty_file_and_line_ends_of_windows() -> None:
    assert update_env(parse_env(""), {"A": "1"}).render() == "A=1\n"
    assert update_env(parse_env("A=1\r\nB=2"), {"C": "3"}).render() == "A=1\r\nB=2\r\nC=3\r\n"
    assert update_env(parse_env("K= # nothing\n"), {"K": "1"}).render() == "K= 1 # nothing\n"


@pytest.mark.parametrize("bad", ["a\nB=1", "a\r", "\0", "a\u2028b", "\x85", "\ud800", "x" * 4097, "\x1b[31m"])
def test_values_that_could_begin_a_new_line_are_refused(bad: str) -> None:
    with pytest.raises(InvalidInput):
        quote_value(bad)
    with pytest.raises(InvalidInput):
        update_env(parse_env("A=1\n"), {"A": bad})


@pytest.mark.parametrize("bad", ["", "A B", "A\nB", "1A", "A=", "É"])
def test_keys_that_are_none_are_refused(bad: str) -> None:
    with pytest.raises(InvalidInput, match="not a key"):
        update_env(parse_env(""), {bad: "1"})


@given(st.lists(RAW_LINES).map("\n".join))
@example("A=1\n\n")
@example("\r\n\x0b\u2028A=1")
def test_any_text_survives_reading(text: str) -> None:
    assert parse_env(text).render() == text


@given(st.lists(RAW_LINES).map("\n".join), KEYS, st.one_of(VALUES, NASTY))
def test_a_value_comes_back_and_nothing_else_moves(text: str, key: str, value: str) -> None:
    before = parse_env(text)
    after = parse_env(update_env(before, {key: value}).render())
    assert after.values() == {**before.values(), key: value}
    assert [line.raw.rstrip("\r") for line in after.lines if line.key != key and line.raw.strip()] == [
        line.raw.rstrip("\r") for line in before.lines if line.key != key and line.raw.strip()
    ]
    assert update_env(after, {key: value}) == after


@given(st.lists(RAW_LINES).map("\n".join), KEYS)
def test_a_removed_key_is_gone_and_nothing_else_moves(text: str, key: str) -> None:
    before = parse_env(text)
    after = update_env(before, {key: None})
    assert list(after.lines) == [line for line in before.lines if line.key != key]


@pytest.mark.parametrize("shell", ["bash", "sh"])
@settings(max_examples=15, deadline=None)
@given(values=st.lists(st.one_of(NASTY, VALUES), min_size=40, max_size=40))
def test_a_shell_reads_the_same_and_runs_nothing(
    shell: str, require_program, tmp_path_factory, values: list[str]
) -> None:
    program = require_program(shell)
    folder = tmp_path_factory.mktemp("env")
    names = [f"K{number}" for number in range(len(values))]
    changes = dict(zip(names, [*values[:-2], "$(touch pwned)`touch pwned`", '";touch pwned;"'], strict=True))
    file = folder / "config.env"
    file.write_text(update_env(parse_env("# start\n"), changes).render())
    show = "".join(f'printf "%s\\0" "${name}";' for name in names)
    shown = subprocess.run([program, "-c", f". ./config.env; {show}"], cwd=folder, capture_output=True, check=True)
    assert shown.stdout.decode().split("\0")[:-1] == list(changes.values())
    assert [path.name for path in Path(folder).iterdir()] == ["config.env"]


def test_bare_values_need_no_quotes_anywhere() -> None:
    for character in string.printable:
        if not quote_value(f"a{character}" if character not in "\t\n\r\x0b\x0c" else "a").startswith('"'):
            assert character.isalnum() or character in "_./:,@%+=-\t\n\r\x0b\x0c"

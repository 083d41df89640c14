from __future__ import annotations

import pytest

from meetingctl.device.media.units import duration_text, size_text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 o"),
        (512, "512 o"),
        (94208, "92.0 Ko"),
        (1946706, "1.9 Mo"),
        (31457280000, "29.3 Go"),
        (52428800, "50.0 Mo"),
    ],
)
def test_sizes_as_the_page_shows_them(size: int, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(("seconds", "text"), [(6177.15, "1:42:57"), (0, "0:00:00"), (59.9, "0:00:59"), (None, "")])
def test_durations_as_the_page_shows_them(seconds: float | None, text: str) -> None:
    assert duration_text(seconds) == text

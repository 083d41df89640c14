"""An upload takes the same memory whatever its size."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

from planes import MakeFleet
from test_flash import UPLOAD, make_place

MIB = 1024**2
SIZE_MIB = 200
MOST_GROWTH_MIB = 64


def peak_mib() -> int:
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024


def test_memory_stays_flat(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(flash_file_max_mib=SIZE_MIB)
    folder = make_place(fleet)
    fields = "".join(
        f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in (("devicetype", "rpi"), ("distribution", "d1"))
    )
    head = f'{fields}--b\r\nContent-Disposition: form-data; name="file"; filename="big"\r\n\r\n'

    async def body() -> AsyncIterator[bytes]:
        yield head.encode()
        piece = bytes(64 * 1024)
        for _ in range(SIZE_MIB * 16):
            yield piece
        yield b"\r\n--b--\r\n"

    headers = {"content-type": "multipart/form-data; boundary=b"}
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before_mib = peak_mib()
    answer = fleet.call("POST", UPLOAD, key=fleet.admin, content=body(), headers=headers)
    assert answer.status_code == 200, answer.text
    assert (folder / "big").stat().st_size == SIZE_MIB * MIB
    (folder / "big").unlink()
    assert peak_mib() - before_mib < MOST_GROWTH_MIB

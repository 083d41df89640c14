"""What a proxy says of itself."""

from __future__ import annotations

from meetingctl.core.settings import Settings
from meetingctl.tunnel.figures import short_name
from meetingctl.tunnel.proxy import Proxy

from .support import MemoryDirectory


def test_a_short_name_stays_as_it_is() -> None:
    assert short_name("host:0.0.0.0:9000") == "host:0.0.0.0:9000"
    assert short_name("h" * 64) == "h" * 64


def test_a_long_name_fits_the_registry_and_stays_unlike_others() -> None:
    names = {short_name(f"{'host-' * 20}:0.0.0.0:{port}") for port in (9000, 9001)}
    assert len(names) == 2
    assert {len(name) for name in names} == {64}
    assert names == {short_name(f"{'host-' * 20}:0.0.0.0:{port}") for port in (9000, 9001)}


def test_a_proxy_goes_by_its_short_name() -> None:
    name = "host-" * 20
    proxy = Proxy(settings=Settings(), directory=MemoryDirectory(), name=name)
    assert proxy._name == short_name(name)

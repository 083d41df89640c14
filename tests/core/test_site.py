"""Limits per address count an IPv6 host once."""

from __future__ import annotations

from meetingctl.core.site import site_of


def test_an_ipv6_host_is_counted_by_its_network() -> None:
    assert site_of("192.0.2.7") == "192.0.2.7"
    assert site_of("2001:db8::1") == site_of("2001:db8::ffff:2%eth0") == "2001:db8::/64"
    assert site_of("2001:db8:0:1::1") != site_of("2001:db8::1")
    assert site_of("x:y") == "x:y"

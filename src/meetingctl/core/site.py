"""Whose address it is, as far as limits per address are concerned."""

from __future__ import annotations

import ipaddress


def site_of(address: str) -> str:
    """Return what limits per address count: an IPv4 address itself, of an IPv6 address its /64, which one host owns."""
    if ":" not in address:
        return address
    try:
        return str(ipaddress.IPv6Network((address.partition("%")[0], 64), strict=False))
    except ValueError:
        return address

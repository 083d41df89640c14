"""Run a fleet of Raspberry Pi cameras behind NAT."""

__version__ = "0.1.0"

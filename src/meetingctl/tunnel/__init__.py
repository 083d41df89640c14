"""The reverse tunnel: visitors reach services of devices behind NAT through one connection that the device dials.

`codec`, `handshake`, `caps`, `credit` and `grace` are pure; `reactor`, `stream` and `link` move the bytes on one
thread; `proxy` and `agent` are the two ends. The wire is described in docs/protocol.md.
"""

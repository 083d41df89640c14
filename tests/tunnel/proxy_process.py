"""A proxy in a process of its own: `LISTEN_PORT PUBLIC:LOCAL... [GRACE_S]`; says its agent port when it is up."""

from __future__ import annotations

import sys

from meetingctl.tunnel.directory import Tunnel

from .support import KEY, Bed


def main() -> None:
    listen_port, way, host, grace_s = sys.argv[1:5]
    bed = Bed(listen=f"{host}:{listen_port}", tunnel_bind=host, tunnel_grace_s=float(grace_s))
    public, local = map(int, way.split(":"))
    bed.want(Tunnel(port=public, device_key=KEY, service="relay", local_port=local))
    print(bed.port, flush=True)
    sys.stdin.read()
    bed.close()


if __name__ == "__main__":
    main()

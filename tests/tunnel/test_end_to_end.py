"""Both agents through a real proxy: bytes arrive whole, ends are seen, agents come back."""

from __future__ import annotations

import socket

from meetingctl.tunnel.agent import Agent

from .support import Bed, agent_config, connect, echo, read_all, service


def test_echo_and_half_close_through_our_agent() -> None:
    bed = Bed()
    with service(echo) as local_port:
        agent = Agent(agent_config(bed, local_port))
        agent.start()
        try:
            port = bed.open(local_port)
            bed.wait_listening(port)
            with connect(port) as visitor:
                visitor.sendall(b"hello" * 100_000)
                visitor.shutdown(socket.SHUT_WR)
                assert read_all(visitor) == b"hello" * 100_000
        finally:
            agent.close()
            bed.close()

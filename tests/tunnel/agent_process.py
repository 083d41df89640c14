"""Our agent in a process of its own: `HOST PORT LOCAL_PORT PING_S`; says every change of its state."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace

from meetingctl.core.secret import Secret
from meetingctl.tunnel.agent import Agent, AgentStatus
from meetingctl.tunnel.agentconfig import AgentConfig
from meetingctl.tunnel.rules import AGENT_RULES

from .support import KEY, TOKEN


def say(status: AgentStatus) -> None:
    print(status.state, flush=True)


def main() -> None:
    host, port, local_port, ping_s = sys.argv[1:5]
    config = AgentConfig(
        server_host=host,
        server_port=int(port),
        device_key=KEY,
        token=Secret(TOKEN),
        ports=frozenset({int(local_port)}),
        backoff_first_s=0.1,
        backoff_most_s=0.5,
        dial_s=1.0,
    )
    Agent(config, on_status=say, rules=replace(AGENT_RULES, ping_s=float(ping_s))).run(threading.Event())


if __name__ == "__main__":
    main()

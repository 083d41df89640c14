"""Kinds of events in a device's connection log that another part looks for.

The proxy of the tunnel reports them, with one fact each; the server keeps them.
"""

from __future__ import annotations

# Fact: the kind of agent, and its address.
AGENT_UP = "agent up"

# A refused credential. Fact: the address. The device key is empty where the agent named none.
AGENT_REFUSED = "agent refused"

# The agent's setting `agent_ports` does not list the port; once per connection of the agent. Fact: the local port.
PORT_REFUSED = "local port refused"

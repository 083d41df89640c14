"""Beds and devices for the tunnel tests; everything is closed again, whatever the test does."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from meetingctl.tunnel.agent import Agent

from .old_agent import OldAgent
from .support import KEY, TOKEN, Bed, agent_config

MakeBed = Callable[..., Bed]
StartAgent = Callable[..., Any]


@pytest.fixture
def make_bed() -> Iterator[MakeBed]:
    with contextlib.ExitStack() as stack:

        def make(**facts: Any) -> Bed:
            bed = Bed(**facts)
            stack.callback(bed.close)
            return bed

        yield make


@pytest.fixture
def bed(make_bed: MakeBed) -> Bed:
    return make_bed()


@pytest.fixture(params=["old", "new", "base"])
def kind(request: pytest.FixtureRequest) -> str:
    """The existing agent, ours, and ours without the negotiated extension."""
    return str(request.param)


# Where the agent's data path is not what is tested, two of the three do.
either_agent = pytest.mark.parametrize("kind", ["old", "new"])


@pytest.fixture
def start_agent() -> Iterator[StartAgent]:
    with contextlib.ExitStack() as stack:

        def start(bed: Bed, kind: str, *ports: int, key: str = KEY, wait: bool = True, **changes: Any) -> Any:
            agent: Any
            if kind == "old":
                agent = OldAgent(
                    bed.host, bed.port, device_key=key, token=TOKEN, **({"backoff_first_s": 0.2} | changes)
                )
            else:
                agent = Agent(agent_config(bed, *ports, device_key=key, with_caps=kind == "new", **changes))
            stack.callback(agent.close)
            agent.start()
            if wait:
                bed.wait_online(key)
            return agent

        yield start

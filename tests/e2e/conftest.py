"""One world for the tests that only use it, and a session in it that says nothing while they run."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from e2e.world import HOST, World, own_address, running

FULL_IDLE_S = 185.0
SHORT_IDLE_S = 10.0


def idle_s() -> float:
    """How long the idle session says nothing: three minutes where it counts, E2E_IDLE_S for another length."""
    default_s = FULL_IDLE_S if os.environ.get("CI") == "true" else SHORT_IDLE_S
    return float(os.environ.get("E2E_IDLE_S") or default_s)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run these tests first and the idle session's last, so that its minutes pass while others run."""
    here = [item for item in items if "/e2e/" in str(item.path)]
    last = [item for item in here if item.get_closest_marker("idle_session")]
    items[:] = [
        *(item for item in here if item not in last),
        *(item for item in items if item not in here),
        *last,
    ]


@pytest.fixture(scope="session")
def openssh(require_program: Callable[..., str]) -> None:
    """Need OpenSSH, both sides."""
    for program in ("ssh", "scp", "ssh-keygen"):
        require_program(program, package="openssh-client")
    if not os.access("/usr/sbin/sshd", os.X_OK):
        require_program("sshd", package="openssh-server")


@pytest.fixture(scope="session")
def world(openssh: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    addresses = [HOST, *filter(None, [own_address()])]
    with running(World(tmp_path_factory.mktemp("world"), addresses=tuple(addresses))) as world:
        yield world


@dataclass
class IdleSession:
    """An open session that waits for a line, and the time at which it began."""

    process: subprocess.Popen[bytes]
    started_s: float
    is_spent: bool = False


def open_idle_session(world: World) -> IdleSession:
    argv = ["ssh", *world.ssh_options(), HOST, "echo ready; read line; echo $line back"]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return IdleSession(process, time.monotonic())


def close_idle_session(session: IdleSession) -> None:
    with session.process as process:
        process.kill()


@pytest.fixture(scope="session", autouse=True)
def first_idle_session(request: pytest.FixtureRequest) -> Iterator[IdleSession | None]:
    """Open the idle session before the first test of this folder, when its test is among those that run."""
    if not any(item.get_closest_marker("idle_session") for item in request.session.items):
        yield None
        return
    session = open_idle_session(request.getfixturevalue("world"))
    yield session
    close_idle_session(session)


@pytest.fixture
def idle_session(first_idle_session: IdleSession, world: World) -> Iterator[IdleSession]:
    """The session of the beginning, once; a second try has to wait with one of its own."""
    if not first_idle_session.is_spent:
        first_idle_session.is_spent = True
        yield first_idle_session
        return
    session = open_idle_session(world)
    yield session
    close_idle_session(session)

"""Control planes for tests: in process without sockets, on loopback with them, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from fastapi import FastAPI

from meetingctl.core.net import parse_port_range
from meetingctl.core.settings import Settings
from meetingctl.server.app import make_api
from meetingctl.server.audit.chain import SYSTEM
from meetingctl.server.db.engine import open_database
from meetingctl.server.db.migrate import migrate
from meetingctl.server.db.schema import devices
from meetingctl.server.devices.store import create_device
from meetingctl.server.front import Front
from meetingctl.server.identity.keys import create_key
from meetingctl.server.run import ControlPlane
from meetingctl.server.state import make_state
from meetingctl.server.tunnels.directory import RegistryDirectory
from meetingctl.server.tunnels.ports import fill_pool

CODE = "A1B2C3"
WAIT_S = 30.0


def wait_for(condition: Callable[[], Any], what: str, within_s: float = WAIT_S) -> Any:
    """Poll until the condition holds and return its value."""
    deadline_s = time.monotonic() + within_s
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline_s:
            raise AssertionError(f"{what}: not within {within_s} s")
        time.sleep(0.01)


class LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(WAIT_S * 2)

    def close(self) -> None:
        self.run(self.loop.shutdown_asyncgens())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


# Making the routes costs more than a test: a fleet takes over those of one that is closed.
_spare_apis: list[FastAPI] = []


class Fleet:
    """The whole application in this process, without sockets, on a migrated database."""

    def __init__(self, url: sa.URL, data_dir: Path, **settings: Any) -> None:
        self.url = url
        self.settings = Settings(**settings)
        self.data_dir = data_dir
        self.loop = LoopThread()
        self.database = open_database(url)
        self.state = make_state(self.settings, data_dir, self.database)
        self.state.writer.start()
        self.write(lambda connection: fill_pool(connection, parse_port_range(self.settings.tunnel_ports)))
        self.directory = RegistryDirectory(self.state)
        self.api = _spare_apis.pop() if _spare_apis else make_api(self.state, self.directory)
        self.api.state.server, self.api.state.directory = self.state, self.directory
        self.app = Front(self.api, self.state)
        self._keys: dict[str, str] = {}

    def close(self) -> None:
        self.state.writer.close()
        self.database.close()
        self.loop.close()
        _spare_apis.append(self.api)

    @property
    def admin(self) -> str:
        return self.key("admin")

    def key(self, role: str) -> str:
        """Return the text of an API key with this role."""
        if role not in self._keys:
            made = self.write(lambda connection: create_key(connection, SYSTEM, name=f"the {role}", role=role))
            self._keys[role] = made.text
        return self._keys[role]

    def write(self, operation: Callable[[sa.Connection], Any]) -> Any:
        return self.state.writer.run(operation)

    def rows(self, query: Any) -> list[Any]:
        with self.database.read() as connection:
            return list(connection.execute(query).mappings())

    def device(self, device_key: str = "cam-1", *, authorized: bool = True, **columns: Any) -> str:
        """Create a device with token code `CODE`."""

        def change(connection: sa.Connection) -> None:
            create_device(connection, SYSTEM, device_key=device_key, token_code=CODE)
            values = {"authorized": authorized, **columns}
            connection.execute(devices.update().where(devices.c.device_key == device_key).values(**values))

        self.write(change)
        return device_key

    def call(self, method: str, path: str, **rest: Any) -> httpx.Response:
        return self.loop.run(self.acall(method, path, **rest))

    def call_all(self, calls: list[tuple[str, str, dict[str, Any]]]) -> list[httpx.Response]:
        """Send requests at the same time."""

        async def all_of_them() -> list[httpx.Response]:
            return await asyncio.gather(*(self.acall(method, path, **rest) for method, path, rest in calls))

        return self.loop.run(all_of_them())

    async def acall(
        self,
        method: str,
        path: str,
        *,
        key: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
        peer: str = "127.0.0.1",
        app: Any = None,
        **rest: Any,
    ) -> httpx.Response:
        given = dict(headers or {})
        if key is not None:
            given["authorization"] = f"Bearer {key}"
        if code is not None:
            given["x-token-code"] = code
        transport = httpx.ASGITransport(app or self.app, client=(peer, 40000))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", trust_env=False) as client:
            return await client.request(method, path, headers=given, **rest)


class Live:
    """A real control plane on loopback, with a thread for its event loop."""

    def __init__(self, data_dir: Path, parts: frozenset[str] = frozenset({"api"}), **settings: Any) -> None:
        self.settings = Settings(**{"api_listen": "127.0.0.1:0"} | settings)
        self.loop = LoopThread()
        self.plane = ControlPlane(self.settings, data_dir, parts)
        try:
            self.loop.run(self.plane.start())
        except BaseException:
            self.loop.close()
            raise
        self.port = self.plane.api_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self.loop.run(self.plane.close())
        self.loop.close()

    def __enter__(self) -> Live:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class ServerProcess:
    """`meetingctl serve api` in a process of its own."""

    def __init__(self, data_dir: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "meetingctl", "serve", "api", "--data", str(data_dir), "--listen", "127.0.0.1:0"],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stderr is not None
        line = next((line for line in self._process.stderr if line.startswith("api ")), "")
        assert line, "the server did not start"
        self.url = line.split()[1]
        self._drain = threading.Thread(target=self._process.stderr.read)
        self._drain.start()

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(30)
        self._drain.join(30)
        if self._process.stderr is not None:
            self._process.stderr.close()


class Postgres:
    """A PostgreSQL cluster of our own: a socket in a folder, no TCP port, and no fsync unless it must be durable."""

    def __init__(self, programs: Path, *, is_durable: bool = False) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="meetingctl-pg-"))
        identity: dict[str, Any] = {}
        if os.getuid() == 0:
            owner = pwd.getpwnam("postgres")
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
            identity = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
        cluster = self.folder / "cluster"
        initdb = [programs / "initdb", "-D", cluster, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]
        subprocess.run(
            [*initdb, "--locale=C.UTF-8"], cwd=self.folder, check=True, capture_output=True, timeout=60, **identity
        )
        options = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.folder),
            "fsync": "off",
            "full_page_writes": "off",
            "max_connections": "200",
            "autovacuum": "off",
        }
        if is_durable:  # as an installation is: for benchmarks
            options |= {"fsync": "on", "full_page_writes": "on", "autovacuum": "on"}
        argv = [programs / "postgres", "-D", cluster]
        argv += [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(argv, cwd=self.folder, stdout=log, stderr=log, **identity)
        self._admin = sa.create_engine(self.url("postgres"), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        try:
            wait_for(self._answers, "PostgreSQL answers")
        except BaseException:
            self.close()
            raise
        self._count = 0

    def url(self, name: str) -> sa.URL:
        return sa.make_url(f"postgresql+psycopg://postgres@/{name}?host={self.folder}")

    def new_database(self, template: str = "template0") -> sa.URL:
        self._count += 1
        name = f"test_{self._count}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def drop(self, url: sa.URL) -> None:
        self.execute(f"DROP DATABASE IF EXISTS {url.database} WITH (FORCE)")

    def execute(self, statement: str) -> None:
        with self._admin.connect() as connection:
            connection.exec_driver_sql(statement)

    def close(self) -> None:
        self._admin.dispose()
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(30)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answers(self) -> bool:
        assert self._process.poll() is None, (self.folder / "log").read_text()
        try:
            self.execute("SELECT 1")
        except sa.exc.OperationalError:
            return False
        return True


def find_postgres() -> Path | None:
    """Return the folder of the newest PostgreSQL server programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


def missing(what: str) -> None:
    """Skip for want of a real part; in continuous integration that is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} is missing")
    pytest.skip(f"{what} is missing")


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty SQLite file to copy."""
    path = tmp_path_factory.mktemp("template") / "meetingctl.db"
    database = open_database(sa.URL.create("sqlite", database=str(path)))
    migrate(database)
    database.close()
    return path


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    programs = find_postgres()
    if programs is None:
        missing("the PostgreSQL server (apt install postgresql)")
    server = Postgres(programs)
    yield server
    server.close()


@pytest.fixture(scope="session")
def migrated_postgres(postgres: Postgres) -> str:
    """The name of a migrated, empty database to copy."""
    url = postgres.new_database()
    database = open_database(url)
    migrate(database)
    database.close()
    return str(url.database)


@pytest.fixture
def postgres_url(postgres: Postgres, migrated_postgres: str) -> Iterator[sa.URL]:
    url = postgres.new_database(migrated_postgres)
    yield url
    postgres.drop(url)


@pytest.fixture
def sqlite_url(migrated_file: Path, tmp_path: Path) -> sa.URL:
    path = tmp_path / "meetingctl.db"
    shutil.copy(migrated_file, path)
    return sa.URL.create("sqlite", database=str(path))


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.real)])
def any_url(request: pytest.FixtureRequest) -> sa.URL:
    """A migrated database of either engine."""
    return request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url")


MakeFleet = Callable[..., Fleet]


@contextlib.contextmanager
def _making(url: sa.URL, data_dir: Path) -> Iterator[MakeFleet]:
    made: list[Fleet] = []

    def make(**settings: Any) -> Fleet:
        fleet = Fleet(url, data_dir, **settings)
        made.append(fleet)
        return fleet

    yield make
    for fleet in made:
        fleet.close()


@pytest.fixture
def make_fleet(sqlite_url: sa.URL, tmp_path: Path) -> Iterator[MakeFleet]:
    """Make fleets with chosen settings, on SQLite."""
    with _making(sqlite_url, tmp_path) as make:
        yield make


@pytest.fixture
def make_any_fleet(any_url: sa.URL, tmp_path: Path) -> Iterator[MakeFleet]:
    """Make fleets with chosen settings, on either engine."""
    with _making(any_url, tmp_path) as make:
        yield make


@pytest.fixture
def make_postgres_fleet(postgres_url: sa.URL, tmp_path: Path) -> Iterator[MakeFleet]:
    """Make fleets with chosen settings, on PostgreSQL."""
    with _making(postgres_url, tmp_path) as make:
        yield make


@pytest.fixture
def postgres_fleet(make_postgres_fleet: MakeFleet) -> Fleet:
    return make_postgres_fleet()


@pytest.fixture
def fleet(make_fleet: MakeFleet) -> Fleet:
    return make_fleet()


@pytest.fixture
def any_fleet(make_any_fleet: MakeFleet) -> Fleet:
    return make_any_fleet()

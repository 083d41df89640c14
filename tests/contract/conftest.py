"""The contract is checked against the same control planes as the server's own tests."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

sys.path.insert(0, str(Path(__file__).parents[1] / "server"))

from planes import (  # noqa: F401 - pytest finds fixtures by name
    Fleet,
    any_fleet,
    any_url,
    fleet,
    make_any_fleet,
    make_fleet,
    make_postgres_fleet,
    migrated_file,
    migrated_postgres,
    postgres,
    postgres_fleet,
    postgres_url,
    sqlite_url,
)


@pytest.fixture(scope="session")
def document(migrated_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:  # noqa: F811
    """The OpenAPI document."""
    folder = tmp_path_factory.mktemp("document")
    shutil.copy(migrated_file, folder)
    fleet = Fleet(sa.URL.create("sqlite", database=str(folder / migrated_file.name)), folder)  # noqa: F811
    try:
        made: dict[str, Any] = fleet.call("GET", "/api/openapi.json").json()
    finally:
        fleet.close()
    return made

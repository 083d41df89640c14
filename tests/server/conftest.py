"""Fixtures of the control plane's tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from planes import (  # noqa: F401 - pytest finds fixtures by name
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

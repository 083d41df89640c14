"""Alembic migrations, the same for SQLite and PostgreSQL."""

HEAD = "0002"  # the newest revision; known without Alembic, whose import would double the time to start

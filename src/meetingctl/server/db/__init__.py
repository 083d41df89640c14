"""Storage: engines, schema, migrations, the group-commit writer and the administrator's commands."""

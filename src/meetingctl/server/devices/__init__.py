"""The device registry: records, presence, heartbeats, notes, services and connection logs."""

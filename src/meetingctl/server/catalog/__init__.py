"""Device types, and the files of their distributions."""

"""The central services: one folder per concept, each with its store and its routes."""

"""Figures about the server for people and for Prometheus."""

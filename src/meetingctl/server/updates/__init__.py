"""Releases, update channels, the fleet's update state, and rollouts."""

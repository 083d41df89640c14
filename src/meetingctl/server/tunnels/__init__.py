"""Public ports: reservation, requests, status, and what a tunnel proxy is told."""

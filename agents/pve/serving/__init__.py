"""Serving: one request of a forced command, or a resident session with one request in each line."""

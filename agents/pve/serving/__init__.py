"""Serving: one request of a forced command, or a resident session with a request a line."""

"""A stand-in for the Messages API, and the demo's script for it."""

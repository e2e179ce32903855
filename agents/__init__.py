"""The host agent, and what makes one file of it."""

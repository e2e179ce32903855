"""Times, as the protocol writes them. Pure."""

from datetime import UTC, datetime


def rfc3339(at: float) -> str:
    """Return a Unix time in UTC, to the second."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

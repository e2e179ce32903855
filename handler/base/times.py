"""Times, as the protocol writes them. Pure."""

from datetime import UTC, datetime


def rfc3339(at: float) -> str:
    """Return a Unix time as text in UTC, to the second."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def say_since(host: str, since: float | None, reason: str) -> str:
    """Return since when and why a host can't be reached. Without a reason, it was only too slow."""
    if not reason or not since:
        return f"{host} did not answer in time"
    return f"{host} has been unreachable since {rfc3339(since)}: {reason}"

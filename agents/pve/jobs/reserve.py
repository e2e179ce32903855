"""Room that is kept in /run for the jobs of this host: one file, of which a part is freed where /run is full.

Bookkeeping must not stop a rescue.
"""

import os
from contextlib import suppress

RESERVE_BYTES = 1024 * 1024
PART_BYTES = 64 * 1024  # of which a job needs a third for its request, lock, stages and result


def fill_reserve(root: str) -> None:
    """Make the reserve whole again, while that leaves as much room: jobs under way must not lose what it gave them."""
    with suppress(OSError), open(f"{root}/run/breakglass/reserve", "ab") as file:  # a host goes on without it
        if file.tell() < RESERVE_BYTES < _free_bytes(root) - RESERVE_BYTES:
            os.posix_fallocate(file.fileno(), 0, RESERVE_BYTES)


def is_short(root: str) -> bool:
    """Tell whether /run has less room than a job may need."""
    return _free_bytes(root) < PART_BYTES


def free_part(root: str) -> None:
    """Free a part of the reserve, if there is any left."""
    path = f"{root}/run/breakglass/reserve"
    with suppress(OSError):
        os.truncate(path, max(0, os.path.getsize(path) - PART_BYTES))


def _free_bytes(root: str) -> float:
    status = os.statvfs(f"{root}/run/breakglass")
    return status.f_bavail * status.f_frsize if status.f_blocks else float("inf")  # a tmpfs may have no limit

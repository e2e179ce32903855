"""Room that is kept in /run for the power verbs of this host. Bookkeeping must not stop a rescue.

One file keeps bytes, of which a part is freed where /run is full. Empty files keep inodes, of which some are removed
where there is none left: the captures of one token can take all that a host has.
"""

import os
from contextlib import suppress

RESERVE_BYTES = 1024 * 1024
PART_BYTES = 64 * 1024  # of which a job needs a third for its request, lock, stages and result
RESERVE_INODES = 512
PART_INODES = 32  # of which a job needs half for its files, and the `qm` that it runs has the rest


def fill_reserve(root: str) -> None:
    """Make the reserve whole again, while that leaves as much room: jobs under way must not lose what it gave them."""
    place = f"{root}/run/breakglass"
    free_bytes, free_inodes = _free(root)
    with suppress(OSError), open(f"{place}/reserve", "ab") as file:  # a host goes on without it
        if file.tell() < RESERVE_BYTES < free_bytes - RESERVE_BYTES:
            os.posix_fallocate(file.fileno(), 0, RESERVE_BYTES)
    with suppress(OSError):
        os.makedirs(f"{place}/inodes", 0o700, exist_ok=True)
        if len(os.listdir(f"{place}/inodes")) < RESERVE_INODES < free_inodes - RESERVE_INODES:
            for number in range(RESERVE_INODES):
                os.close(os.open(f"{place}/inodes/{number}", os.O_CREAT, 0o600))


def is_short(root: str) -> bool:
    """Tell whether /run has less room than a job may need."""
    free_bytes, free_inodes = _free(root)
    return free_bytes < PART_BYTES or free_inodes < PART_INODES


def free_part(root: str) -> None:
    """Free a part of the reserve, if there is any left."""
    place = f"{root}/run/breakglass"
    with suppress(OSError):
        os.truncate(f"{place}/reserve", max(0, os.path.getsize(f"{place}/reserve") - PART_BYTES))
    with suppress(OSError):
        for name in os.listdir(f"{place}/inodes")[:PART_INODES]:
            os.unlink(f"{place}/inodes/{name}")


def _free(root: str) -> tuple[float, float]:
    """Return the bytes and the inodes that are free; a tmpfs may have no limit."""
    status = os.statvfs(f"{root}/run/breakglass")
    free_bytes = status.f_bavail * status.f_frsize if status.f_blocks else float("inf")
    return free_bytes, status.f_favail if status.f_files else float("inf")

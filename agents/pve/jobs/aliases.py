"""Ids that only point to a job's capture. They are symbolic links beside the jobs, at most MOST_ALIASES for each VM.

One capture may answer thousands of alerts, and each link takes an inode of /run, which the whole host shares. The
oldest links are deleted first, and then their ids count as new.
"""

import os
import time
from collections.abc import Iterable
from contextlib import suppress

from .store import JobStore

MOST_ALIASES = 1000
FREED = 100  # links that are removed at a time, so that not every new link needs a look at all links
OLD_SECONDS = 60
OWN_ID = "forensics-"  # the beginning of each id that serve.complete_request makes


def add_alias(store: JobStore, job_id: str, target: str) -> bool:
    """Make `job_id` an alias of another job's capture; False when the id is taken already."""
    links = _links(store)
    if len(links) >= MOST_ALIASES:
        _remove(path for _, path in _dated(links)[: len(links) - MOST_ALIASES + FREED])
    try:
        os.symlink(target, store.path(job_id))
        return True
    except FileExistsError:
        return False


def drop_dangling(store: JobStore, job_id: str, at_least: float = float("-inf")) -> None:
    """Free an id whose alias points to a missing capture, if the alias is older than `at_least` seconds."""
    path = store.path(job_id)
    try:
        if os.path.islink(path) and not os.path.exists(path) and time.time() - os.lstat(path).st_mtime > at_least:
            os.unlink(path)
    except FileNotFoundError:  # another process prunes at the same time
        pass


def prune_aliases(store: JobStore) -> None:
    """Remove the aliases of captures that are gone, and the aliases with an id that the host agent made.

    The host agent makes such an alias if two captures are requested at the same moment. A client follows it for less
    than a minute.
    """
    for link in _links(store):
        drop_dangling(store, link.name, OLD_SECONDS)
    own = [link for link in _links(store) if link.name.startswith(OWN_ID)]
    old = time.time_ns() - OLD_SECONDS * 10**9
    _remove(path for at, path in _dated(own) if at < old)


def _links(store: JobStore) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(store.jobs) as entries:
            return [entry for entry in entries if entry.is_symlink()]
    except OSError:
        return []


def _dated(links: Iterable[os.DirEntry[str]]) -> list[tuple[int, str]]:
    """Return the time (in ns since the epoch) and the path of each link, oldest first."""
    dated = []
    for link in links:
        with suppress(FileNotFoundError):
            dated.append((link.stat(follow_symlinks=False).st_mtime_ns, link.path))
    return sorted(dated)


def _remove(paths: Iterable[str]) -> None:
    for path in paths:
        with suppress(OSError):  # another process prunes at the same time, and the id may have become a job since
            os.unlink(path)

"""How many descriptors the handler may have, and what it says when there are none left."""

import asyncio
import errno
import math
import resource
from typing import Any

from .. import audit

MOST = 65536
SAY_SECONDS = 60.0


def raise_limit() -> None:
    """Allow this process as many descriptors as the system lets it have, 65,536 at most."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class LoopErrors:
    """The event loop's exception handler: one line a minute where asyncio would print a trace for each connection.

    asyncio tries to accept as many connections as may wait, even after the first has failed (python/cpython#151615).
    """

    def __init__(self) -> None:
        self._said_at = -math.inf

    def handle(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Handle what no task or callback has caught."""
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in (errno.EMFILE, errno.ENFILE):
            loop.default_exception_handler(context)
        elif loop.time() - self._said_at >= SAY_SECONDS:
            self._said_at = loop.time()
            audit.note("out-of-descriptors", limit=resource.getrlimit(resource.RLIMIT_NOFILE)[0], error=str(error))

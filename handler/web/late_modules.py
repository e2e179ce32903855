"""What libraries load with the first request, or asyncio with the first name to resolve.

By then this process may have become a user who can't read the directory where they are installed.
"""

import importlib

LATE_MODULES = (
    *("anyio._backends._asyncio", "anyio._core._fileio", "concurrent.futures.thread", "encodings.idna"),
    *("uvicorn.lifespan.on", "uvicorn.logging", "uvicorn.loops.asyncio"),
)


def load_late_modules() -> None:
    """Load LATE_MODULES."""
    for name in LATE_MODULES:
        importlib.import_module(name)

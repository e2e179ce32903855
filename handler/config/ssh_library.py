"""Loads asyncssh without its search for optional libraries.

asyncssh looks for liboqs and nettle, which provide algorithms that no host needs. If they are not installed, Python
runs the C compiler and the linker to find them, as root, before the handler answers, and with a file in /tmp.
"""

import ctypes.util

_search = ctypes.util.find_library
ctypes.util.find_library = lambda name: None
try:
    import asyncssh
finally:
    ctypes.util.find_library = _search

__all__ = ["asyncssh"]

"""Why something failed, in the operating system's words."""

import os
import re

_NUMBER = re.compile(r"\[Errno (\d+)\]")


def reason(error: Exception) -> str:
    """Return why something failed, in the operating system's words alone: no number, no path, no Python call."""
    numbers = dict.fromkeys(_NUMBER.findall(str(error)))  # several numbers, if a name has several addresses
    words = " and ".join(os.strerror(int(number)) for number in numbers) or getattr(error, "strerror", "")
    return words or str(error) or ("timed out" if isinstance(error, TimeoutError) else type(error).__name__)

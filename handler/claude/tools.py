"""What claude may use in a turn. Pure.

Without a word, a turn has all that its VM has: reads, proposals and the guest. With `host` it only reads, from the
VM's host.
"""

from ..verbs import VERBS

HOST = "host"
TOOLS = (HOST,)

HOST_VERBS = ("status", "forensics", "history")
ALL_VERBS = (*HOST_VERBS, "job", *(name for name, verb in VERBS.items() if verb.mutating))


def list_verbs(tools: str) -> tuple[str, ...]:
    """Return what `pve` takes in a turn."""
    return HOST_VERBS if tools == HOST else ALL_VERBS

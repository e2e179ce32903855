"""What claude may use in a turn. Pure.

Without a word, a turn has all that its VM has: reads, proposals and the guest. With `host` it only reads, from the
VM's host.
"""

from ..agents.pve.words import MUTATING
from ..verbs import READS

HOST = "host"
TOOLS = (HOST,)


def list_verbs(tools: str) -> tuple[str, ...]:
    """Return what `pve` takes in a turn."""
    return READS if tools == HOST else (*READS, "job", *MUTATING)

"""A request for a verb, as the handler carries it to the host. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PveRequest:
    """The body of POST /pve; empty texts stand for what was left out. `verb` and `vm` are not judged yet."""

    verb: str
    vm: str = ""
    reason: str = ""
    if_state: str = ""
    if_last: str = ""
    job: str = ""
    anyway: str = ""
    challenge: str = ""

"""A request for a verb, from a known caller for a configured VM, and the ids that were sent. Pure."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, datetime

from ..agents.pve.words import Verb
from ..auth.signing import Caller
from ..base.verbs import VERBS
from ..config.model import Host, Vm, by_hand
from ..config.warnings import warn_of_expiry, warn_of_guest, warn_of_host

# --- A verb that a known caller requests on a configured VM ---


@dataclass(frozen=True)
class VerbFields:
    """The fields of a request other than its VM. An empty text stands for a field that was left out."""

    verb: str
    _: KW_ONLY
    reason: str = ""
    if_state: str = ""
    if_last: str = ""
    job: str = ""
    anyway: str = ""
    proves: str = ""  # `drill` or `doctor`, if the host must record after the verb that it was proven
    again: bool = False  # the client has sent this id before


@dataclass(frozen=True)
class VerbRequest(VerbFields):
    """An authenticated and permitted request."""

    vm: Vm
    id: str
    caller: Caller
    received: float  # Unix time
    place: Host | None = None  # the host that the request was sent to; None before that
    # of `states`: the VMs that may be shown, by number: each VM's name here and the wanted one on Proxmox
    seen: Mapping[int, Mapping[str, str]] = field(default_factory=dict)

    @property
    def host(self) -> Host:
        """The host that the request was sent to; before that, the VM's first host."""
        return self.place or self.vm.hosts[0]

    @property
    def rules(self) -> Verb:
        """The verb's row in the table of verbs."""
        return VERBS[self.verb]

    @property
    def by_hand(self) -> tuple[str, ...]:
        """The commands that do the same on the host."""
        return by_hand(self.vm, self.host, self.verb)

    @property
    def warnings(self) -> list[str]:
        """What the operator should change in the configuration."""
        caller, vm, now = self.caller, self.vm, datetime.fromtimestamp(self.received, UTC)
        found = [*warn_of_expiry(caller, now), *warn_of_host(self.host), *warn_of_guest(vm, [caller])]
        return [each.text for each in found]


# --- Remembers which ids this process may have sent ---


class SentIds:
    """The newest 10,000 ids under which this process may have sent a verb, with the number of attempts.

    A browser whose connection breaks before the answer's first byte repeats the request by itself, so the operator
    knows of one attempt only. The host's record decides whether a verb runs. This class only prevents the message
    "nothing was sent" after an earlier attempt, and shows that a request is repeated.
    """

    def __init__(self, limit: int = 10_000) -> None:
        self._limit = limit
        self._attempts: dict[str, int] = {}

    def add(self, msg_id: str) -> None:
        """Record that an attempt is about to be sent."""
        self._attempts[msg_id] = self._attempts.pop(msg_id, 0) + 1  # pop() moves the id to the end, as the newest one
        if len(self._attempts) > self._limit:
            del self._attempts[next(iter(self._attempts))]

    def __contains__(self, msg_id: str) -> bool:
        """Tell whether an attempt is recorded."""
        return msg_id in self._attempts

    def take_back(self, msg_id: str) -> bool:
        """Record that an attempt sent nothing; return whether no other attempt is recorded."""
        left = self._attempts.pop(msg_id, 2) - 1  # 2, because an id that was forgotten may have had another attempt
        if left > 0:
            self._attempts[msg_id] = left
        return left <= 0

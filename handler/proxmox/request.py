"""A verb that a known caller requests on a configured VM. Pure."""

from dataclasses import dataclass
from datetime import UTC, datetime

from ..auth.signing import Caller
from ..config.model import Host, Vm, by_hand
from ..config.warnings import warn_of_expiry, warn_of_guest, warn_of_host
from ..verbs import VERBS


@dataclass(frozen=True)
class VerbRequest:
    """An authenticated and permitted request. An empty text stands for a field that was left out."""

    verb: str
    vm: Vm
    id: str
    caller: Caller
    received: float  # Unix time
    reason: str = ""
    if_state: str = ""
    if_last: str = ""
    job: str = ""
    anyway: str = ""
    proves: str = ""  # `drill` or `doctor`: the host records that it was proven, once the verb is done
    again: bool = False  # the client has sent this id before
    place: Host | None = None  # the host that it was sent to; None before that

    @property
    def host(self) -> Host:
        """The host that the request was sent to; before that, the VM's first host."""
        return self.place or self.vm.hosts[0]

    @property
    def is_mutating(self) -> bool:
        """Tell whether the verb can change the VM's power state."""
        return VERBS[self.verb].mutating

    @property
    def is_job(self) -> bool:
        """Tell whether the host records the request by its id."""
        return VERBS[self.verb].is_job

    @property
    def by_hand(self) -> tuple[str, ...]:
        """The commands that do the same on the host."""
        return by_hand(self.vm, self.host, self.verb)

    @property
    def start_by_hand(self) -> tuple[str, ...]:
        """The commands that start the VM on the host."""
        return by_hand(self.vm, self.host, "start")

    @property
    def warnings(self) -> list[str]:
        """What the operator should change in the configuration."""
        caller, vm, now = self.caller, self.vm, datetime.fromtimestamp(self.received, UTC)
        found = [*warn_of_expiry(caller, now), *warn_of_host(self.host), *warn_of_guest(vm, [caller])]
        return [each.text for each in found]

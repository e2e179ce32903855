"""A verb that a known caller requests on a configured VM. Pure."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ..auth.signing import Caller
from ..config.model import Vm, by_hand
from ..verbs import VERBS

WARN_BEFORE = timedelta(days=14)


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
        return by_hand(self.vm, self.verb)

    @property
    def start_by_hand(self) -> tuple[str, ...]:
        """The commands that start the VM on the host."""
        return by_hand(self.vm, "start")

    @property
    def warnings(self) -> list[str]:
        """What the operator should change in the configuration."""
        caller, vm, found = self.caller, self.vm, []
        if caller.not_after and caller.not_after - datetime.fromtimestamp(self.received, UTC) < WARN_BEFORE:
            found.append(
                f"the key of {caller.name} expires on {caller.not_after:%Y-%m-%d}; make a new one: breakglass keys new"
            )
        if vm.host.any_host_key:
            found.append(f"the host key of {vm.host.name} is not checked: pin hosts.{vm.host.name}.host_key")
        if "chat" in caller.allow and vm.guest is not None and vm.guest.user == "root":
            found.append(f"claude logs in to {vm.name} as root: inside it, it may change anything without asking")
        return found

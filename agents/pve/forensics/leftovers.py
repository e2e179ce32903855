"""What is left of a VM that was seen stopped, told from the QEMU of a start that is at work.

A new QEMU is in the VM's scope before it answers, and `qm start` holds the VM's lock file for as long. So the lock file
and the state are read after the processes: a start that has ended in between shows as a VM that runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ..host.paths import Host
from ..host.pve_tasks import Holder, flock_holders
from ..host.vmstate import Facts, leftover_pids, observe, vm_state


@dataclass(frozen=True)
class Leftovers:
    """What is in the scope of a VM that was seen stopped.

    Attributes:
        pids: the processes that are left of it.
        starter: the process that starts the VM, 0 without one.
        facts: what is seen of the VM now, if it was started meanwhile.
    """

    pids: tuple[int, ...] = ()
    starter: int = 0
    facts: Facts | None = None


def starter_pid(holders: Sequence[Holder]) -> int:
    """Return the one of the lock file's holders that starts the VM, 0 without one."""
    return next((holder.pid for holder in holders if holder.kind == "start"), 0)


def find_leftovers(host: Host) -> Leftovers:
    """Return what is left of a VM that was seen stopped."""
    if not leftover_pids(host):
        return Leftovers()
    if starter := starter_pid(flock_holders(host)):
        return Leftovers(starter=starter)
    facts = observe(host)
    if vm_state(facts) != "stopped":
        return Leftovers(facts=facts)
    return Leftovers(tuple(leftover_pids(host)))

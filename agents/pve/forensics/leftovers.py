"""What is left of a VM that was seen stopped, or of a stale copy whose VM is on another node."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from ..host.paths import Host
from ..host.process import read_stat
from ..host.pve_tasks import Holder, flock_holders
from ..host.vmstate import Facts, leftover_pids, observe, vm_state

# --- What is left of a VM that was seen stopped, as opposed to the QEMU of a start under way ---
#
# A new QEMU is in the VM's scope before it answers, and until then `qm start` holds the VM's lock file. So the lock
# file and the state are read after the processes, because a start that has ended in between shows as a VM that runs.


@dataclass(frozen=True)
class Leftovers:
    """What is in the scope of a VM that was seen stopped.

    Attributes:
        pids: the processes that are left of it.
        starter: the process that starts the VM, 0 without one.
        facts: the present state of the VM, if it was started meanwhile.
    """

    pids: tuple[int, ...] = ()
    starter: int = 0
    facts: Facts | None = None


def starter_pid(holders: Sequence[Holder]) -> int:
    """Return the lock file's holder that starts the VM, 0 if there is none."""
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


# --- Sentences about remaining processes, and the commands that end them. These functions send no signal ---


def name_processes(pids: list[int]) -> str:
    """Return the subject and verb of a sentence about some processes."""
    return f"process {pids[0]} is" if len(pids) == 1 else f"processes {', '.join(map(str, pids))} are"


def describe_leftovers(pids: list[int]) -> tuple[str, ...]:
    """Return a line for each process that is left in the scope of a stopped VM, and lines that say how to end it."""
    return leftover_lines(pids, [describe_process(pid) for pid in pids])


def leftover_lines(pids: Sequence[int], remains: Sequence[str]) -> tuple[str, ...]:
    """Return lines that name the processes left of a stopped VM, and what ends them.

    Args:
        pids: the processes.
        remains: a description of each, `NAME, process PID, state S`; none if they were not looked at.
    """
    if not remains:
        return (f"left in the VM's scope: {', '.join(map(str, pids))}",)
    lines = [f"left in the VM's scope: {line}" for line in remains]
    killable = [pid for pid, line in zip(pids, remains, strict=False) if ", state D" not in line]
    if len(killable) < len(remains):
        lines.append("no signal ends a process in state D: repair the host's storage, or reboot the host")
    if killable:
        lines.append(f"by hand: kill {' '.join(map(str, killable))}, and kill -9 if that is not enough; then start")
    return tuple(lines)


def describe_process(pid: int) -> str:
    """Return `NAME, process PID, state S`, where S is the letter of the state in proc(5)."""
    name, fields = read_stat(pid)
    return f"{name}, process {pid}, state {_deepest_state(pid, fields[0])}" if fields else f"process {pid}"


def _deepest_state(pid: int, state: str) -> str:
    """Return D where any thread waits uninterruptibly, else the first thread's own state."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return state
    return "D" if any(read_stat(f"{pid}/task/{tid}")[1][:1] == ["D"] for tid in threads) else state


# --- The sentence and the evidence about a stale copy, a QEMU of a VM whose configuration is on another node. Pure.
#
# `qm` does not end such a QEMU. Without HA, `qm` finds no configuration here; under HA, `qm stop` asks HA, which stops
# the VM on the other node (API2/Qemu.pm, vm_stop).


def describe_copy(vmid: int, here: str, node: str, ha: str) -> tuple[str, ...]:
    """Return a verdict's sentence, its advice, which is empty, and its evidence with the two ways out for a person.

    `ha` is the state requested of HA, because the configuration of a VM under HA must not be moved by hand.
    """
    conf = f"qemu-server/{vmid}.conf"
    keep = f"mv /etc/pve/nodes/{node}/{conf} /etc/pve/nodes/{here}/{conf}"
    return (
        f"a QEMU of VM {vmid} still runs on {here}, but the VM's configuration is on node {node}; send stop to "
        "end this QEMU first",
        "",
        f"/etc/pve/.vmlist names {node}, and no migration is under way",
        f"by hand on {here}, to end this QEMU, because qm can't: kill $(cat /run/qemu-server/{vmid}.pid)",
        *(() if ha else (f"by hand, to keep this QEMU, only if the VM does not run on {node}: {keep}",)),
    )

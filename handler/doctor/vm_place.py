"""Judges what a VM's hosts say about it. Only the host that has the VM is asked for its check. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..config.model import Vm, kill_by_hand
from ..findings import Finding, error, ok

FIX_HOST = "fix the errors of host"


@dataclass(frozen=True)
class VmPlace:
    """Where a VM is, as one host says: `node` has it, `here` is the host's own node; docs/protocol.md has `where`."""

    node: str = ""
    here: str = ""
    sure: bool = False
    is_copy: bool = False

    @property
    def has_vm(self) -> bool:
        """Whether this host's node surely has the VM."""
        return self.sure and self.node == self.here


@dataclass
class VmFindings:
    """What one host says of a VM: where it is, and the findings of its check; `served` are those about the keys."""

    place: VmPlace = VmPlace()
    checked: list[Finding] = field(default_factory=list)
    served: list[Finding] = field(default_factory=list)


def read_place(result: Mapping[str, object]) -> VmPlace:
    """Return what the answer to `where` says."""
    node, here = (str(result.get(name, ""))[:200] for name in ("node", "here"))
    sure = result.get("sure") is True
    is_other = sure and node != here and result.get("migrating") is not True
    return VmPlace(node, here, sure, is_other and result.get("process") is True)


def find_owner(vm: Vm, said: Mapping[str, VmFindings]) -> str:
    """Return the name of the VM's host that surely has it, or an empty text."""
    return next((host.name for host in vm.hosts if host.name in said and said[host.name].place.has_vm), "")


def judge_vm(vm: Vm, said: Mapping[str, VmFindings], nodes: Mapping[str, str]) -> Iterator[Finding]:
    """Yield what was found about a VM.

    Args:
        vm: the VM.
        said: what each of its hosts said of it, by the host's name; a host that was not asked is missing.
        nodes: the name of the node that each host is, as far as is known.
    """
    ours = [(host, said[host.name]) for host in vm.hosts if host.name in said]
    for _, each in ours:
        yield from each.served
    owner = find_owner(vm, said)
    named = next((each.place.node for _, each in ours if each.place.sure), "")
    if owner:
        yield from said[owner].checked
    elif named:
        yield _judge_elsewhere(vm, named, [host.name for host in vm.hosts if nodes.get(host.name) == named])
    elif any(each.checked for _, each in ours):
        for _, each in ours:
            yield from each.checked
    elif not any(each.served for _, each in ours):
        sentence = f"the VM was not looked at, because {vm.host.name} could not be asked"
        yield error(f"VM {vm.name}", "vm-not-seen", sentence, f"{FIX_HOST} {vm.host.name} first")
    for host, each in ours:
        if each.place.is_copy:
            sentence = f"a QEMU of VM {vm.vmid} still runs on {host.name}, but its configuration is on node {named}"
            yield error(f"VM {vm.name}", "stale-copy", sentence, f"send stop, or run {kill_by_hand(host, vm.vmid)}")
        elif each.place.sure and host.name != owner:
            sentence = (
                f"VM {vm.vmid} is on node {named} now, so {host.name} gets verbs for it only after it moves there"
            )
            yield ok(f"VM {vm.name}", "may-run-here", sentence)


def _judge_elsewhere(vm: Vm, node: str, hosts: Sequence[str]) -> Finding:
    if hosts:
        sentence = f"the VM is on node {node}, but {hosts[0]}, the host for that node, could not be asked"
        return error(f"VM {vm.name}", "vm-not-seen", sentence, f"{FIX_HOST} {hosts[0]} first")
    sentence = f"VM {vm.vmid} is on node {node}, but vms.{vm.name}.hosts has no host for it, so its verbs are refused"
    return error(
        f"VM {vm.name}", "vm-elsewhere", sentence, f"add the host of {node} to vms.{vm.name}.hosts, and reload"
    )

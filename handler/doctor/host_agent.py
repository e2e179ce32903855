"""Judges a host agent's answers about itself, its host, and where the VMs are. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..agents.pve.words import VERSION, WRONG_NAME
from ..base.findings import ERROR, WARNING, Finding, error, ok, warning
from ..base.text import shown
from ..config.model import Host, Vm, kill_by_hand
from ..proxmox.handshake import Handshake

# --- Judge the host agent's answers about itself, its host and its VMs. Pure ---

CLOCK_SECONDS = 10.0
OLDEST = (0, 3)  # the oldest version of the host agent that this handler works with
LEVELS = {"ok", WARNING, ERROR}
MOST_FINDINGS = 200  # of one check
TEXT_CHARS = 600  # the most characters of a sentence from the host


def judge_agent(host: Host, agent: Handshake, digest: str) -> Finding:
    """Judge the version of the host agent, because the handler was tested only with its own copy of the agent."""
    place, upgrade = f"host {host.name}", f"breakglass host upgrade {host.name}"
    version = shown(agent.version)
    if _parse_version(agent.version) < OLDEST:
        what = f"the host agent is {version}, which this handler does not work with"
        return error(place, "agent-too-old", what, upgrade)
    if agent.version != VERSION:
        newer = _parse_version(agent.version) > _parse_version(VERSION)
        fix = f"upgrade this handler to {version}: breakglass docs upgrade" if newer else upgrade
        return warning(place, "agent-outdated", f"the host agent is {version} and this handler {VERSION}", fix)
    if agent.bundle != digest:
        what = f"the host agent is another build of {VERSION} than this handler's"
        return warning(place, "agent-outdated", what, upgrade)
    return ok(place, "agent-current", f"the host agent is {VERSION}, the same build as this handler")


def _parse_version(text: str) -> tuple[int, ...]:
    numbers = [word for word in text.split("+")[0].split(".") if word.isdecimal()]
    return tuple(map(int, numbers[:3]))


def judge_node(host: Host, agent: Handshake) -> Finding:
    """Judge whether the host is the node that the configuration names."""
    place, node = f"host {host.name}", shown(agent.node)
    if not host.node:
        what = f'the host is the node "{node}"; hosts.{host.name}.node is not set, so another node would not be noticed'
        return ok(place, "node-not-named", what)
    if agent.node == host.node:
        return ok(place, "right-node", f'the host is the node "{node}", as hosts.{host.name}.node says')
    what = f'{host.ssh} is the node "{node}", and hosts.{host.name}.node is "{host.node}", so no verb is sent there'
    fix = f'if that address is right, write hosts.{host.name}.node = "{node}"'
    return error(place, "wrong-node", what, fix)


def judge_served(host: Host, agent: Handshake, vms: Sequence[Vm]) -> Iterator[tuple[Vm, Finding]]:
    """Judge whether the power key serves each VM of the host. A VM without it on its first host is an error."""
    user = "" if host.ssh.user == "breakglass" else f" --user {host.ssh.user}"
    for vm in vms:
        if vm.vmid in agent.vms:
            continue
        what = f"the power key of {host.name} serves VM {agent.vms} and not {vm.vmid}"
        fix = f"as root on {host.ssh.host}: breakglass-pve allow {vm.vmid}{user}"
        level = ERROR if vm.host == host else WARNING
        yield vm, Finding(level, f"VM {vm.name}", "vm-not-served", what, fix)


def judge_wish(host: Host, agent: Handshake, vms: Sequence[Vm]) -> Iterator[Finding]:
    """Warn of each VM with a setting that the host does not follow, because its host agent is too old."""
    old, fix = f"the host agent on {host.name} is too old to", f"breakglass host upgrade {host.name}"
    for vm in vms:
        if not (vm.last_words or agent.no_last_words):
            what = f"{old} be asked not to read the guest's kernel log, so it reads that log"
            yield warning(f"VM {vm.name}", "last-words-read", what, fix)
        if vm.proxmox_name and not agent.names:
            what = f"{old} compare the VM's name, so verbs act on a VM of any name"
            yield warning(f"VM {vm.name}", "name-not-compared", what, fix)


def judge_clock(host: Host, its_time: object, sent: float, received: float) -> Finding | None:
    """Compare the host's clock with this machine's, read before (`sent`) and after (`received`). None if unknown."""
    if not isinstance(its_time, int | float) or isinstance(its_time, bool):
        return None
    off = its_time - min(max(its_time, sent), received)
    if abs(off) < CLOCK_SECONDS:
        return ok(f"host {host.name}", "clock-right", "the host's clock agrees with this machine's")
    which = "ahead of" if off > 0 else "behind"
    what = f"the host's clock is {abs(off):,.0f} s {which} this machine's, so the times in history and the log differ"
    fix = f"on {host.ssh.host} and here: timedatectl; then run systemctl restart chrony (or systemd-timesyncd) on the "
    return warning(f"host {host.name}", "clock-differs", what, f"{fix}one that is wrong")


def pass_on(place: str, code: str, answer: object) -> Iterator[Finding]:
    """Yield the warnings and errors of the host's own check, and the number of its other findings."""
    found = [each for each in answer if isinstance(each, dict)] if isinstance(answer, list) else []
    good = 0
    for each in found[:MOST_FINDINGS]:
        level, sentence, hint = (str(each.get(name, ""))[:TEXT_CHARS] for name in ("level", "sentence", "hint"))
        if level not in LEVELS or level == "ok":
            good += level == "ok"
            continue
        its = "qm" if sentence.startswith("qm ") else code
        yield Finding(level, place, its, printable(sentence), printable(hint) or f"breakglass-pve check, at {place}")
    if good:
        yield ok(place, code, f"breakglass-pve check finds {good} things in order there")


def judge_name(vm: Vm, told: object) -> Iterator[Finding]:
    """Judge the VM's name on Proxmox, which is wrong if the VM's number was given to another VM."""
    place, wanted = f"VM {vm.name}", vm.proxmox_name
    if isinstance(told, str) and wanted not in ("", told):
        fix = f"find the VM with qm list, correct vms.{vm.name}.vmid or vms.{vm.name}.name, and reload"
        yield error(place, "wrong-vm", WRONG_NAME.format(vm.vmid, shown(told), wanted), fix)
    elif isinstance(told, str) and told:
        yield ok(place, "vm-name", f'VM {vm.vmid} "{shown(told)}" is configured there')


def printable(text: str) -> str:
    """Return a host's text for a terminal: without control characters."""
    return "".join(char if char.isprintable() else " " for char in text)


# --- Judge the answers of a VM's hosts about the VM. Only the host that has the VM is asked for its check ---

FIX_HOST = "fix the errors of host"


@dataclass(frozen=True)
class VmPlace:
    """One host's answer to `where` (docs/host-agent.md). `node` has the VM, `here` is the host's own node."""

    node: str = ""
    here: str = ""
    sure: bool = False
    is_copy: bool = False

    @property
    def has_vm(self) -> bool:
        """Whether this host's node certainly has the VM."""
        return self.sure and self.node == self.here


@dataclass
class VmFindings:
    """One host's findings about a VM: its place, and the results of its check. `served` is about the keys."""

    place: VmPlace = VmPlace()
    checked: list[Finding] = field(default_factory=list)
    served: list[Finding] = field(default_factory=list)


def read_place(result: Mapping[str, object]) -> VmPlace:
    """Return the place from the answer to `where`."""
    node, here = (str(result.get(name, ""))[:200] for name in ("node", "here"))
    sure = result.get("sure") is True
    is_other = sure and node != here and result.get("migrating") is not True
    return VmPlace(node, here, sure, is_other and result.get("process") is True)


def find_owner(vm: Vm, said: Mapping[str, VmFindings]) -> str:
    """Return the name of the host that certainly has the VM, or an empty text."""
    return next((host.name for host in vm.hosts if host.name in said and said[host.name].place.has_vm), "")


def judge_vm(vm: Vm, said: Mapping[str, VmFindings], nodes: Mapping[str, str]) -> Iterator[Finding]:
    """Yield what was found about a VM.

    Args:
        vm: the VM.
        said: the findings of each of its hosts, by the host's name. A host that was not asked is missing.
        nodes: the name of each host's node, if it is known.
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
        sentence = f"the VM was not checked, because {vm.host.name} could not be asked"
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

"""Checks each Proxmox host and its VMs: name, login, host key, keys, host agent, and its own check."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from ..agents.bundle import bundle_digest
from ..base.findings import Finding, error, warning
from ..base.manager import manager
from ..base.threads import run_in_thread
from ..config.model import Config, Host, Vm
from .configuration import normal
from .host_agent import find_owner, judge_vm
from .host_walk import HostLook
from .visit import Visit

DIGEST_SECONDS = 20.0


async def look_at_hosts(visit: Visit, found: list[Finding]) -> None:
    """Check all hosts in parallel. Add the findings about each host, and then those about each VM."""
    if not visit.vm:
        found += _as_sentences(_find_hosts_off(visit))
    if visit.config:
        found += _as_sentences(await _look(visit, visit.config))


def _as_sentences(findings: Iterable[Finding]) -> list[Finding]:
    return [replace(each, sentence=as_sentence(each.sentence)) for each in findings]


def as_sentence(text: str) -> str:
    """Return a text with a capital letter, unless it begins with a setting or an address, and with a full stop."""
    first = text.split(" ")[0].rstrip(",:")
    head = text[:1] if "." in first or "/" in first or not first.isalpha() else text[:1].upper()
    return f"{head}{text[1:]}" + ("" if text.endswith((".", "?")) else ".")


async def _look(visit: Visit, config: Config) -> list[Finding]:
    used = {host.name for vm in visit.vms for host in vm.hosts}
    looks = [HostLook(visit, host) for host in config.hosts.values() if not visit.vm or host.name in used]
    # each check compares this digest of the bundle with the digest of its host's file
    digest = run_in_thread(bundle_digest, DIGEST_SECONDS)
    await asyncio.gather(digest, *(look.walk() for look in looks))
    found = [finding for look in looks for finding in look.found]
    found += [*_find_same_machine(looks), *_find_vms_off(visit, config)]
    clusters = {look.host.name: look.cluster for look in looks}
    found += [*find_other_clusters(visit.vms, clusters), *find_unnamed_clusters(visit.vms, clusters)]
    nodes = {look.host.name: look.host.node or look.identity[1] for look in looks}
    for vm in visit.vms:
        said = {look.host.name: look.of_vms[vm.name] for look in looks if vm.name in look.of_vms}
        visit.owners[vm.name] = find_owner(vm, said) or vm.host.name
        found += judge_vm(vm, said, nodes)
    return found


def _find_hosts_off(visit: Visit) -> Iterator[Finding]:
    """Find the hosts whose configuration has a fault, even if no handler would start with it."""
    faults = [problem for problem in visit.problems if problem.place.startswith("hosts.")]
    known = visit.config.hosts if visit.config else {}
    for name in dict.fromkeys(problem.place.split(".")[1] for problem in faults):
        if name not in known:
            fault = next(problem for problem in faults if problem.place.split(".")[1] == name)
            sentence = f"the host is disabled, so no verb reaches its VMs: {fault.place} {fault.sentence}"
            yield error(f"host {name}", "host-disabled", sentence, f"{fault.fix}; then run {manager().reload}")


def _find_vms_off(visit: Visit, config: Config) -> Iterator[Finding]:
    for name in config.vms_off:
        if visit.vm in ("", name):
            fix = f"run breakglass check; correct [vms.{name}] or the VM's host, then run {manager().reload}"
            yield error(f"VM {name}", "vm-disabled", "the VM's entry has an error, so the VM can't be rescued", fix)


def _find_same_machine(looks: Sequence[HostLook]) -> Iterator[Finding]:
    """Find two addresses that lead to one machine. The check of the configuration finds equal addresses."""
    first: dict[tuple[str, str], Host] = {}
    for look in looks:
        host, other = look.host, first.setdefault(look.identity, look.host)
        if all(look.identity) and normal(other.ssh) != normal(host.ssh):
            sentence = f"hosts.{other.name}.ssh and hosts.{host.name}.ssh lead to the same machine"
            yield warning(f"host {host.name}", "same-machine", sentence, f"correct hosts.{host.name}.ssh")


def find_other_clusters(vms: Sequence[Vm], clusters: Mapping[str, str | None]) -> Iterator[Finding]:
    """Find the hosts that get no verbs for a VM, because they are not in the cluster of its first host."""
    for vm in vms:
        first, *others = (host.name for host in vm.hosts)
        for name in others:
            cluster, its = clusters.get(first), clusters.get(name)
            if cluster is not None and its is not None and not cluster == its != "":
                sentence = f"{first} and {name} are not in one cluster, so no verb for the VM goes to {name}"
                yield error(f"VM {vm.name}", "other-cluster", sentence, f"remove {name} from vms.{vm.name}.hosts")


def find_unnamed_clusters(vms: Sequence[Vm], clusters: Mapping[str, str | None]) -> Iterator[Finding]:
    """Find the first hosts of VMs with several hosts whose cluster is not configured."""
    first = {vm.host.name: vm for vm in reversed(vms) if len(vm.hosts) > 1 and not vm.host.cluster}
    for name, vm in first.items():
        if cluster := clusters.get(name):
            sentence = f"if it is down when the handler starts, no power verb for {vm.name} goes to another host"
            fix = f'write cluster = "{cluster}" into [hosts.{name}], then run {manager().reload}'
            yield warning(f"host {name}", "cluster-not-named", sentence, fix)

"""Judges what the host agent says of itself, of its host and of the VMs there. Pure, given the answers."""

from collections.abc import Iterator, Sequence

from ..agents.pve.words import VERSION
from ..config.model import Host, Vm
from ..findings import ERROR, WARNING, Finding, error, ok, warning
from ..proxmox.handshake import Handshake
from ..text import shown

CLOCK_SECONDS = 10.0
OLDEST = (0, 3)  # of the host agents that this handler works with
LEVELS = {"ok", WARNING, ERROR}
MOST_FINDINGS = 200  # of one check
TEXT_CHARS = 600  # of one sentence of the host's


def judge_agent(host: Host, agent: Handshake, digest: str) -> Finding:
    """Judge the version of the host agent: the handler's own file is the one that was tested with it."""
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
        what = f'it is the node "{node}"; hosts.{host.name}.node is not set, so another node at its address would pass'
        return ok(place, "node-not-named", what)
    if agent.node == host.node:
        return ok(place, "right-node", f'it is the node "{node}", as hosts.{host.name}.node says')
    what = f'{host.ssh} is the node "{node}", and hosts.{host.name}.node is "{host.node}", so no verb is sent there'
    fix = f'correct hosts.{host.name}.ssh; or, if the address is right, write hosts.{host.name}.node = "{node}"'
    return error(place, "wrong-node", what, fix)


def judge_kinds(host: Host, recipe: str, power: Handshake | None, reading: Handshake | None) -> Iterator[Finding]:
    """Judge whether each key is of its kind; None for a key with which the host agent did not answer."""
    place, table = f"host {host.name}", f"hosts.{host.name}"
    if power and reading and power.read_only and not reading.read_only:
        fix = f"swap {table}.key_file and {table}.read_only_key_file, then systemctl reload breakglass"
        what = "the power key and the read-only key are swapped: claude could change power, and no verb could"
        yield error(place, "keys-swapped", what, fix)
        return
    if power and power.read_only:
        fix = f"take --read-only out of the power key's line: {recipe}"
        yield error(place, "power-key-read-only", "the power key's line has --read-only, so it changes no power", fix)
    if reading and not reading.read_only:
        fix = f"put --read-only into the read-only key's line: {recipe}"
        what = "the read-only key can change power: its line has no --read-only, so claude could stop a VM by itself"
        yield error(place, "read-only-key-has-power", what, fix)


def judge_served(
    host: Host, kind: str, agent: Handshake, vms: Sequence[Vm], is_needed: bool
) -> Iterator[tuple[Vm, Finding]]:
    """Judge whether a key serves each VM that may run on the host; on its first host, a rescue depends on it."""
    user = "" if host.ssh.user == "breakglass" else f" --user {host.ssh.user}"
    for vm in vms:
        if vm.vmid in agent.vms:
            continue
        what = f"the {kind} key of {host.name} serves VM {agent.vms} and not {vm.vmid}"
        fix = f"as root on {host.ssh.host}: breakglass-pve allow {vm.vmid}{user}; or correct vms.{vm.name}.vmid"
        level = ERROR if is_needed and vm.host == host else WARNING
        code = "vm-not-served" if kind == "power" else "vm-not-served-to-claude"
        yield vm, Finding(level, f"VM {vm.name}", code, what, fix)


def judge_clock(host: Host, its_time: object, sent: float, received: float) -> Finding | None:
    """Compare the host's clock with this machine's, which read `sent` before and `received` after; None if unknown."""
    if not isinstance(its_time, int | float) or isinstance(its_time, bool):
        return None
    off = its_time - min(max(its_time, sent), received)
    if abs(off) < CLOCK_SECONDS:
        return ok(f"host {host.name}", "clock-right", "its clock agrees with this machine's")
    which = "ahead of" if off > 0 else "behind"
    what = f"its clock is {abs(off):,.0f} s {which} this machine's, so times in history and in the log don't agree"
    fix = f"on {host.ssh.host} and here: timedatectl; then systemctl restart chrony (or systemd-timesyncd) on the "
    return warning(f"host {host.name}", "clock-differs", what, f"{fix}one that is wrong")


def pass_on(place: str, code: str, answer: object) -> Iterator[Finding]:
    """Yield what the host's own check found: each warning and error, and how many findings are in order."""
    found = [each for each in answer if isinstance(each, dict)] if isinstance(answer, list) else []
    good = 0
    for each in found[:MOST_FINDINGS]:
        level, sentence, hint = (str(each.get(name, ""))[:TEXT_CHARS] for name in ("level", "sentence", "hint"))
        if level not in LEVELS or level == "ok":
            good += level == "ok"
            continue
        yield Finding(level, place, code, printable(sentence), printable(hint) or f"breakglass-pve check, at {place}")
    if good:
        yield ok(place, code, f"breakglass-pve check finds {good} things in order there")


def printable(text: str) -> str:
    """Return a host's text for a terminal: without control characters."""
    return "".join(char if char.isprintable() else " " for char in text)

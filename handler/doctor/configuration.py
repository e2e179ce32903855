"""Checks the configuration: problems that a start reports, and mistakes that a start accepts."""

import ctypes
import os
import shlex
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar

from ..base.findings import Finding
from ..base.threads import run_in_thread
from ..config.model import Address, Config
from ..config.warnings import warn_of_mode
from .visit import CONFIGURATION, HANDLER_UNIT, KEEP_CLOCK, Visit, about

T = TypeVar("T")

DISK_SECONDS = 8.0
_LOWEST_VMID = 100  # Proxmox VE reserves lower numbers
_UNMAPPED_UID = 65534  # proc_sys_kernel(5), overflowuid
_LEAST_FILES = 512
_STA_UNSYNC = 0x40  # adjtimex(2)

found_ok, found_warning, found_error = about(CONFIGURATION)


async def look_at_configuration(visit: Visit, found: list[Finding]) -> None:
    """Add the problems of the configuration's file and settings."""
    if visit.path is None:
        found.append(_find_no_file(visit))
        return
    found += visit.problems_of(CONFIGURATION)
    config, warnings = visit.config, warn_of_mode(visit.environment)
    if config is None:
        what = f"A handler can't start with {visit.path}, so no rescue is possible."
        fix = f"fix the errors, then run: breakglass check {shlex.quote(str(visit.path))}"
        found.append(found_error("no-start", what, fix))
    else:
        found += [*_find_shared_places(config), *_find_vms(config)]
        warnings = [each for each in config.warnings if each.code.endswith("-file-ignored")] + warnings
    found += [replace(each, place=CONFIGURATION, sentence=f"{each.sentence}.") for each in warnings]
    found += await run_in_thread(lambda: list(_find_on_disk(visit)), DISK_SECONDS)
    found += _find_clock()
    found += _find_unit(visit)
    if config is not None and not visit.problems:
        found.append(found_ok("config-read", f"{visit.path} has no problems; {config.names}."))


def _find_no_file(visit: Visit) -> Finding:
    if visit.signer is not None:
        return found_ok("no-config", f"There is no configuration here, so only the handler at {visit.url} is checked.")
    what = "There is no configuration here (BREAKGLASS_CONFIG), and no handler's URL with a signing key "
    what += "(BREAKGLASS_URL, BREAKGLASS_SECRET_FILE), so nothing can be checked."
    usual = "/etc/breakglass/breakglass.toml"
    fix = f"export BREAKGLASS_CONFIG={usual}" if os.path.lexists(usual) else "run breakglass init to make one"
    return found_error("no-config", what, fix)


# --- hosts ---


def _find_shared_places(config: Config) -> Iterator[Finding]:
    """Find hosts whose settings lead to one machine, because a verb for one would reach the other."""
    hosts = config.hosts.values()
    for address, names in _shared((normal(host.ssh), host.name) for host in hosts):
        what = f"The hosts {_and(names)} have the same address, {address}, so a verb for one goes to the other."
        yield found_error("same-machine", what, f"set ssh of [hosts.{names[-1]}] to its own address")
    for node, names in _shared((host.node.lower(), host.name) for host in hosts if host.node):
        what = f"The hosts {_and(names)} have the same node, {node}, and a node is one machine."
        fix = f"run hostname -s on {names[-1]}, and write it as node of [hosts.{names[-1]}]"
        yield found_error("hosts-share-node", what, fix)
    keys = _shared((" ".join(line.split()[:2]), host.name) for host in hosts for line in host.host_keys)
    for pair in sorted({tuple(names) for _, names in keys}):
        what = f"The hosts {_and(list(pair))} have the same host key, so they are one machine or copies of one."
        fix = (
            f"on the copy: rm /etc/ssh/ssh_host_*; dpkg-reconfigure openssh-server; then pin hosts.{pair[-1]}.host_key"
        )
        yield found_warning("hosts-share-host-key", what, fix)
    used = {host.name for vm in config.vms.values() for host in vm.hosts}
    for name in config.hosts:
        if name not in used and not config.vms_off:
            what = f"No VM runs on the host {name}, so it is never asked."
            yield found_warning("host-unused", what, f'add "{name}" to hosts of a [vms.NAME]')


def _shared(pairs: Iterable[tuple[T, str]]) -> list[tuple[T, list[str]]]:
    """Return each value that several names share, with these names."""
    found: dict[T, list[str]] = defaultdict(list)
    for value, name in pairs:
        if name not in found[value]:
            found[value].append(name)
    return [(value, names) for value, names in found.items() if len(names) > 1]


def normal(address: Address) -> str:
    """Return host and port, so that two spellings of one address are equal."""
    host = address.host.lower().rstrip(".")
    try:
        host = str(ip_address(host))
    except ValueError:
        pass
    return str(Address("", host, address.port))


def _and(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


# --- VMs ---


def _find_vms(config: Config) -> Iterator[Finding]:
    vms = config.vms.values()
    for vm in vms:
        if vm.vmid < _LOWEST_VMID:
            what = f"vms.{vm.name}.vmid is {vm.vmid}, and Proxmox VE has no VM below {_LOWEST_VMID}."
            fix = f"write the number that qm list shows on {vm.host.name}: vmid = …, in [vms.{vm.name}]"
            yield found_error("vmid-impossible", what, fix)
        if vm.guest is not None and normal(vm.guest) in [normal(host.ssh) for host in config.hosts.values()]:
            what = f"vms.{vm.name}.guest is the address of a Proxmox host: claude would log in there, not in the VM."
            yield found_error("guest-is-host", what, f"set guest of [vms.{vm.name}] to the address of the VM itself")
    for address, names in _shared((normal(vm.guest), vm.name) for vm in vms if vm.guest):
        what = f"The guests of {_and(names)} have the same address, {address}: claude would look at the wrong VM."
        yield found_error("guests-share-address", what, f"set guest of [vms.{names[-1]}] to its own address")
    reported = set()
    for (host_name, vmid), names in _shared(((host.name, vm.vmid), vm.name) for vm in vms for host in vm.hosts):
        if tuple(names) not in reported:
            reported.add(tuple(names))
            what = (
                f"The VMs {_and(names)} have the same number, {vmid}, on {host_name}, so a verb for one acts on "
                "the other."
            )
            fix = f"run qm list on {host_name}, and write the right vmid in [vms.{names[-1]}]"
            yield found_error("vms-share-number", what, fix)


# --- what is on this machine ---


def _find_on_disk(visit: Visit) -> Iterator[Finding]:
    """Find who else could replace the configuration or a file that it names."""
    files = visit.config.files if visit.config else [str(visit.path)]
    open_at: dict[str, list[str]] = defaultdict(list)
    for file in dict.fromkeys(files):
        if place := _find_open_directory(Path(file)):
            open_at[place].append(file)
    for place, below in open_at.items():
        what = f"Another user can write in {place}, and so can replace {', '.join(below)}."
        status, shown = _status(place), shlex.quote(place)
        chown = f"chown root {shown}; " if status and status.st_uid not in _trusted() else ""
        yield found_error("directory-exposed", what, f"{chown}chmod go-w {shown}")


def _status(file: str) -> os.stat_result | None:
    try:
        return os.stat(file)
    except OSError:
        return None


def _find_open_directory(file: Path) -> str:
    """Return the first directory above a file in which another user may put other files."""
    for above in (*Path(os.path.realpath(file)).parents, *file.absolute().parents):
        status = _status(str(above))
        is_open = status and status.st_mode & 0o022 and not status.st_mode & 0o1000
        if status and (is_open or status.st_uid not in _trusted()):
            return str(above)
    return ""


def _trusted() -> tuple[int, ...]:
    """Return the users that may replace the configuration: root, the handler's, and a container's unmapped root."""
    return (0, os.geteuid(), _UNMAPPED_UID)


def _find_unit(visit: Visit) -> Iterator[Finding]:
    """Judge the handler's unit, if it is on this machine and has this configuration."""
    unit = visit.units.get(HANDLER_UNIT, {})
    if f"BREAKGLASS_CONFIG={visit.path}" not in unit.get("Environment", "").split():
        return
    if unit.get("UnitFileState") == "disabled":
        what = "The unit breakglass is not enabled, so the handler does not start when this machine boots."
        yield found_warning("not-enabled", what, "systemctl enable breakglass")
    most = unit.get("LimitNOFILE", "")
    if most.isdecimal() and int(most) < _LEAST_FILES:
        what = f"The unit breakglass may open {most} files (LimitNOFILE), which many requests at once use up."
        fix = "systemctl edit breakglass, write LimitNOFILE=65536 below [Service], then systemctl restart breakglass"
        yield found_warning("few-files", what, fix)


def _find_clock() -> Iterator[Finding]:
    """Ask the kernel whether this machine's clock is synchronized."""
    if is_clock_kept() is False:
        what = "No time server keeps this machine's clock right. Once it is wrong by 300 s, signatures are refused."
        yield found_warning("clock-not-kept", what, KEEP_CLOCK)


def is_clock_kept() -> bool | None:
    """Return whether the kernel's clock is synchronized with a time server, or None if unknown."""
    buffer = (ctypes.c_char * 512)()  # struct timex; because its field modes is 0, the call sets nothing
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(buffer)
    except AttributeError:
        return None
    if state < 0:
        return None
    status = ctypes.c_int.from_buffer(buffer, 5 * ctypes.sizeof(ctypes.c_long))
    return not status.value & _STA_UNSYNC

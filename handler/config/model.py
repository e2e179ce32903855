"""The configuration as frozen dataclasses. Pure; `load.py` creates them."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..alerts.rules import Rule
from ..auth.signing import Caller, fingerprint
from ..base.errors import WrongHandler
from ..base.findings import Finding, as_json
from ..base.text import shown
from ..base.verbs import VERBS
from .model_api import ModelApi
from .notify import Recipient
from .server import Network, is_loopback, normal_url

# names that the host agent accepts as by=, without a leading dot, because such a file would be hidden
_NAME = re.compile(r"(?!\.)[A-Za-z0-9@._-]{1,64}", re.ASCII)
_VM_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}", re.ASCII)
_HOST_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}", re.ASCII)
_RESERVED = ("pve", "ssh", "claude")  # other commands on claude's PATH, besides the command that is named after the VM
# bash handles these words itself. A guest's command with such a name would run something on this machine instead.
_SHELL = """
alias bg bind break builtin caller case cd command compgen complete compopt continue coproc declare dirs disown do done
echo elif else enable esac eval exec exit export false fc fg fi for function getopts hash help history if in jobs kill
let local logout mapfile popd printf pushd pwd read readarray readonly return select set shift shopt source suspend
test then time times trap true type typeset ulimit umask unalias unset until wait while
"""


@dataclass(frozen=True)
class Address:
    """Where an SSH server is."""

    user: str
    host: str
    port: int = 22

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Host:
    """One Proxmox VE node and how to log in to it.

    `host_keys` and `host_cas` are OpenSSH public keys; if both are empty, any host key is accepted, with a warning.
    `key` is the power key.
    """

    name: str
    ssh: Address
    key: str = field(repr=False)
    host_keys: tuple[str, ...] = ()
    host_cas: tuple[str, ...] = ()
    node: str = ""  # its name in Proxmox; if empty, the name that the host agent reports is not checked
    cluster: str = ""  # the name of its cluster, used until the host agent has reported it

    @property
    def any_host_key(self) -> bool:
        """Tell whether any host key is accepted."""
        return not (self.host_keys or self.host_cas)


@dataclass(frozen=True)
class Vm:
    """One VM and the hosts (at least one) on which it may run.

    `guest` is the address at which claude can log in to the VM itself, with `guest_key`.
    """

    name: str
    vmid: int
    hosts: tuple[Host, ...]
    by_hand: tuple[str, ...] = ()
    guest: Address | None = None
    guest_host_keys: tuple[str, ...] = ()
    guest_host_cas: tuple[str, ...] = ()
    drill: bool = False  # whether a drill may power-cycle the VM
    hosts_off: tuple[str, ...] = ()  # the VM's hosts that an error in the configuration has disabled
    guest_key: str = field(default="", repr=False)
    proxmox_name: str = ""  # the name that the VM must have on Proxmox; if empty, any name will do
    last_words: bool = True  # if this is false, the handler asks the hosts not to read the guest's kernel log

    @property
    def host(self) -> Host:
        """The first of `hosts`. It is used by claude, doctor and the checks of the configuration."""
        return self.hosts[0]

    def may_run_at(self, host: Host) -> bool:
        """Tell whether a host is among the VM's hosts, even if other values in the host's table have changed."""
        return any((own.name, own.ssh) == (host.name, host.ssh) for own in self.hosts)


@dataclass(frozen=True)
class ChatSettings:
    """The settings of [chat]."""

    sessions_dir: str
    api: ModelApi
    command: str = "claude"
    max_turns_at_once: int = 3
    turn_seconds: int = 1800
    env: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Config:
    """The usable part of the configuration.

    Entries with a problem are left out. `vms_off` has the names and numbers of such VMs, and `hosts_off` the names of
    such hosts.
    """

    callers: tuple[Caller, ...]
    hosts: Mapping[str, Host]
    vms: Mapping[str, Vm]
    session_secrets: tuple[str, ...] = field(repr=False)
    sessions_dir: str = "var/sessions"
    vms_off: Mapping[str, int | None] = field(default_factory=dict)
    hosts_off: tuple[str, ...] = ()
    problems: tuple[Finding, ...] = ()
    alerts: tuple[Rule, ...] = ()
    chat: ChatSettings | None = None
    files: tuple[str, ...] = ()  # every file that was read
    directories: tuple[str, ...] = ()  # the tables that have a directory of own files
    digest: str = ""  # MAC of their contents; only someone who knows the session secret can compute it
    warnings: tuple[Finding, ...] = ()  # about valid entries
    proxies: tuple[Network, ...] = ()  # proxies whose X-Forwarded-For is trusted, for the log
    urls: tuple[str, ...] = ()  # URLs of this handler, in normal form
    metrics: tuple[Caller, ...] = ()  # who may read /metrics: one caller, or none without [metrics]
    notify: tuple[Recipient, ...] = ()

    def vm_named(self, name: str) -> Vm | None:
        """Return the VM of that name; for an empty name, return the only VM there is.

        Disabled VMs count too, because a request without a name must not go to the other of two VMs if one is disabled.
        """
        if not name and len(self.vms) + len(self.vms_off) == 1:
            return next(iter(self.vms.values()), None)
        return self.vms.get(name)

    def check_recipient(self, to: str) -> None:
        """Raise WrongHandler for a request whose `to` is the URL of another handler.

        A loopback address may belong to any handler. A handler without URLs accepts every `to`.
        """
        url = normal_url(to)
        if not (to and self.urls) or url in self.urls or (url is not None and is_loopback(url)):
            return
        own = self.urls[0]
        message = f"the request was signed for {shown(to)}, and this is {own}; nothing was sent"
        raise WrongHandler(message, f"use {own}", url=own)

    def explain_no_vm(self, name: str) -> tuple[str, str]:
        """Return why `vm_named` finds no VM, and what to do."""
        if not name and not self.vms and len(self.vms_off) == 1:
            name = next(iter(self.vms_off))
        if name in self.vms_off:
            why = "its entry in breakglass.toml has an error; its power state was not checked"
            return f"{name} is disabled: {why}", "breakglass check names the error: correct it, then reload"
        message = f"no such VM: {json.dumps(name[:40])}" if name else "there are several VMs; name one"
        return message, f"use {' or '.join(self.vms)}"

    @property
    def names(self) -> str:
        """The names of the callers, hosts and VMs, for people."""
        callers = ", ".join(caller.name for caller in self.callers)
        return f"callers: {callers}; hosts: {', '.join(self.hosts)}; VMs: {', '.join(self.vms)}"

    @property
    def summary(self) -> dict[str, object]:
        """The names, problems and warnings, for the log. Each caller is listed with the fingerprints of its keys."""
        callers = {caller.name: [fingerprint(key) for key in caller.keys] for caller in self.callers}
        found = {"problems": as_json(self.problems), "warnings": as_json(self.warnings)}
        return {"vms": list(self.vms), "callers": callers, **found}

    @property
    def chat_fault(self) -> bool:
        """Return whether chat is disabled by an error in its entry, and not because it has no entry."""
        return any(problem.place.partition(".")[0] == "chat" for problem in self.problems)


def is_caller_name(name: str) -> bool:
    """Tell whether the host agent accepts a caller's name, which it records as by=."""
    return bool(_NAME.fullmatch(name))


def is_host_name(name: str) -> bool:
    """Return whether a name is valid for a host. Every node name of Proxmox is valid."""
    return bool(_HOST_NAME.fullmatch(name))


def is_vm_name(name: str) -> bool:
    """Return whether a name is valid for a VM."""
    return bool(_VM_NAME.fullmatch(name)) and name not in _RESERVED


def is_guest_command(name: str) -> bool:
    """Return whether a VM's name can be a command for claude. A word of the shell can't be one."""
    return is_vm_name(name) and name not in _SHELL.split()


def by_hand(vm: Vm, host: Host, verb: str) -> tuple[str, ...]:
    """Return the commands that do `verb` by hand, or all commands if none is for this verb.

    The configured commands are used. If there are none, the result is the commands that root types on the host.
    """
    lines = vm.by_hand or _qm_commands(host.ssh, vm.vmid)
    if verb not in VERBS or not VERBS[verb].mutating:
        return lines
    own = _naming(lines, verb)
    return own or (verb == "cycle" and _naming(lines, "stop", "start")) or lines


def _qm_commands(ssh: Address, vmid: int) -> tuple[str, ...]:
    return tuple(f"ssh {_root_at(ssh)} qm {verb} {vmid}" for verb in ("status", "reset", "stop", "start"))


def _root_at(ssh: Address) -> str:
    return f"root@{ssh.host}" if ssh.port == 22 else f"-p {ssh.port} root@{ssh.host}"


def kill_by_hand(host: Host, vmid: int) -> str:
    """Return the command that kills a QEMU process where `qm` can't, because another node has the VM."""
    return f"ssh {_root_at(host.ssh)} 'kill $(cat /run/qemu-server/{vmid}.pid)'"


def _naming(lines: Iterable[str], *words: str) -> tuple[str, ...]:
    return tuple(line for line in lines if set(words) & set(line.split()))

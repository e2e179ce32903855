"""The configuration as frozen dataclasses. Pure; `load.py` makes them."""

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

_NAME = re.compile(r"(?!\.)[A-Za-z0-9@._-]{1,64}", re.ASCII)  # what the host agent records as by=; no hidden file
_VM_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}", re.ASCII)
_HOST_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}", re.ASCII)
_RESERVED = ("pve", "ssh", "claude")  # commands on claude's PATH, beside the one named after the VM
# bash obeys these words itself. As the name of a guest's command, each would run something on this machine instead.
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
    node: str = ""  # its name in Proxmox; if it is empty, the host agent's own word for it is not compared
    cluster: str = ""  # the name of its cluster, until the host agent has said it

    @property
    def any_host_key(self) -> bool:
        """Tell whether any host key is accepted."""
        return not (self.host_keys or self.host_cas)


@dataclass(frozen=True)
class Vm:
    """One VM and the hosts on which it may run, at least one.

    `guest` is where claude can log in to the VM itself, with `guest_key`.
    """

    name: str
    vmid: int
    hosts: tuple[Host, ...]
    by_hand: tuple[str, ...] = ()
    guest: Address | None = None
    guest_host_keys: tuple[str, ...] = ()
    guest_host_cas: tuple[str, ...] = ()
    drill: bool = False  # a drill may power-cycle it
    hosts_off: tuple[str, ...] = ()  # those of its hosts that an error in the configuration has disabled
    guest_key: str = field(default="", repr=False)

    @property
    def host(self) -> Host:
        """The first of `hosts`: claude, doctor and the checks of the configuration use it."""
        return self.hosts[0]

    def may_run_at(self, host: Host) -> bool:
        """Tell whether a host is among the VM's hosts, whatever else has changed in its table."""
        return any((own.name, own.ssh) == (host.name, host.ssh) for own in self.hosts)


@dataclass(frozen=True)
class ChatSettings:
    """What [chat] says."""

    sessions_dir: str
    api: ModelApi
    command: str = "claude"
    max_turns_at_once: int = 3
    turn_seconds: int = 1800
    env: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Config:
    """The usable part of the configuration.

    Entries with a problem are left out, except that `vms_off` has the names and numbers of such VMs, and `hosts_off`
    the names of such hosts.
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
    has_caller_directory: bool = False
    digest: str = ""  # of what is in them; only someone who knows the session secret can make it
    warnings: tuple[Finding, ...] = ()  # about entries that work
    proxies: tuple[Network, ...] = ()  # whose X-Forwarded-For is believed, for the log
    urls: tuple[str, ...] = ()  # of this handler, in normal form
    metrics: tuple[Caller, ...] = ()  # who may read /metrics: one caller, or none without [metrics]
    notify: tuple[Recipient, ...] = ()

    def vm_named(self, name: str) -> Vm | None:
        """Return the VM of that name; for an empty name, return the only VM there is.

        A disabled VM counts. If one of two VMs is disabled, a request without a name must not go to the other.
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
        """Return why `vm_named` finds no VM of that name, and what to do."""
        if not name and not self.vms and len(self.vms_off) == 1:
            name = next(iter(self.vms_off))
        if name in self.vms_off:
            why = "its entry in breakglass.toml has an error; its power state was not checked"
            return f"{name} is disabled: {why}", "breakglass check names the error: correct it, then reload"
        message = f"no such VM: {json.dumps(name[:40])}" if name else "there are several VMs; name one"
        return message, f"use {' or '.join(self.vms)}"

    @property
    def names(self) -> str:
        """The names of its callers, hosts and VMs, for people."""
        callers = ", ".join(caller.name for caller in self.callers)
        return f"callers: {callers}; hosts: {', '.join(self.hosts)}; VMs: {', '.join(self.vms)}"

    @property
    def summary(self) -> dict[str, object]:
        """The names, problems and warnings, for the log. A caller has the fingerprint of each of its keys."""
        callers = {caller.name: [fingerprint(key) for key in caller.keys] for caller in self.callers}
        found = {"problems": as_json(self.problems), "warnings": as_json(self.warnings)}
        return {"vms": list(self.vms), "callers": callers, **found}

    @property
    def chat_fault(self) -> bool:
        """Tell whether chat is disabled because its entry has an error, not because there is none."""
        return any(problem.place.partition(".")[0] == "chat" for problem in self.problems)


def is_caller_name(name: str) -> bool:
    """Tell whether the host agent accepts a caller's name, which it records as by=."""
    return bool(_NAME.fullmatch(name))


def is_host_name(name: str) -> bool:
    """Tell whether a name can be that of a host; a node's name in Proxmox always can."""
    return bool(_HOST_NAME.fullmatch(name))


def is_vm_name(name: str) -> bool:
    """Tell whether a name can be that of a VM."""
    return bool(_VM_NAME.fullmatch(name)) and name not in _RESERVED


def is_guest_command(name: str) -> bool:
    """Tell whether a VM's name can be a command of claude, which a word of the shell can't be."""
    return is_vm_name(name) and name not in _SHELL.split()


def by_hand(vm: Vm, host: Host, verb: str) -> tuple[str, ...]:
    """Return the commands that do `verb` by hand; all commands for a reading verb, or if none is for this verb.

    The commands are the configured ones. If there are none, they are those that root types on the host.
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
    """Return the command that ends a QEMU on a host where `qm` can't, because another node has the VM."""
    return f"ssh {_root_at(host.ssh)} 'kill $(cat /run/qemu-server/{vmid}.pid)'"


def _naming(lines: Iterable[str], *words: str) -> tuple[str, ...]:
    return tuple(line for line in lines if set(words) & set(line.split()))

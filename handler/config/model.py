"""What the configuration says, as frozen dataclasses, and what follows from it. Pure; `load.py` fills them in."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..alerts.rules import Rule
from ..auth.signing import Caller
from ..verbs import VERBS
from .problems import Problem

_NAME = re.compile(r"[A-Za-z0-9@._-]{1,64}", re.ASCII)  # what the host agent records as by=
_VM_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}", re.ASCII)
_RESERVED = ("pve", "ssh", "claude")  # commands on claude's PATH, beside the one named after the VM
# Words that bash obeys itself, before it looks for a command: allowed as the guest's, they would run something here.
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
class Vm:
    """One VM and the Proxmox host that runs it. `host_keys` and `host_cas` are OpenSSH public keys; both empty means
    that any host key is accepted, which is warned about. `agent_key` is claude's own, `guest` where it can log in."""

    name: str
    vmid: int
    ssh: Address
    key: str = field(repr=False)
    host_keys: tuple[str, ...] = ()
    host_cas: tuple[str, ...] = ()
    by_hand: tuple[str, ...] = ()
    agent_key: str = field(default="", repr=False)
    guest: Address | None = None
    guest_host_keys: tuple[str, ...] = ()
    guest_host_cas: tuple[str, ...] = ()

    @property
    def any_host_key(self) -> bool:
        return not (self.host_keys or self.host_cas)


@dataclass(frozen=True)
class ChatSettings:
    """What [chat] says. Neither `user` nor `shared_uid`: chat stays off, for nobody said what claude may reach."""

    sessions_dir: str
    command: str = "claude"
    user: str = ""
    shared_uid: bool = False
    max_turns_at_once: int = 2
    turn_seconds: int = 1800
    env: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Config:
    """The whole configuration, as far as this version serves it. What `problems` concern is left out of it, but for
    the names and numbers of the VMs that are off: they are still VMs that somebody may mean."""

    callers: tuple[Caller, ...]
    vms: Mapping[str, Vm]
    session_secrets: tuple[str, ...] = field(repr=False)
    sessions_dir: str = "var/sessions"
    vms_off: Mapping[str, int | None] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    alerts: tuple[Rule, ...] = ()
    chat: ChatSettings | None = None
    files: tuple[str, ...] = ()  # that were read for it

    def vm_named(self, name: str) -> Vm | None:
        """Return the VM of that name, or for none the only one there is. One that is off counts: with a fault in the
        entry of one of two, a request that names none must not go to the other."""
        if not name and len(self.vms) + len(self.vms_off) == 1:
            return next(iter(self.vms.values()))
        return self.vms.get(name)

    @property
    def chat_fault(self) -> bool:
        """Tell whether chat is off because its entry has a fault, not because there is none."""
        return any(problem.path.partition(".")[0] == "chat" for problem in self.problems)


def is_caller_name(name: str) -> bool:
    """Tell whether a caller can be named so: the host agent records it as by=."""
    return bool(_NAME.fullmatch(name))


def is_vm_name(name: str) -> bool:
    """Tell whether a VM can be named so."""
    return bool(_VM_NAME.fullmatch(name)) and name not in _RESERVED


def is_guest_command(name: str) -> bool:
    """Tell whether a VM's name can be a command of claude's: not where the shell would take it for its own word."""
    return is_vm_name(name) and name not in _SHELL.split()


def by_hand(vm: Vm, verb: str) -> tuple[str, ...]:
    """Return the commands that do `verb` by hand; all of them for a reading verb or when none is for this one."""
    if verb not in VERBS or not VERBS[verb].mutating:
        return vm.by_hand
    own = _naming(vm.by_hand, verb)
    return own or (verb == "cycle" and _naming(vm.by_hand, "stop", "start")) or vm.by_hand


def _naming(lines: Iterable[str], *words: str) -> tuple[str, ...]:
    return tuple(line for line in lines if set(words) & set(line.split()))

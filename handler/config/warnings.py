"""Warnings about a valid configuration, and the reasons for which a reload rejects one."""

import shutil
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from ..auth.signing import Caller
from ..base.findings import ConfigError, Finding, as_json, error, warning
from .model import Config, Host, Vm
from .notify import NTFY, Recipient
from .server import is_loopback, normal_url

# --- What an operator should change in a valid configuration ---

WARN_BEFORE = timedelta(days=14)
INSECURE = "BREAKGLASS_INSECURE_CONFIG_MODE"


def warn_of_expiry(caller: Caller, now: datetime) -> list[Finding]:
    """Return a warning if the caller's key expires soon, or has expired."""
    if caller.not_after is None or caller.not_after - now >= WARN_BEFORE:
        return []
    expires, place = "expired" if caller.not_after < now else "expires", f"callers.{caller.name}.not_after"
    sentence = f"the key of {caller.name} {expires} on {caller.not_after:%Y-%m-%d}"
    return [warning(place, f"caller-{expires}", sentence, f"write a later {place}")]


def warn_of_host(host: Host) -> list[Finding]:
    """Return a warning if every host key is accepted."""
    sentence, place = f"any host key of {host.name} is accepted", f"hosts.{host.name}.host_key"
    return [warning(place, "host-key-any", sentence, f"pin {place}")] if host.any_host_key else []


def warn_of_agent(host: str, its: str, own: str) -> list[str]:
    """Return a warning about a host agent of version `its`. This program's own agent has version `own`."""
    what = f"is {its}, Breakglass here {own}: upgrade the older one" if its != own else "is another build"
    return [f"the host agent on {host} {what}; breakglass host upgrade {host} installs {own} there"]


def warn_of_chat(config: Config) -> list[Finding]:
    """Return the warnings about what claude can do in guests, if chat is configured."""
    guests = [vm for vm in config.vms.values() if vm.guest is not None] if config.chat is not None else []
    found = [each for vm in guests for each in warn_of_guest(vm, config.callers)]
    if guests and shutil.which("ssh") is None:
        fix = "apt-get install openssh-client; the verbs work without it"
        found.append(warning("chat", "ssh-missing", "claude needs ssh to reach a guest, and it is not installed", fix))
    return found


def warn_of_guest(vm: Vm, callers: Iterable[Caller]) -> list[Finding]:
    """Return a warning if claude is root in the VM, and a caller may chat about the VM."""
    if vm.guest is None or vm.guest.user != "root" or not any("chat" in caller.allow for caller in callers):
        return []
    sentence = f"claude logs in to {vm.name} as root, where it can change anything without asking"
    fix = f'make an account with few rights in the guest, and write it: guest = "claude@{vm.guest.host}"'
    return [warning(f"vms.{vm.name}.guest", "guest-root", sentence, fix)]


def warn_of_receiver(receiver: Recipient) -> list[Finding]:
    """Return a warning if the token of ntfy leaves this machine without TLS."""
    is_safe = receiver.url.startswith("https:") or is_loopback(normal_url(receiver.url) or "")
    if receiver.to != NTFY or not receiver.secret or is_safe:
        return []
    sentence = f"the token of {receiver.name} is sent without TLS, so the network can read it"
    return [warning(f"{receiver.name}.url", "token-in-clear", sentence, "write an https:// address")]


def warn_of_mode(environment: Mapping[str, str]) -> list[Finding]:
    """Return a warning if files with secrets may have any mode."""
    if environment.get(INSECURE) != "1":
        return []
    sentence = f"{INSECURE} is 1: files with secrets that other users can read are accepted"
    return [warning(INSECURE, "insecure-mode", sentence, f"unset {INSECURE}, and give these files mode 600")]


def find_warnings(config: Config, now: datetime, environment: Mapping[str, str]) -> tuple[Finding, ...]:
    """Return the warnings of a whole configuration."""
    found = [each for caller in config.callers for each in warn_of_expiry(caller, now)]
    found += [each for host in config.hosts.values() for each in warn_of_host(host)]
    found += [each for receiver in config.notify for each in warn_of_receiver(receiver)]
    return (*found, *warn_of_chat(config), *warn_of_mode(environment))


# --- What a reload requires of a configuration, and how the log describes a rejected configuration ---


def check_change(used: Config, new: Config) -> None:
    """Raise ConfigError if a configuration may not replace the one in use.

    It is refused if a host in use would be disabled, because a working connection must be kept. It is also refused if
    a directory of own files is gone, because its volume may be missing, and that must not disable any caller or VM.
    """
    if any(name in used.hosts for name in new.hosts_off):
        raise ConfigError(list(new.problems))
    for table in sorted({*used.directories} - {*new.directories}):
        hint = f"restore it, and reload; if no entry needs a file there, run mkdir {table}.d"
        raise ConfigError([error(f"{table}.d", "file-missing", "is no longer beside the configuration", hint)])


def describe_rejection(fault: Exception) -> list[dict[str, str]]:
    """Return the problems of a rejected configuration, as the log lists them."""
    sentence = f"can't be read: {fault or type(fault).__name__}"
    problem = error("(file)", "file-not-readable", sentence, "correct it, and reload (SIGHUP)")
    return as_json(fault.problems if isinstance(fault, ConfigError) else [problem])

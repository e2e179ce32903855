"""What an operator should change in a configuration that works. Pure."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from ..auth.signing import Caller
from .model import Config, Host, Vm

WARN_BEFORE = timedelta(days=14)
INSECURE = "BREAKGLASS_INSECURE_CONFIG_MODE"


def warn_of_expiry(caller: Caller, now: datetime) -> list[str]:
    """Return a warning if the caller's key expires soon, or has expired."""
    if caller.not_after is None or caller.not_after - now >= WARN_BEFORE:
        return []
    expires = "expired" if caller.not_after < now else "expires"
    hint = f"write a later callers.{caller.name}.not_after"
    return [f"the key of {caller.name} {expires} on {caller.not_after:%Y-%m-%d}; {hint}"]


def warn_of_host(host: Host) -> list[str]:
    """Return a warning if any host key is accepted."""
    return [f"any host key of {host.name} is accepted: pin hosts.{host.name}.host_key"] if host.any_host_key else []


def warn_of_agent(host: str, its: str, own: str) -> list[str]:
    """Return a warning about a host agent of version `its`, which is not this program's; that one has version `own`."""
    what = f"is {its}, Breakglass here {own}: upgrade the older one" if its != own else "is another build"
    return [f"the host agent on {host} {what}; breakglass host upgrade {host} installs {own} there"]


def warn_of_guest(vm: Vm, callers: Iterable[Caller]) -> list[str]:
    """Return a warning if claude, of which one of the callers may ask something, is root in the VM."""
    if vm.guest is None or vm.guest.user != "root" or not any("chat" in caller.allow for caller in callers):
        return []
    return [f"claude logs in to {vm.name} as root: there, it can change anything without asking"]


def find_warnings(config: Config, now: datetime, environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the warnings of a whole configuration."""
    found = [warning for caller in config.callers for warning in warn_of_expiry(caller, now)]
    found += [warning for host in config.hosts.values() for warning in warn_of_host(host)]
    if config.chat is not None:
        found += [warning for vm in config.vms.values() for warning in warn_of_guest(vm, config.callers)]
    if environment.get(INSECURE) == "1":
        found.append(f"{INSECURE} is 1: files with secrets that other users can read are accepted")
    return tuple(found)

"""Admit an authenticated request: check its time and its permission, and find its VM."""

from collections.abc import Container

from ..auth.challenge import check_time
from ..auth.signing import Caller, Signed
from ..config.model import Config, Vm
from ..verbs import ALLOWED_BY, VERBS


def admit(
    config: Config, signed: Signed, challenge: str, verb: str, vm: str, now: float, known: Container[str] = VERBS
) -> Vm | None:
    """Return the VM of a request, or None when there is no such VM; raise StaleTimestamp or Forbidden.

    The permission for a verb that is not among the `known` ones is not checked: the route rejects it as no such verb.
    """
    check_time(signed, challenge, int(now), config.session_secrets)
    found = config.vm_named(vm)
    if found is not None and verb in known:
        check_permission(signed.caller, verb, found.name, now)
    return found


def check_permission(caller: Caller, verb: str, vm: str | None, now: float) -> None:
    """Raise Forbidden unless the caller's entry allows the verb on the VM; None stands for any VM."""
    refusal = caller.refusal(ALLOWED_BY.get(verb, verb), vm, now)
    if refusal is not None:
        raise refusal

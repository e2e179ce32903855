"""Admit an authenticated request: every check that a request must pass before its verb is sent, in order."""

from ..auth.challenge import check_time
from ..auth.signing import SIGNATURE, Caller, Signed
from ..base.errors import BadRequest, Forbidden
from ..base.verbs import CAPTURE_ID, PROPOSAL_ID, VERBS
from ..config.model import Config, Vm
from .bodies import VerbBody


def admit(config: Config, signed: Signed, body: VerbBody, now: float) -> Vm | None:
    """Return the VM on which a request may run its verb, or None if the verb or the VM does not exist.

    Raises the error of the first check that fails. If the verb or the VM does not exist, there is no permission to
    check.
    """
    config.check_recipient(body.to)
    if signed.id.startswith(CAPTURE_ID):
        raise BadRequest(f'ids that begin with "{CAPTURE_ID}" are for alerts; nothing was sent', "use another id")
    for field in [name for name in ("anyway", "proves") if getattr(body, name)]:  # only a person may use these
        _check_signature(signed, field, BadRequest)
        if signed.id.startswith(PROPOSAL_ID):
            raise BadRequest(
                f'the approval of a proposal can\'t use "{field}"; nothing was sent',
                "leave it out, or send the verb as your own request, under a new id",
            )
    if signed.id.startswith(PROPOSAL_ID) and not body.if_last:
        raise BadRequest(
            'the approval of a proposal needs "if_last"; nothing was sent',
            'send its "last" as "if_last", so that it does nothing if another verb ran first; '
            'if it has no "last", ask claude again',
        )
    check_time(signed, body.challenge, int(now), config.session_secrets)
    vm = config.vm_named(body.vm)
    if vm is None or body.verb not in VERBS:
        return None
    verb = VERBS[body.verb]
    check_permission(signed.caller, verb.allowed_by or body.verb, vm.name, now)
    if verb.needs_signature:
        _check_signature(signed, body.verb, Forbidden)
    if body.proves == "drill" and not vm.drill:
        raise BadRequest(
            f"{vm.name} is not a VM for drills; nothing was sent",
            f"set drill = true under [vms.{vm.name}] only if it may be power-cycled at any time, and reload",
        )
    return vm


def _check_signature(signed: Signed, word: str, error: type[BadRequest | Forbidden]) -> None:
    """Raise an error for a bearer token, because anyone who sees one request with it could send others."""
    if signed.caller.auth_method != SIGNATURE:
        raise error(
            f'a request with a bearer token can\'t use "{word}"; nothing was sent', "send it with a signing key"
        )


def check_permission(caller: Caller, permission: str, vm: str | None, now: float) -> None:
    """Raise Forbidden unless the caller's entry has the permission on the VM; None stands for any VM."""
    refusal = caller.refusal(permission, vm, now)
    if refusal is not None:
        raise refusal

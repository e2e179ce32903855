"""The field `proves` of POST /pve: which requests may record that a host was proven."""

from ..auth.signing import SIGNATURE, Signed
from ..config.model import Vm
from ..errors import BadRequest
from ..verbs import PROPOSAL_ID

_VERBS = {"drill": "cycle", "doctor": "status"}


def check_proves(proves: str, verb: str, vm: Vm, signed: Signed) -> None:
    """Raise BadRequest for `proves` beside another verb, without a signing key, or of a drill on a VM not meant for it.

    `proves` is empty, `drill` or `doctor`.
    """
    if not proves:
        return
    if verb != _VERBS[proves]:
        raise BadRequest(
            f'"proves":"{proves}" does not go with "{verb}"; nothing was sent', f'use it with "{_VERBS[proves]}"'
        )
    if signed.caller.auth_method != SIGNATURE or signed.id.startswith(PROPOSAL_ID):
        raise BadRequest(
            'a bearer token, or the approval of a proposal, can\'t use "proves"; nothing was sent',
            "send it with a signing key, by breakglass doctor or breakglass drill",
        )
    if proves == "drill" and not vm.drill:
        raise BadRequest(
            f"{vm.name} is not a VM for drills; nothing was sent",
            f"set drill = true under [vms.{vm.name}] only if it may be power-cycled at any time, and reload",
        )

"""Claude's brief: `agents/breakglass.md` and what holds for one VM, as what `--agents` takes; and the rules for its
tools. It is an allow list, because a deny list leaks. Pure."""

from ..config.model import Vm
from ..verbs import VERBS

AGENT = "breakglass"

_READING = ("status", "forensics", "history")
_NO_KEY = "You have no key for its host: `pve` is not there, and you see only what the operator tells you."
_NO_GUEST = "You can't log in to the VM itself: nobody has told this handler where. You see it from its host only."
_GUEST = """\
`{name} COMMAND` runs one command inside the VM as `{user}`, for example `{name} uptime` or
`{name} 'journalctl -b -p err | tail -50'`. {what}"""
_ROOT = "That is root: what you change there is changed. Change nothing that the operator did not ask for."
_USER = "Change nothing there that the operator did not ask for."


def agent(text: str, vm: Vm) -> dict[str, dict[str, object]]:
    """Return the agents object for a VM; `text` is front matter between two lines of three dashes, and the brief."""
    _, front, brief = text.split("---\n", 2)
    fields = dict(line.split(": ", 1) for line in front.splitlines())
    tools = fields["tools"].split(", ")
    prompt = f"{brief.strip()}\n\n## This VM\n\n{describe_vm(vm)}\n"
    return {fields["name"]: {"description": fields["description"], "prompt": prompt, "tools": tools}}


def describe_vm(vm: Vm) -> str:
    """Return what claude can reach of this VM, in its own words."""
    lines = [f'It is "{vm.name}", number {vm.vmid} on its Proxmox host.']
    if not vm.agent_key:
        return " ".join([*lines, _NO_KEY])
    if vm.guest is None:
        return " ".join([*lines, _NO_GUEST])
    what = _ROOT if vm.guest.user == "root" else _USER
    return " ".join([*lines, _GUEST.format(name=vm.name, user=vm.guest.user, what=what)])


def rules(vm: Vm) -> list[str]:
    """Return what may run without asking. The verbs that change power are in it so that they reach the host, which
    refuses them to a reading key: that refusal is the request for approval."""
    if not vm.agent_key:
        return []
    verbs = [*_READING, *(name for name, verb in VERBS.items() if verb.mutating)]
    allowed = [f"Bash(pve {verb})" for verb in verbs] + ["Bash(pve job:*)"]
    return allowed + ([f"Bash({vm.name}:*)"] if vm.guest else [])

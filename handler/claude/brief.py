"""Builds claude's brief for one VM, as `--agents` takes it, and the list of commands that claude may run. Pure.

The list names what is allowed, because a list of what is denied is never complete.
"""

from ..config.model import Vm
from ..verbs import READS
from .tools import HOST, list_verbs

AGENT = "breakglass"

_NO_KEY = "You have no key for its host: there is no `pve` command, and you know only what the operator tells you."
_NO_GUEST = "You can't log in to the VM itself: this handler has no address for it. You see it from its host only."
_HOST_ONLY = f"""\
In this turn you only look, and only from its host: all that you can run is
{", ".join(f"`pve {verb}`" for verb in READS)}.
You can't ask for a verb now. If one is needed, name it, and the operator will ask you again."""
_GUEST = """\
`{name} COMMAND` runs one command inside the VM as `{user}`, for example `{name} uptime` or
`{name} 'journalctl -b -p err | tail -50'`. {caution}"""
_ROOT = "That is root: there is no undo. Change nothing there that the operator did not ask for."
_USER = "Change nothing there that the operator did not ask for."


def build_agents(text: str, vm: Vm, tools: str = "") -> dict[str, dict[str, object]]:
    """Return the agents object for a VM. `tools` is one of TOOLS (tools.py), or empty.

    `text` is front matter between two lines of three dashes, followed by the brief.
    """
    _, front, brief = text.split("---\n", 2)
    fields = dict(line.split(": ", 1) for line in front.splitlines())
    builtin = fields["tools"].split(", ")
    prompt = f"{brief.strip()}\n\n## This VM\n\n{describe_vm(vm, tools)}\n"
    return {fields["name"]: {"description": fields["description"], "prompt": prompt, "tools": builtin}}


def describe_vm(vm: Vm, tools: str = "") -> str:
    """Return the paragraph that tells claude what it can reach of this VM in a turn."""
    lines = [f'It is "{vm.name}", number {vm.vmid} on its Proxmox host.']
    if not vm.host.read_only_key:
        return " ".join([*lines, _NO_KEY])
    if tools == HOST:
        return " ".join([*lines, _HOST_ONLY])
    if vm.guest is None:
        return " ".join([*lines, _NO_GUEST])
    caution = _ROOT if vm.guest.user == "root" else _USER
    return " ".join([*lines, _GUEST.format(name=vm.name, user=vm.guest.user, caution=caution)])


def list_tool_rules(vm: Vm, tools: str = "") -> list[str]:
    """Return the permission rules for what claude may run without asking.

    The verbs that change power are among them so that they reach the host. The host refuses them to a read-only key,
    and that refusal becomes the proposal.
    """
    if not vm.host.read_only_key:
        return []
    allowed = [f"Bash(pve {verb}{':*' if verb == 'job' else ''})" for verb in list_verbs(tools)]
    return allowed + ([f"Bash({vm.name}:*)"] if vm.guest and tools != HOST else [])

"""What claude is told and given for one VM: its tools, its brief, and the files of its ssh. Pure."""

from ..agents.pve.words import MUTATING
from ..base.verbs import READS
from ..config.model import Address, Vm

# --- What claude may use in a turn. Pure ---
#
# Without a word, a turn has all that its VM has: reads, proposals and the guest. With `host` it only reads, from the
# VM's host.

HOST = "host"
TOOLS = (HOST,)


def list_verbs(tools: str) -> tuple[str, ...]:
    """Return what `pve` takes in a turn."""
    return READS if tools == HOST else (*READS, "job", *MUTATING)


# --- Builds claude's brief for one VM, as `--agents` takes it, and the list of commands that claude may run. Pure.
#
# The list names what is allowed, because a list of what is denied is never complete.

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
    """Return the agents object for a VM. `tools` is one of TOOLS (brief.py), or empty.

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


# --- Renders the files of ssh for claude's two commands, `pve` and the one named after the VM. Pure ---
#
# Only the runner's account can read them (commands.py).

# ssh reads neither the account's ~/.ssh nor /etc/ssh, and has no other key.
_COMMON = """\
Host *
    IdentityFile {identity}
    IdentitiesOnly yes
    IdentityAgent none
    CertificateFile none
    PreferredAuthentications publickey
    BatchMode yes
    GlobalKnownHostsFile none
    UpdateHostKeys no
    CheckHostIP no
    ConnectTimeout 10
    ServerAliveInterval 5
    ServerAliveCountMax 3
    ForwardAgent no
    ForwardX11 no
    ClearAllForwardings yes
    PermitLocalCommand no
    ControlPath none
    RequestTTY no
    EscapeChar none
    LogLevel ERROR
"""
_HOST = """\
Host {alias}
    HostName {host}
    Port {port}
    User {user}
    StrictHostKeyChecking {strict}
    UserKnownHostsFile {known}

"""


def command_names(vm: Vm) -> tuple[str, ...]:
    """Return the names of claude's commands: `pve`, and the VM's own name where its guest can be reached."""
    if not vm.host.read_only_key:
        return ()
    return ("pve", vm.name) if vm.guest else ("pve",)


def render_ssh_files(vm: Vm, directory: str) -> dict[str, tuple[str, int]]:
    """Return the text and mode of each file that ssh needs in `directory`, by its name there.

    Nothing when claude has no command. The configuration has one host for each command, with its name as the alias.
    """
    names = command_names(vm)
    if not names:
        return {}
    hosts = {"pve": (vm.host.ssh, vm.host.host_keys, vm.host.host_cas)}
    if vm.guest:
        hosts[vm.name] = (vm.guest, vm.guest_host_keys, vm.guest_host_cas)
    rendered = {"key": (f"{vm.host.read_only_key.strip()}\n", 0o400)}
    config = ""
    for name in names:
        address, keys, authorities = hosts[name]
        known = f"{directory}/known_hosts.{name}" if keys or authorities else "/dev/null"
        config += _render_host(name, address, known)
        rendered[f"known_hosts.{name}"] = (_render_known_hosts(keys, authorities), 0o400)
    rendered["config"] = (config + _COMMON.format(identity=_quote_for_ssh_config(f"{directory}/key")), 0o400)
    return rendered


def _render_known_hosts(keys: tuple[str, ...], authorities: tuple[str, ...]) -> str:
    return "".join([f"* {key}\n" for key in keys] + [f"@cert-authority * {key}\n" for key in authorities])


def _render_host(alias: str, address: Address, known: str) -> str:
    strict = "no" if known == "/dev/null" else "yes"  # host_key = "any", about which the configuration warns
    fields = {"host": address.host, "port": address.port, "user": address.user}
    return _HOST.format(alias=alias, strict=strict, known=_quote_for_ssh_config(known), **fields)


def _quote_for_ssh_config(path: str) -> str:
    """Return a path as one word for ssh_config(5), which expands %."""
    return '"' + path.replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"') + '"'

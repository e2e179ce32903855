"""The commands `pve` and the one named after the VM, and the ssh configuration that they use, as texts. Pure.

A command passes its words to ssh as one remote command after `--`, so none of them can be an option of ssh's.
"""

from ..config.model import Address, Vm

# Each turn's agent holds the one key; nothing of the account's own ~/.ssh or of /etc/ssh is read.
_COMMON = """\
Host *
    IdentityFile {identity}
    IdentitiesOnly yes
    IdentityAgent SSH_AUTH_SOCK
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
_COMMAND = """\
#!/bin/sh
if [ $# -eq 0 ]; then
    echo '{usage}' >&2
    exit 2
fi
exec /usr/bin/ssh -F {config} {alias} -- "$*"
"""
# claude gives the whole command as one word; of claude's own environment nothing else goes on
_SHELL = """\
#!/bin/sh
exec /usr/bin/env -i PATH="$PATH" HOME="$HOME" LANG=C.UTF-8 TMPDIR="$CLAUDE_CODE_TMPDIR" \\
    ${{SSH_AUTH_SOCK:+SSH_AUTH_SOCK="$SSH_AUTH_SOCK"}} /bin/bash -c "$1"
"""


def files(vm: Vm, public_key: str, directory: str) -> dict[str, tuple[str, int]]:
    """Return the text and mode of each file that claude needs in `directory`, by its name there."""
    found = {"shell": (_SHELL.format(), 0o555)}
    if not vm.agent_key:
        return found
    roads = {"pve": (vm.ssh, vm.host_keys, vm.host_cas)}
    usage = {"pve": "usage: pve status | forensics | history | job id=ID | reset | cycle | stop | start"}
    if vm.guest:
        roads[vm.name] = (vm.guest, vm.guest_host_keys, vm.guest_host_cas)
        usage[vm.name] = f"usage: {vm.name} COMMAND, which runs inside the VM"
    config = ""
    for name, (address, keys, authorities) in roads.items():
        known = f"{directory}/known_hosts.{name}" if keys or authorities else "/dev/null"
        config += _road(name, address, known)
        found[f"known_hosts.{name}"] = (known_hosts(keys, authorities), 0o444)
        command = _COMMAND.format(usage=usage[name], config=_shell_word(f"{directory}/ssh_config"), alias=name)
        found[f"bin/{name}"] = (command, 0o555)
    found["ssh_config"] = (config + _COMMON.format(identity=_word(f"{directory}/agent.pub")), 0o444)
    found["agent.pub"] = (f"{public_key}\n", 0o444)
    return found


def known_hosts(keys: tuple[str, ...], authorities: tuple[str, ...]) -> str:
    return "".join([f"* {key}\n" for key in keys] + [f"@cert-authority * {key}\n" for key in authorities])


def _road(alias: str, address: Address, known: str) -> str:
    strict = "no" if known == "/dev/null" else "yes"  # the word "any", which was warned about
    fields = {"host": address.host, "port": address.port, "user": address.user}
    return _HOST.format(alias=alias, strict=strict, known=_word(known), **fields)


def _word(path: str) -> str:
    """Return a path as one word of ssh_config(5), which expands %."""
    return '"' + path.replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"') + '"'


def _shell_word(path: str) -> str:
    return "'" + path.replace("'", "'\\''") + "'"

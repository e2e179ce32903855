"""Renders claude's two commands, `pve` and the one named after the VM, and the ssh configuration that they use. Pure.

A command passes its arguments to ssh as one remote command after `--`, so none of them can be an option of ssh.
"""

from ..config.model import Address, Vm

# The one key is in the turn's ssh-agent. ssh reads neither the account's ~/.ssh nor /etc/ssh.
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
{send}
"""
_SEND = 'exec /usr/bin/ssh -F {config} {alias} -- "$*"'
# The key serves other VMs too: the turn's own VM is named here, and the host agent refuses a line that names two.
_SEND_VERB = """\
set -f
set -- $*
verb=$1
shift
exec /usr/bin/ssh -F {config} {alias} -- "$verb vm={vmid}${{*:+ $*}}"\
"""
# claude passes the whole command as one argument. The command gets only these variables of claude's environment.
_SHELL = """\
#!/bin/sh
exec /usr/bin/env -i PATH="$PATH" HOME="$HOME" LANG=C.UTF-8 TMPDIR="$CLAUDE_CODE_TMPDIR" \\
    ${{SSH_AUTH_SOCK:+SSH_AUTH_SOCK="$SSH_AUTH_SOCK"}} /bin/bash -c "$1"
"""


def render_ssh_files(vm: Vm, public_key: str, directory: str) -> dict[str, tuple[str, int]]:
    """Return the text and mode of each file that claude needs in `directory`, by its name there."""
    rendered = {"shell": (_SHELL.format(), 0o555)}
    if not vm.host.read_only_key:
        return rendered
    hosts = {"pve": (vm.host.ssh, vm.host.host_keys, vm.host.host_cas)}
    usage = {"pve": "usage: pve status | forensics | history | job id=ID | reset | cycle | stop | start"}
    if vm.guest:
        hosts[vm.name] = (vm.guest, vm.guest_host_keys, vm.guest_host_cas)
        usage[vm.name] = f"usage: {vm.name} COMMAND, which runs inside the VM"
    config = ""
    for name, (address, keys, authorities) in hosts.items():
        known = f"{directory}/known_hosts.{name}" if keys or authorities else "/dev/null"
        config += _render_host(name, address, known)
        rendered[f"known_hosts.{name}"] = (_render_known_hosts(keys, authorities), 0o444)
        send = (_SEND_VERB if name == "pve" else _SEND).format(
            config=_quote_for_shell(f"{directory}/ssh_config"), alias=name, vmid=vm.vmid
        )
        rendered[f"bin/{name}"] = (_COMMAND.format(usage=usage[name], send=send), 0o555)
    rendered["ssh_config"] = (config + _COMMON.format(identity=_quote_for_ssh_config(f"{directory}/agent.pub")), 0o444)
    rendered["agent.pub"] = (f"{public_key}\n", 0o444)
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


def _quote_for_shell(path: str) -> str:
    return "'" + path.replace("'", "'\\''") + "'"

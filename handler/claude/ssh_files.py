"""Renders the files of ssh for claude's two commands, `pve` and the one named after the VM. Pure.

Only the runner's account can read them (commands.py).
"""

from ..config.model import Address, Vm

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

"""What to run on the Proxmox host, as text: the agent, the account, its key file, and sshd's drop-in.

Pure: the public keys are arguments, and no private one ever gets here. Everything that is put into the text is either
ours or was matched whole before (names, numbers, an address), because a person will paste it into a root shell.
"""

import ipaddress
from dataclasses import dataclass

from ..config.model import Vm

AGENT = "/usr/local/sbin/breakglass-pve"
DROP_IN = "/etc/ssh/sshd_config.d/00-breakglass.conf"
READER = "--read-only --as claude"


@dataclass(frozen=True)
class Keys:
    """The public halves, as `ssh-ed25519 AAAA…`; no reading key when the configuration has no agent_key."""

    power: str
    reading: str | None = None


def recipe(vm: Vm, keys: Keys, source: str | None = None) -> str:
    """Return the recipe for one VM; `source` is the handler's address or network.

    Raises ValueError for what can't work: root's own login, one key for both lines, a source that is no address.
    """
    if vm.ssh.user == "root":
        raise ValueError(f'vms.{vm.name}.ssh logs in as root; name an account of its own, like "breakglass@…"')
    if keys.power == keys.reading:
        raise ValueError(f"vms.{vm.name}.agent_key is the same key as key; the host would obey its first line only")
    if source is not None:
        ipaddress.ip_network(source, strict=False)
    values = {
        "vm": vm.name,
        "vmid": vm.vmid,
        "user": vm.ssh.user,
        "host": f"[{vm.ssh.host}]" if ":" in vm.ssh.host else vm.ssh.host,
        "login": f"ssh -p {vm.ssh.port} -i KEY_FILE {vm.ssh.user}@{vm.ssh.host}",
        "agent": AGENT,
        "drop_in": DROP_IN,
        "blobs": " ".join(f"-e '{key.split()[1]}'" for key in (keys.power, keys.reading) if key),
        "lines": "\n".join(_key_lines(vm, keys)),
        "missing": _MISSING.format(vm=vm.name, vmid=vm.vmid, agent=AGENT, reader=READER) if not keys.reading else "",
        "exempt": _EXEMPT.format(source=source) if source else _NO_EXEMPT,
        "source": source or "ADDRESS",
    }
    return _RECIPE.format(**values)


def _key_lines(vm: Vm, keys: Keys) -> list[str]:
    serve = f"{AGENT} serve --vm {vm.vmid}"
    lines = [f'restrict,command="{serve}" {keys.power} breakglass power {vm.name}']
    if keys.reading:
        lines.append(f'restrict,command="{serve} {READER}" {keys.reading} breakglass read {vm.name}')
    return lines


_MISSING = """\
# The configuration has no agent_key for {vm}, so no reading key is installed. Its line would be:
#   restrict,command="{agent} serve --vm {vmid} {reader}" ssh-ed25519 AAAA... breakglass read {vm}
"""

_EXEMPT = """\
exempt='PerSourcePenaltyExemptList {source}'
# OpenSSH before 9.8 (Proxmox VE 8) has no penalties, and would refuse the whole file for the word.
sshd -T -C user=root,host=x,addr=127.0.0.1 | grep -q '^persourcepenalties ' || exempt="# $exempt"
"""

_NO_EXEMPT = """\
# --from was not given. The handler's address belongs here, without the #:
exempt='# PerSourcePenaltyExemptList ADDRESS'
"""

_RECIPE = """\
#!/bin/sh
# Breakglass on the Proxmox host {host}, for VM {vmid} "{vm}". Made by: breakglass host install-commands
#
# First, where the handler is set up:
#     breakglass host bundle breakglass-pve && scp breakglass-pve root@{host}:/root/
# Then paste all of this into a root shell on the host, or save it there and run it with sh. Running it again changes
# nothing. Stay logged in as root until a login with the new keys has worked. The keys in here are public ones.

( # a subshell: half of it pasted runs nothing, and an error ends this and not your login
set -eu
umask 022
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH

# 1. The agent, root's and renamed into place, so that nobody ever runs half a file.
if [ -e /root/breakglass-pve ]; then
    install -o root -g root -m 0755 /root/breakglass-pve {agent}.new
    mv -f {agent}.new {agent}
fi
{agent} --version

# 2. The account. uid 0, because qm wants root and Proxmox ships no sudo; its key file alone says what it may do.
#    /bin/sh, because bash would read ~/.bashrc first. The password * matches nothing, and is not the ! for which sshd
#    without PAM would call the account locked. It never expires: PAM would turn the keys away with it.
getent passwd {user} >/dev/null ||
    useradd --non-unique --uid 0 --gid 0 --home-dir / --no-create-home --no-log-init --shell /bin/sh {user}
[ "$(id -u {user})" = 0 ]
usermod --password '*' {user}
chage -m 0 -M -1 -I -1 -E -1 {user}

# 3. The keys, each with a command of its own. Not below /etc/pve, where root's own file is: it is gone when the
#    cluster file system is, and is copied to every node. Other keys in this file are kept.
keys=/etc/ssh/authorized_keys.d/{user}
install -d -o root -g root -m 0755 /etc/ssh/authorized_keys.d
touch "$keys"
{{
    grep -v -F {blobs} "$keys" || [ $? = 1 ] # none left
    cat <<'KEYS'
{lines}
KEYS
}} >"$keys.new"
{missing}chown root:root "$keys.new"
chmod 0644 "$keys.new"
mv -f "$keys.new" "$keys"

# 4. sshd. No ForceCommand: it would override each key's command=, and the reading key would get power.
#    forced-commands-only turns a line away that lost its command=. Root's own login stays as it is.
#    The exemption keeps sshd from penalising the handler for somebody's failed logins from the same address.
{exempt}drop_in={drop_in}
{{
    printf '%s\\n\\n' "$exempt"
    cat <<'SSHD'
Match User {user}
    AuthorizedKeysFile /etc/ssh/authorized_keys.d/%u
    AuthenticationMethods publickey
    PermitRootLogin forced-commands-only
    DisableForwarding yes
    PermitTTY no
    PermitUserRC no
    ClientAliveInterval 15
Match all
SSHD
}} >"$drop_in.new"
mv -f "$drop_in.new" "$drop_in"
# fail2ban, where it is installed: add the handler to ignoreip in /etc/fail2ban/jail.local, then reload it.
#   ignoreip = 127.0.0.1/8 ::1 {source}

# 5. Reload only what sshd accepts: a drop-in that it refuses would keep it from starting after the next reboot.
sshd -t || {{
    mv -f "$drop_in" "$drop_in.refused"
    echo "sshd refuses the configuration; the drop-in is now $drop_in.refused" >&2
    exit 1
}}
systemctl try-reload-or-restart ssh

# 6. The host's key, for host_key in breakglass.toml. Read it here, at the host, and not over the network.
cat /etc/ssh/ssh_host_ed25519_key.pub
ssh-keygen -l -f /etc/ssh/ssh_host_ed25519_key.pub

# 7. What really holds now, one finding a line; it ends with 1 where one of them is an error.
{agent} check --vm {vmid} --user {user}

# Then, from the handler's machine: {login} ping
)
"""

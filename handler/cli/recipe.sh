#!/bin/sh
# Breakglass on the Proxmox host @NAME@ (@HOST@), for VM @VMS@. Made by: breakglass host install-commands
#
# First, where the handler is set up:
#     breakglass host bundle breakglass-pve && scp breakglass-pve root@@HOST@:/root/
# Then paste all of this into a root shell on the host, or save it there and run it with sh. You can run it again.
# Stay logged in as root until a login with the new key has worked. This text has a public key only.

( # The parentheses make a subshell. Nothing runs if only a part is pasted, and an error does not end your login.
set -eu
umask 022
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH

# 1. The host agent, owned by root. It is tried and renamed into place, so that verbs never run an incomplete file. The
#    copy in /root is removed, because it would replace a newer agent if you ran this again after `breakglass host upgrade`.
if [ -e @PACKAGED@ ]; then
    echo "this host has the package breakglass-host, so nothing was changed; for each VM, run this instead:" >&2
    echo "breakglass-pve allow VM --key '@PUBLIC@'@FROM@" >&2
    exit 1
fi
if [ -e /root/breakglass-pve ]; then
    install -o root -g root -m 0755 /root/breakglass-pve /usr/local/sbin/breakglass-pve.new
    /usr/local/sbin/breakglass-pve.new --version >/dev/null || {
        rm -f /usr/local/sbin/breakglass-pve.new
        echo "/root/breakglass-pve does not run here, so nothing was changed; the lines above say why" >&2
        exit 1
    }
    mv -f /usr/local/sbin/breakglass-pve.new /usr/local/sbin/breakglass-pve
    rm -f /root/breakglass-pve
    @END_SESSIONS@
    echo "/root/breakglass-pve is installed as /usr/local/sbin/breakglass-pve, and the copy in /root is removed"
elif [ -e /usr/local/sbin/breakglass-pve ]; then
    echo "there is no /root/breakglass-pve, so the installed host agent stays"
else
    echo "there is no /root/breakglass-pve: copy the host agent there first" >&2
    exit 1
fi
/usr/local/sbin/breakglass-pve --version

#if root
# 2. The account is root itself, because qm needs root and Proxmox has no sudo. The account is not changed. sshd reads
#    our key only for logins from @SOURCE@.
#else
# 2. The account. It has uid 0, because qm needs root and Proxmox has no sudo; its key file limits what it may do.
# shellcheck disable=SC2034  # the lines for the account use it
user=@USER@
@MAKE_ACCOUNT@
#end

# 3. The key, with a forced command. Root's own key file is below /etc/pve, but this one is not, because that directory
#    is copied to every node, and is gone when the cluster file system is down. Other keys in this file stay.
keys=/etc/ssh/authorized_keys.d/@KEY_FILE@
install -d -o root -g root -m 0755 /etc/ssh/authorized_keys.d
exec 9</etc/ssh/authorized_keys.d
flock 9 # breakglass-pve allow takes the same lock
touch "$keys"
{
    grep -a -v -F '@KEY@' "$keys" || [ $? = 1 ] # grep exits with 1 if no line is left; -a keeps lines that are not UTF-8
    cat <<'KEY'
@KEY_LINE@
KEY
} >"$keys.new"
chown root:root "$keys.new"
chmod 0644 "$keys.new"
mv -f "$keys.new" "$keys"
exec 9<&- # unlocked
[ "$(grep -a -c ' ssh-' "$keys")" = 1 ] || echo "$keys has other keys too; remove the line of a key that is not in use any more"

# 4. sshd. The previous drop-in is kept as .old until the new one is in force. After an error, it is restored.
drop_in=/etc/ssh/sshd_config.d/00-breakglass.conf
trap '[ ! -e "$drop_in.old" ] || mv -f "$drop_in.old" "$drop_in"' EXIT
trap 'exit 1' HUP INT TERM
[ ! -e "$drop_in" ] || mv -f "$drop_in" "$drop_in.old"

#    The exemption keeps sshd from penalising the handler when other clients at the same address fail to log in.
#    Addresses of other handlers stay.
#if root
before='s/^Match User root Address //p'
#else
before='s/^\(# \)\{0,1\}PerSourcePenaltyExemptList //p'
#end
given='@SOURCE@'
others=$(sed -n "$before" "$drop_in.old" 2>/dev/null | tr , '\n' |
    grep -v -x -F -e ADDRESS -e "$(echo "$given" | tr , '\n')" | paste -s -d ,)
[ -z "$others" ] || echo "sshd's drop-in keeps another handler's address, $others; remove it if it is not in use any more"
sources=$given${others:+${given:+,}$others}
# Without --from and an earlier address, the handler's address belongs in place of ADDRESS, without the #.
exempt="PerSourcePenaltyExemptList ${sources:-ADDRESS}"
# OpenSSH before 9.8 (Proxmox VE 8) has no penalties, and would refuse a file with this keyword.
# (sshd needs laddr, lport and rdomain only if a Match line on this host uses one of them.)
settings=$(sshd -T -C 'user=root,host=x,addr=@EXAMPLE@,laddr=127.0.0.1,lport=@PORT@,rdomain=')
if [ -z "$sources" ] || ! printf '%s\n' "$settings" | grep -q '^persourcepenalties '; then exempt="# $exempt"; fi
#if root
#    For root's logins from the handler, sshd reads our key file after the files that it reads without this drop-in.
#    Nothing else about root's login changes. ForceCommand is not needed, because our key's line has command= and restrict.
own=$(printf '%s\n' "$settings" | sed -n 's/^authorizedkeysfile //p')
[ "$own" != none ] || own=
cat >"$drop_in.new" <<SSHD
$exempt

Match User root Address $sources
    AuthorizedKeysFile $own $keys
    ClientAliveInterval 15
Match all
SSHD
#else
#    ForceCommand must not be set here. It would override each key's command=, so a --read-only key could run power verbs.
#    forced-commands-only refuses a key whose line has no command=. Root's own login does not change.
cat >"$drop_in.new" <<SSHD
$exempt

Match User @USER@
    AuthorizedKeysFile /etc/ssh/authorized_keys.d/%u
    AuthenticationMethods publickey
    PermitRootLogin forced-commands-only
    DisableForwarding yes
    PermitTTY no
    PermitUserRC no
    ClientAliveInterval 15
Match all
SSHD
#end
mv -f "$drop_in.new" "$drop_in"
# If fail2ban is installed, add the handler to ignoreip in /etc/fail2ban/jail.local, then reload fail2ban.
#   ignoreip = 127.0.0.1/8 ::1 @SOURCES@

# 5. Reload only a configuration that sshd accepts, because sshd would not start with any other after the next reboot.
sshd -t || {
    mv -f "$drop_in" "$drop_in.refused"
    echo "sshd refuses the configuration; the new drop-in is now $drop_in.refused, and the previous one is restored" >&2
    exit 1
}
systemctl try-reload-or-restart ssh

#    An earlier recipe's account is not needed any more, and sshd's defaults would apply to its logins. vipw removes the
#    account's line, because userdel refuses a uid that is in use, and userdel --force could delete the account's home, /.
if [ -e "$drop_in.old" ]; then
    earlier=$(sed -n -e '/ root$/d' -e 's/^Match User \([a-z0-9_-]*\)$/\1/p' "$drop_in.old")
    rm -f "$drop_in.old"
    if [ "$earlier" != @USER@ ] && line=$(getent passwd "$earlier"); then
        if [ "$line" = "$earlier:x:0:0::/:/bin/sh" ]; then
            sleep 1.1 # vipw sees no change to a file that was written in the same second
            for file in '' -s; do VISUAL="sed -i '/^$earlier:/d'" vipw -q $file </dev/null; done
        fi
        if getent passwd "$earlier" >/dev/null; then
            echo "the account $earlier of an earlier recipe stays, because it was changed; remove its line with vipw and vipw -s" >&2
        else
            echo "the account $earlier of an earlier recipe is removed; to see its open connections: pgrep -af 'sshd.*: $earlier'"
        fi
    fi
fi

# 6. For breakglass.toml: the node's name, and the host's key for host_key. Copy them from here, not over the network.
echo "node = \"$(hostname -s)\""
cat /etc/ssh/ssh_host_ed25519_key.pub
ssh-keygen -l -f /etc/ssh/ssh_host_ed25519_key.pub

# 7. Check the result. Each line is one finding, and the exit code is 1 if a finding is an error.
/usr/local/sbin/breakglass-pve check --user @USER@

# Then, from the handler's machine: @LOGIN@ ping
)

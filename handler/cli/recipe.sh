#!/bin/sh
# Breakglass on the Proxmox host @NAME@ (@HOST@), for VM @VMS@. Made by: breakglass host install-commands
#
# First, where the handler is set up:
#     breakglass host bundle breakglass-pve && scp breakglass-pve root@@HOST@:/root/
# Then paste all of this into a root shell on the host, or save it there and run it with sh. You can run it again.
# Stay logged in as root until a login with the new key has worked. This text has a public key only.

( # a subshell: if only a part is pasted, nothing runs, and an error does not end your login
set -eu
umask 022
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH

# 1. The host agent, owned by root. It is renamed into place, so that half a file is never run. The copy is removed:
#    it would take the place of a newer agent when this is run again after `breakglass host upgrade`.
if [ -e /root/breakglass-pve ]; then
    install -o root -g root -m 0755 /root/breakglass-pve /usr/local/sbin/breakglass-pve.new
    mv -f /usr/local/sbin/breakglass-pve.new /usr/local/sbin/breakglass-pve
    rm -f /root/breakglass-pve
    @END_SESSIONS@
    echo "/root/breakglass-pve is installed as /usr/local/sbin/breakglass-pve, and removed"
elif [ -e /usr/local/sbin/breakglass-pve ]; then
    echo "there is no /root/breakglass-pve, so the host agent that is installed stays"
else
    echo "there is no /root/breakglass-pve: copy the host agent there first" >&2
    exit 1
fi
/usr/local/sbin/breakglass-pve --version

#if root
# 2. The account is root's own, because qm needs root and Proxmox has no sudo. It stays as it is. sshd reads our key
#    only for logins from @SOURCE@.
#else
# 2. The account. It has uid 0, because qm needs root and Proxmox has no sudo; its key file limits what it may do.
#    Its shell is /bin/sh, because bash would read ~/.bashrc first. The password * matches nothing; with ! instead, sshd
#    without PAM would take the account for locked. It never expires, because PAM would then refuse the keys too.
#    UID_MIN=0 keeps useradd from warning that 0 is an unusual uid.
getent passwd @USER@ >/dev/null ||
    useradd --key UID_MIN=0 --non-unique --uid 0 --gid 0 --home-dir / --no-create-home --no-log-init \
        --shell /bin/sh @USER@
[ "$(id -u @USER@)" = 0 ] || {
    echo "there is an account @USER@ with another uid than 0: remove it, or name another account in hosts.@NAME@.ssh" >&2
    exit 1
}
[ "$(getent shadow @USER@ | cut -d: -f2)" = '*' ] || usermod --password '*' @USER@
chage -m 0 -M -1 -I -1 -E -1 @USER@
#end

# 3. The key, with a forced command. Its file is not below /etc/pve, as root's own is, because that directory is copied
#    to every node, and is gone when the cluster file system is down. Other keys in this file stay.
keys=/etc/ssh/authorized_keys.d/@KEY_FILE@
install -d -o root -g root -m 0755 /etc/ssh/authorized_keys.d
exec 9</etc/ssh/authorized_keys.d
flock 9 # as breakglass-pve allow does
touch "$keys"
{
    grep -a -v -F '@KEY@' "$keys" || [ $? = 1 ] # 1: no line is left; -a keeps lines that are not UTF-8
    cat <<'KEY'
@KEY_LINE@
KEY
} >"$keys.new"
chown root:root "$keys.new"
chmod 0644 "$keys.new"
mv -f "$keys.new" "$keys"
exec 9<&- # unlocked

# 4. sshd. The drop-in from before is kept as .old until the new one is in force; an error puts it back.
drop_in=/etc/ssh/sshd_config.d/00-breakglass.conf
trap '[ ! -e "$drop_in.old" ] || mv -f "$drop_in.old" "$drop_in"' EXIT
trap 'exit 1' HUP INT TERM
[ ! -e "$drop_in" ] || mv -f "$drop_in" "$drop_in.old"

#if from
#    The exemption keeps sshd from penalising the handler for failed logins of others from the same address.
exempt='PerSourcePenaltyExemptList @SOURCE@'
# OpenSSH before 9.8 (Proxmox VE 8) has no penalties, and would refuse a file with this keyword.
# (laddr, lport and rdomain are there because sshd wants them if a Match line of this host asks for one.)
settings=$(sshd -T -C 'user=root,host=x,addr=@EXAMPLE@,laddr=127.0.0.1,lport=@PORT@,rdomain=')
printf '%s\n' "$settings" | grep -q '^persourcepenalties ' || exempt="# $exempt"
#else
# --from was not given. The handler's address belongs here, without the #:
exempt='# PerSourcePenaltyExemptList ADDRESS'
#end
#if root
#    For root's logins from the handler, our key file follows root's own ones, as sshd names them without this drop-in.
#    All else of root's login stays as it is, so there is no ForceCommand: our key has its command= and restrict.
own=$(printf '%s\n' "$settings" | sed -n 's/^authorizedkeysfile //p')
[ "$own" != none ] || own=
cat >"$drop_in.new" <<SSHD
$exempt

Match User root Address @SOURCE@
    AuthorizedKeysFile $own $keys
    ClientAliveInterval 15
Match all
SSHD
#else
#    No ForceCommand: it would override each key's command=, so a key that is --read-only would get power.
#    forced-commands-only refuses a line that lost its command=. Root's own login stays as it is.
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
# fail2ban, where it is installed: add the handler to ignoreip in /etc/fail2ban/jail.local, then reload it.
#   ignoreip = 127.0.0.1/8 ::1 @SOURCES@

# 5. Reload only a configuration that sshd accepts: with any other it would not start after the next reboot.
sshd -t || {
    mv -f "$drop_in" "$drop_in.refused"
    echo "sshd refuses the configuration; the drop-in is now $drop_in.refused, and the one before it is back" >&2
    exit 1
}
systemctl try-reload-or-restart ssh

#    The account of an earlier recipe is not needed any more, and sshd's own defaults would apply to it. vipw removes its
#    line, because userdel refuses a uid that is in use, and with --force it could take the account's home, which is /.
if [ -e "$drop_in.old" ]; then
    earlier=$(sed -n -e '/ root$/d' -e 's/^Match User \([a-z0-9_-]*\)$/\1/p' "$drop_in.old")
    rm -f "$drop_in.old"
    if [ "$earlier" != @USER@ ] && line=$(getent passwd "$earlier"); then
        if [ "$line" = "$earlier:x:0:0::/:/bin/sh" ]; then
            sleep 1.1 # vipw sees no change to a file that was written in the same second
            for file in '' -s; do VISUAL="sed -i '/^$earlier:/d'" vipw -q $file </dev/null; done
        fi
        if getent passwd "$earlier" >/dev/null; then
            echo "the account $earlier of an earlier recipe was changed since, so it stays: remove its line with vipw and vipw -s" >&2
        else
            echo "the account $earlier of an earlier recipe is removed; to see its open connections: pgrep -af 'sshd.*: $earlier'"
        fi
    fi
fi

# 6. For breakglass.toml: the node's name, and the host's key for host_key. Copy them from here, not over the network.
echo "node = \"$(hostname -s)\""
cat /etc/ssh/ssh_host_ed25519_key.pub
ssh-keygen -l -f /etc/ssh/ssh_host_ed25519_key.pub

# 7. Check the result: each line is a finding; the exit code is 1 if one of them is an error.
/usr/local/sbin/breakglass-pve check --user @USER@

# Then, from the handler's machine: @LOGIN@ ping
)

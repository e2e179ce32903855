"""The lines for sh that make and remove the account that the keys log in to. $user has its name.

`breakglass-pve allow` and `revoke` run them. The recipe of `breakglass host install-commands` and the scripts of the
package breakglass-host contain them too.
"""

MAKE_ACCOUNT = """\
# Its shell is /bin/sh, because bash would read ~/.bashrc first. Its password field is *, which matches no password;
# with ! instead, sshd without PAM would treat the account as locked. The account never expires, because PAM would then
# refuse its keys too. UID_MIN=0 keeps useradd from warning that 0 is an unusual uid.
getent passwd "$user" >/dev/null ||
    useradd --key UID_MIN=0 --non-unique --uid 0 --gid 0 --home-dir / --no-create-home --no-log-init \\
        --shell /bin/sh "$user"
[ "$(id -u "$user")" = 0 ] || {
    echo "the account $user exists and its uid is not 0; remove it, or use another account" >&2
    exit 1
}
[ "$(getent shadow "$user" | cut -d: -f2)" = '*' ] || usermod --password '*' "$user"
chage -m 0 -M -1 -I -1 -E -1 "$user\""""
REMOVE_ACCOUNT = """\
# An account whose line was changed stays. vipw removes the account's line, because userdel refuses a uid that is in
# use. vipw sees no change to a file that was written in the same second.
if [ "$(getent passwd "$user")" = "$user:x:0:0::/:/bin/sh" ]; then
    sleep 1.1
    for file in '' -s; do
        VISUAL="sed -i '/^$user:/d'" vipw -q $file </dev/null >/dev/null 2>&1 || {
            echo "the account $user stays, because vipw fails" >&2
            exit 1
        }
    done
fi"""

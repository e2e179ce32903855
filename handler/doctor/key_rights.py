"""Judges a login at a Proxmox host: why it failed, or whether its key opens only the host agent. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from ..agents.pve.words import PACKAGED, PASTED
from ..base.findings import Finding, error, ok
from ..base.manager import manager
from ..base.text import shown
from ..config.model import Host
from .login import Ran

# --- Judge what a key opens after a login at a Proxmox host, which must be only the host agent ---

NO_CHANNEL = "as root on {}: breakglass-pve check, which names the file that sets MaxSessions; then uptime and free"
LINE_CHARS = 100
EFFECT = "so no verb reaches its VMs"
AGENT_REFUSES = 10  # the host agent's exit code for an invalid request, such as a shell


def print_recipe(host: Host, own: str = "") -> str:
    """Return how to set up the account, the key file and sshd's settings as documented."""
    root = " --account root" if host.ssh.user == "root" else ""
    source = f" --from {own}" if own else " --from ADDRESS" if root else ""
    command = f"breakglass host install-commands --host {host.name}{root}{source}"
    return f"run {command}, and run what it prints on {host.ssh.host}, as root"


def check_there(host: Host) -> str:
    """Return the command that verifies the installation at the host."""
    return f"as root on {host.ssh.host}: breakglass-pve check" + (" --user root" if host.ssh.user == "root" else "")


def judge_refused_key(host: Host, fingerprint: str, recipe: str) -> Finding:
    """Return the finding about a key that sshd does not accept."""
    sentence = f"{host.ssh} does not accept the power key ({fingerprint}), {EFFECT}"
    fix = f"{check_there(host)}; if the key is not in its key file, or its line has from= or expiry-time=, {recipe}"
    return error(f"host {host.name}", "key-not-accepted", sentence, fix)


def judge_answer(host: Host, recipe: str, ran: Ran) -> Finding | None:
    """Judge the answer to a request for a shell. None if the host agent refused it, as it must.

    If something other than the host agent answered, the text shows what it was. `recipe` says how to get a correct key
    file.
    """
    text, code = ran.text, ran.code
    place = f"host {host.name}"
    output = shown_line(text)
    agent, upgrade = PASTED, f"breakglass host upgrade {host.name}"
    if PACKAGED in text:
        agent, upgrade = PACKAGED, f"as root on {host.ssh.host}: apt install --reinstall ./breakglass-host_*_all.deb"
    if code == AGENT_REFUSES:
        return None
    if not ran.opened:
        sentence = "sshd refuses to open a channel for the power key, so no verb can be sent"
        return error(place, "no-channel", sentence, NO_CHANNEL.format(host.ssh.host))
    if code is None:
        fix = f"at the console of {host.ssh.host}: uptime, free, dmesg | tail; its disk may hang or its memory be full"
        return error(
            place,
            "agent-silent",
            f"the host agent does not answer the power key in time{', and said: ' + output if output else ''}",
            fix,
        )
    if code == 0 and not text:
        what = f"{agent} is empty, or is a program that does nothing, so no verb can be sent"
        return error(place, "agent-empty", what, upgrade)
    if "not available" in text and code == 1:  # nologin
        fix = f"as root on {host.ssh.host}: usermod --shell /bin/sh {host.ssh.user}"
        return error(place, "account-shell", f"the account {host.ssh.user} has no shell: {output}", fix)
    if "needs Python" in text and code == 1:
        fix = f"on {host.ssh.host}, upgrade Proxmox VE to 8 or later"
        return error(place, "python-old", f"the host agent can't be started: {output}", fix)
    if "python3" in text and code in (126, 127):
        fix = f"as root on {host.ssh.host}: apt install python3"
        return error(place, "python-missing", f"the host agent can't be started without Python: {output}", fix)
    if code == 127 and agent not in text and "breakglass-pve" in text:
        return error(place, "key-line-wrong", f"the power key's line starts another file: {output}", recipe)
    if code == 127:
        fix = f"on {host.ssh.host}: ls -l {agent}; if it is gone, {upgrade}; if /usr/bin/python3 is gone, apt install "
        fix += f"python3; otherwise, {check_there(host)}"
        sentence = f"the host agent can't be started: {agent} or its /usr/bin/python3 is missing ({output})"
        return error(place, "agent-missing", sentence, fix)
    if code == 126 and "format" in text:  # ENOEXEC
        return error(place, "agent-broken", f"the file of the host agent is not a program: {output}", upgrade)
    if code == 126:
        fix = f"as root on {host.ssh.host}: chmod 0755 {agent}; if it has that mode: mount -o remount,exec "
        fix += f'"$(findmnt -no TARGET -T {agent})"; if it is no file: rmdir {agent}, then {upgrade}'
        return error(place, "agent-not-executable", f"the host agent can't be started: {output}", fix)
    if code == 2 and (f"{agent}: " in text or "python -h" in text):  # a shell read it, or Python's line is damaged
        return error(
            place, "agent-broken", f"the file of the host agent is damaged or is another program: {output}", upgrade
        )
    if code == 2 and "usage: " in text:
        last = text.splitlines()[-1].partition("error: ")[2] or text.splitlines()[-1]
        sentence = f"the power key's line starts the host agent with options that it refuses: {shown_line(last)}"
        return error(place, "key-line-wrong", sentence, recipe)
    if "Error" in text or "Traceback" in text:
        return error(place, "agent-broken", f"the host agent fails: {shown_line(text.splitlines()[-1])}", upgrade)
    sentence = f'the power key starts a program that is not the host agent. It ended with {code} and said "{output}"'
    return error(place, "agent-silent", sentence, check_there(host))


def shown_line(text: str) -> str:
    """Return the first line of a program's output for a sentence, or its end if the line is long."""
    return ascii("".join(text.splitlines()[:1])[-LINE_CHARS:])[1:-1]


def judge_shell(host: Host, recipe: str) -> Finding:
    """Return the finding about a key that opened a shell."""
    sentence = f"the power key opens a shell as {host.ssh.user} on {host.ssh.host}: its line has no command="
    fix = f"{recipe}; then {check_there(host)} finds other lines with the key"
    return error(f"host {host.name}", "opens-shell", sentence, fix)


_RIGHTS = {
    "allows-sftp": "reads and writes files (sftp)",
    "allows-terminal": "gets a terminal",
    "allows-forwarding": "forwards ports into the host's network",
}


def judge_rights(host: Host, recipe: str, rights: dict[str, bool]) -> Iterator[Finding]:
    """Judge whether a key opens anything besides the host agent, which it must not."""
    place = f"host {host.name}"
    for code, is_open in rights.items():
        if is_open:
            fix = f"begin the key's line with `restrict,` as the recipe does: {recipe}"
            yield error(place, code, f"the power key {_RIGHTS[code]}, but its line must refuse that", fix)
    if not any(rights.values()):
        yield ok(place, "only-agent", "the power key opens the host agent: no shell, files, terminal or ports")


# --- Judge a failed login at a Proxmox host: what it means for a rescue, and the fix ---

DROP_IN = "/etc/ssh/sshd_config.d/00-breakglass.conf"
EXPIRED = ("Certificate expired", "Certificate not yet valid")


@dataclass(frozen=True)
class Failure:
    """A failed login, with the facts about it.

    `cause` and `reason` are those of `Unreached`, and `detail` is what the SSH library says. `greeting` is the first
    line that the port sends, or None if it accepts no connection. `presented` is the presented host key, `fingerprint`
    the fingerprint of that key, `own` this machine's address, and `address` the host's if its name was looked up.
    """

    cause: str
    reason: str
    detail: str = ""
    greeting: bytes | None = b""
    presented: str = ""
    fingerprint: str = ""
    own: str = ""
    address: str = ""


def judge_failure(host: Host, failure: Failure) -> Finding:
    """Return the finding about a login that failed before the power key was tried."""
    code, sentence, fix = _judge(host, failure)
    return error(f"host {host.name}", code, f"{sentence}, {EFFECT}", fix)


def _judge(host: Host, failure: Failure) -> tuple[str, str, str]:
    address, setting = str(host.ssh), f"hosts.{host.name}.ssh"
    own = failure.own or "this machine"
    match failure.cause:
        case "connection-refused":
            fix = "at the host's console: systemctl start ssh"
            return "connection-refused", f"nothing listens on {address}, the address and port in {setting}", fix
        case "timeout" if failure.greeting is None:
            fix = f"look at the host's console or IPMI; if it is up, let {own} through its firewall to port "
            fix += f"{host.ssh.port}"
            sentence = f"{address}, as in {setting}, does not answer: the host is down, or a firewall drops the packets"
            return "timeout", sentence, fix
        case "timeout" if not failure.greeting:
            fix = "at the host's console: systemctl status ssh, uptime, dmesg | tail"
            return "ssh-silent", f"{address} accepts connections, but sends nothing", fix
        case "timeout":
            fix = "at the host's console: uptime, free, dmesg | tail; sshd -T | grep usedns, which must be no"
            return "login-slow", f"sshd on {address} answers, but completes no login within 10 s", fix
        case "no-route" | "name-not-found" as cause:
            fix = f"ip route get {host.ssh.host}; then fix the network"
            return cause, failure.reason, fix
        case "host-key-differs":
            return _judge_host_key(host, failure)
        case "no-common-algorithm":
            fix = "upgrade OpenSSH on the host"
            return "no-common-algorithm", f"{address} and the handler have no SSH algorithm in common", fix
        case "key-unusable":
            return (
                "key-unusable",
                failure.reason,
                f"correct the key in [hosts.{host.name}], then run {manager().reload}",
            )
    return _judge_greeting(host, failure)


def _judge_host_key(host: Host, failure: Failure) -> tuple[str, str, str]:
    """Judge a host key that is not pinned: the host was reinstalled, or another machine answers for it."""
    if any(words in failure.detail for words in EXPIRED):
        fix = "at the certificate authority: ssh-keygen -s CA -h -I HOST -n NAME -V +52w ssh_host_ed25519_key.pub; "
        fix += "then copy the certificate to the host, and run systemctl reload ssh"
        return "host-certificate-expired", f"the host certificate of {host.ssh} is not valid now", fix
    if "principal" in failure.detail:
        fix = f'sign a host certificate with the name "{host.ssh.host}": ssh-keygen -s CA -h -n {host.ssh.host} …'
        return "host-certificate-name", f'the host certificate of {host.ssh} is not for "{host.ssh.host}"', fix
    its = f" ({failure.fingerprint})" if failure.fingerprint else ""
    pin = f'hosts.{host.name}.host_key = "{failure.presented or "ssh-ed25519 …"}"'
    kind = failure.presented.partition(" ")[0].removeprefix("ssh-") or "ed25519"
    pinned = [line.split()[0] for line in host.host_keys]
    file = f"/etc/ssh/ssh_host_{'ecdsa' if kind.startswith('ecdsa') else kind}_key.pub"
    fix = f"at the host's own console: ssh-keygen -l -f {file}; only if it shows the same fingerprint, write {pin}"
    if failure.presented and pinned and failure.presented.split()[0] not in pinned:
        fix = f"at the host's own console: ls /etc/ssh/*.pub; if the {pinned[0]} key is gone, {fix}"
        sentence = f"{host.ssh} presents no {pinned[0]} host key, which is pinned, but a key of another kind{its}"
        return "host-key-differs", sentence, fix.replace("at the host's own console: ssh", "ssh")
    sentence = f"{host.ssh} presents a host key{its} that is not pinned: the host was reinstalled, or another "
    if failure.address:
        fix = f"if {failure.address} is not the host, correct {host.ssh.host} in /etc/hosts or DNS; otherwise {fix}"
        sentence = sentence.replace(" presents", f", which is {failure.address} here, presents")
    return "host-key-differs", f"{sentence}machine answers in its place", fix


def _judge_greeting(host: Host, failure: Failure) -> tuple[str, str, str]:
    """Judge a connection that ended before the login, by sshd's first line."""
    address = str(host.ssh)
    own = failure.own or "the handler's address"
    greeting = failure.greeting or b""
    exempt = f"put PerSourcePenaltyExemptList {own} at the beginning of {DROP_IN}"
    if b"Not allowed at this time" in greeting or b"MaxStartups" in greeting:
        sentence = f"sshd on {address} turns {own} away: earlier logins from there failed (PerSourcePenalties), or too "
        fix = f"wait ten minutes without a login; then, on the host, {exempt}, with MaxStartups 100:30:200 if "
        fix += "journalctl -u ssh shows many logins of yours, and run systemctl reload ssh"
        return "penalised", f"{sentence}many are under way (MaxStartups)", fix
    if greeting and not greeting.startswith(b"SSH-"):
        first_line = shown(greeting.decode("utf-8", "replace"))
        fix = f"correct the address and the port in hosts.{host.name}.ssh"
        return "not-ssh", f'{address} is not an SSH server, because it says "{first_line}"', fix
    fix = f"on the host: journalctl -u ssh -n 50; if a penalty is the cause, {exempt}; if fail2ban is, name {own} in "
    fix += "ignoreip of /etc/fail2ban/jail.local"
    if greeting:  # sshd still talks to this address, so the account or its settings are more likely the cause
        fix = f"{check_there(host)}; journalctl -u ssh -n 50 has sshd's reason"
        return "turned-away", f"{address} ended the connection during the login", fix
    return "turned-away", f"{address} closed the connection before the login", fix

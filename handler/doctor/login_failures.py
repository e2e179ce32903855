"""Judges a login at a Proxmox host that failed: what it means for a rescue, and what mends it. Pure."""

from dataclasses import dataclass

from ..config.model import Host
from ..findings import ERROR, Finding
from ..text import shown
from .key_rights import check_there

DROP_IN = "/etc/ssh/sshd_config.d/00-breakglass.conf"
EXPIRED = ("Certificate expired", "Certificate not yet valid")
EFFECT = "so no verb reaches its VMs"


@dataclass(frozen=True)
class Failure:
    """A login that failed, with what was found out about it.

    `cause` and `reason` are those of `LoginFailed`. `greeting` is the first line that the port sends, None if it takes
    no connection. `presented` is the host key that was presented, `fingerprint` that key's, and `own` this machine's
    address.
    """

    cause: str
    reason: str
    detail: str = ""
    greeting: bytes | None = b""
    presented: str = ""
    fingerprint: str = ""
    own: str = ""


def judge_failure(host: Host, failure: Failure) -> Finding:
    """Return the finding about a login with the power key that did not get as far as the key."""
    code, sentence, fix = _judge(host, failure)
    return Finding(ERROR, f"host {host.name}", code, f"{sentence}, {EFFECT}", fix)


def _judge(host: Host, failure: Failure) -> tuple[str, str, str]:
    address, setting = str(host.ssh), f"hosts.{host.name}.ssh"
    own = failure.own or "this machine"
    match failure.cause:
        case "connection-refused":
            fix = f"at the host's console: systemctl start ssh; or correct the port in {setting}"
            return "connection-refused", f"nothing listens on {address}", fix
        case "timeout" if failure.greeting is None:
            fix = f"look at the host's console or IPMI; if it is up, let {own} through its firewall to port "
            fix += f"{host.ssh.port}, or correct {setting}"
            sentence = f"{address} does not answer: the host is down, or a firewall drops the packets"
            return "timeout", sentence, fix
        case "timeout" if not failure.greeting:
            fix = f"at the host's console: systemctl status ssh, uptime, dmesg | tail; or correct {setting}"
            return "ssh-silent", f"{address} accepts connections, but sends nothing", fix
        case "timeout":
            fix = "at the host's console: uptime, free, dmesg | tail; sshd -T | grep usedns, which must be no"
            return "login-slow", f"sshd on {address} answers, but completes no login within 10 s", fix
        case "no-route" | "name-not-found" as cause:
            fix = f"ip route get {host.ssh.host}; then mend the network, or correct {setting}"
            return cause, failure.reason, fix
        case "host-key-differs":
            return _judge_host_key(host, failure)
        case "no-common-algorithm":
            fix = "upgrade OpenSSH on the host, or take HostKeyAlgorithms, KexAlgorithms and Ciphers out of its "
            fix += "/etc/ssh/sshd_config"
            return "no-common-algorithm", f"{address} and the handler have no SSH algorithm in common", fix
        case "key-unusable":
            return (
                "key-unusable",
                failure.reason,
                f"mend the keys in [hosts.{host.name}], then systemctl reload breakglass",
            )
    return _judge_greeting(host, failure)


def _judge_host_key(host: Host, failure: Failure) -> tuple[str, str, str]:
    """Judge a host key that is not pinned: a host that was reinstalled, or a machine in between."""
    if any(words in failure.detail for words in EXPIRED):
        fix = "at the certificate authority: ssh-keygen -s CA -h -I HOST -n NAME -V +52w ssh_host_ed25519_key.pub; "
        fix += "then copy the certificate to the host, and systemctl reload ssh"
        return "host-certificate-expired", f"the host certificate of {host.ssh} is not valid now", fix
    if "principal" in failure.detail:
        fix = f'sign a host certificate with the name "{host.ssh.host}": ssh-keygen -s CA -h -n {host.ssh.host} …; '
        fix += f"or use a name that it has in hosts.{host.name}.ssh"
        return "host-certificate-name", f'the host certificate of {host.ssh} is not for "{host.ssh.host}"', fix
    its = f" ({failure.fingerprint})" if failure.fingerprint else ""
    pin = f'hosts.{host.name}.host_key = "{failure.presented or "ssh-ed25519 …"}"'
    fix = "at the host's own console: ssh-keygen -l -f /etc/ssh/ssh_host_ed25519_key.pub; only if it shows the same "
    fix += f"fingerprint, write {pin}; or correct hosts.{host.name}.ssh"
    sentence = f"{host.ssh} presents a host key{its} that is not pinned: the host was reinstalled, or another "
    return "host-key-differs", f"{sentence}machine answers in its place", fix


def _judge_greeting(host: Host, failure: Failure) -> tuple[str, str, str]:
    """Judge a connection that ended before the login, by the line with which sshd begins."""
    address = str(host.ssh)
    own = failure.own or "the handler's address"
    greeting = failure.greeting or b""
    exempt = f"put PerSourcePenaltyExemptList {own} at the beginning of {DROP_IN}"
    if b"Not allowed at this time" in greeting or b"MaxStartups" in greeting:
        sentence = f"sshd on {address} turns {own} away: earlier logins from there failed (PerSourcePenalties), or too "
        fix = f"wait ten minutes without a login; then, on the host, {exempt}, with MaxStartups 100:30:200 if "
        fix += "journalctl -u ssh shows many logins of yours, and systemctl reload ssh"
        return "penalised", f"{sentence}many are under way (MaxStartups)", fix
    if greeting and not greeting.startswith(b"SSH-"):
        first_line = shown(greeting.decode("utf-8", "replace"))
        fix = f"correct the address and the port in hosts.{host.name}.ssh"
        return "not-ssh", f'{address} is no SSH server: it says "{first_line}"', fix
    fix = f"on the host: journalctl -u ssh -n 50; if a penalty is the cause, {exempt}; if fail2ban is, name {own} in "
    fix += "ignoreip of /etc/fail2ban/jail.local"
    if greeting:  # it still talks with this address, so the account or its settings are more likely
        fix = f"{check_there(host)}; otherwise {fix}"
        return "turned-away", f"{address} ended the connection during the login", fix
    return "turned-away", f"{address} closed the connection before the login", fix

"""Judges what a key opens at a Proxmox host, once it has logged in: the host agent, and nothing else. Pure."""

from collections.abc import Iterator

from ..config.model import Host
from ..text import shown
from .findings import Finding, error, ok
from .login import Ran

AGENT = "/usr/local/sbin/breakglass-pve"
AGENT_REFUSES = 10  # the host agent's exit code for a request that is none, such as a shell


def print_recipe(host: Host, own: str = "") -> str:
    """Return what to do for the account, the key file and sshd's settings to be as documented."""
    root = " --account root" if host.ssh.user == "root" else ""
    source = f" --from {own}" if own else " --from ADDRESS" if root else ""
    command = f"breakglass host install-commands --host {host.name}{root}{source}"
    return f"run as root on {host.ssh.host} what this prints: {command}"


def check_there(host: Host) -> str:
    """Return the command that verifies the installation at the host."""
    return f"as root on {host.ssh.host}: breakglass-pve check" + (" --user root" if host.ssh.user == "root" else "")


def judge_refused_key(host: Host, kind: str, fingerprint: str, recipe: str, is_needed: bool) -> Finding:
    """Return the finding about a key that sshd does not accept; `is_needed` tells whether something depends on it."""
    sentence = f"{host.ssh} does not accept the {kind} key ({fingerprint})"
    sentence += ", so no verb reaches its VMs" if kind == "power" else ", so claude reads nothing of its VMs"
    fix = f"{check_there(host)}; if the key is not in its key file, {recipe}; or correct hosts.{host.name}.ssh"
    code = "key-not-accepted" if kind == "power" else "read-only-key-not-accepted"
    return Finding("error" if is_needed else "warning", f"host {host.name}", code, sentence, fix)


def judge_answer(host: Host, kind: str, recipe: str, ran: Ran) -> Finding | None:
    """Judge what a key got when it asked for a shell; None if the host agent refused that, as it must.

    Without the host agent's refusal, the text shows what is in its place. `recipe` is what to do for a good key file.
    """
    text, code = ran.text, ran.code
    place = f"host {host.name}"
    said = shown(text.splitlines()[0]) if text else ""
    upgrade = f"breakglass host upgrade {host.name}"
    if code == AGENT_REFUSES:
        return None
    if not ran.opened:
        fix = f"on {host.ssh.host}: look at MaxSessions in /etc/ssh/sshd_config (10 is enough), and at uptime and free"
        return error(place, "no-channel", f"sshd refuses the {kind} key a channel, so no verb can be sent", fix)
    if code is None:
        fix = f"at the console of {host.ssh.host}: uptime, free, dmesg | tail; its disk may hang or its memory be full"
        return error(
            place,
            "agent-silent",
            f"the host agent does not answer the {kind} key in time{', and said: ' + said if said else ''}",
            fix,
        )
    if "not available" in text and code == 1:  # nologin
        fix = f"as root on {host.ssh.host}: usermod --shell /bin/sh {host.ssh.user}"
        return error(place, "account-shell", f"the account {host.ssh.user} has no shell: {said}", fix)
    if "python3" in text and code in (126, 127):
        fix = f"as root on {host.ssh.host}: apt install python3"
        return error(place, "python-missing", f"the host agent can't be started without Python: {said}", fix)
    if code == 127:
        fix = f"{upgrade}; if it says that python3 is missing, apt install python3 on {host.ssh.host}"
        sentence = f"the host agent can't be started: {AGENT} or its /usr/bin/python3 is missing ({said})"
        return error(place, "agent-missing", sentence, fix)
    if code == 126:
        fix = f"as root on {host.ssh.host}: chmod 0755 {AGENT}"
        return error(place, "agent-not-executable", f"the host agent can't be started: {said}", fix)
    if code == 2 and "usage: " in text:
        last = shown(text.splitlines()[-1][-120:])
        sentence = f"the {kind} key's line starts the host agent with options that it refuses: {last}"
        return error(place, "key-line-wrong", sentence, recipe)
    if "Error" in text or "Traceback" in text:
        return error(place, "agent-broken", f"the host agent fails: {shown(text.splitlines()[-1])}", upgrade)
    sentence = f'what the {kind} key starts is not the host agent: it ended with {code} and said "{said}"'
    return error(place, "agent-silent", sentence, f"{check_there(host)}; {recipe}")


def judge_shell(host: Host, kind: str, recipe: str) -> Finding:
    """Return the finding about a key that opened a shell."""
    sentence = f"the {kind} key opens a shell as {host.ssh.user} on {host.ssh.host}: its line has no command="
    fix = f"{recipe}; then {check_there(host)} finds other lines with the key"
    return error(f"host {host.name}", "opens-shell", sentence, fix)


_RIGHTS = {
    "allows-sftp": "reads and writes files (sftp)",
    "allows-terminal": "gets a terminal",
    "allows-forwarding": "forwards ports into the host's network",
}


def judge_rights(host: Host, kind: str, recipe: str, rights: dict[str, bool]) -> Iterator[Finding]:
    """Judge what else a key opens beside the host agent: nothing must."""
    place = f"host {host.name}"
    for code, is_open in rights.items():
        if is_open:
            fix = f"put restrict, in front of the key's line, as the recipe does: {recipe}"
            yield error(place, code, f"the {kind} key {_RIGHTS[code]}, which its line must refuse", fix)
    if not any(rights.values()):
        yield ok(place, "only-agent", f"the {kind} key opens the host agent: no shell, files, terminal or ports")

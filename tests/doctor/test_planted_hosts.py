"""Faults of a Proxmox host as a person meets them: each gets one finding, with its cause and a cure that works.

H-numbers are faults that a reviewer planted, and N-numbers are later ones. The host was installed by the printed
recipe, and has a real sshd. A finding may send a person to `breakglass-pve check` on the host, which then names the
cause. After the cure, doctor finds nothing. `test_score` prints how many of the faults have exactly one finding.
"""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from breakglass.agents.bundle import bundle
from breakglass.agents.pve.host.cluster import node_name
from breakglass.agents.pve.words import VERSION
from breakglass.base.findings import ERROR, OK, WARNING, Finding

from ..support.agent import OLDER, agent_program
from ..support.doctor import Report, found
from ..support.doctor_host import DoctorHost, HostSetup, another_server, guests, silent_port
from ..support.installing import ROOT, new_key
from ..support.ports import reserve_port
from ..support.selection import sampled
from ..support.service import new_ssh_key
from ..support.sshd import descendants
from ..support.stages import until

pytestmark = [pytest.mark.real("sshd"), pytest.mark.real("root")]

Seed = Callable[[HostSetup], object]
PLACES = ["hosts"]
D = "/etc/ssh/sshd_config.d"
SBIN = "/usr/local/sbin"
AGENT = f"{SBIN}/breakglass-pve"
KEYS = "/etc/ssh/authorized_keys.d/breakglass"
QM = f"{SBIN}/qm"
RECIPE = "breakglass host install-commands --host pve1 --from 127.0.0.1"
UPGRADE = "breakglass host upgrade pve1"
CHECK = "breakglass-pve check"
NO_ACCOUNT = 2147480000  # a user id of a container


class Planted(NamedTuple):
    """One fault: how it is planted, the code that doctor gives it, and words of its fix.

    `cause` are words that name the cause. `cure` is what the fix means, as a script at the host or a function. `sshd`
    says that sshd reads its configuration again after the fault and after the cure. `also` are the codes of what else
    is found, because the fault is several or has several effects.
    """

    name: str
    seed: Seed
    code: str
    fix: str
    cause: str = ""
    cure: str | Seed = ""
    sshd: bool = False
    level: str = ERROR
    also: tuple[str, ...] = ()


class Examined(NamedTuple):
    """What doctor found of a fault, what `breakglass-pve check` said if doctor sent there, and what was left after."""

    found: list[Finding]
    checked: list[str]
    left: list[Finding]


def look(setup: HostSetup) -> Report:
    report = setup.doctor(places=PLACES)
    assert report.stdout, report.stderr
    return report


def bad(report: Report) -> list[Finding]:
    return [finding for finding in report.findings if finding.level != OK]


def examine(setup: HostSetup, fault: Planted) -> Examined:
    """Plant a fault, look, cure it and look again."""
    with setup.stack:
        fault.seed(setup)
        if fault.sshd:
            setup.use_sshd()
        report = look(setup)
        assert report.code == (2 if any(each.level == ERROR for each in report.findings) else 1)
        checked = []
        if fault.cause and fault.cause not in "".join(map(str, bad(report))):
            checked = [line for line in setup.host.check().stdout.splitlines() if not line.startswith("ok: ")]
        if not fault.cure:
            return Examined(bad(report), checked, [])
        if isinstance(fault.cure, str):
            setup.host.shell(fault.cure)
        else:
            fault.cure(setup)
        if fault.sshd:
            setup.use_sshd()
        setup.path.unlink()
        return Examined(bad(report), checked, bad(look(setup)))


@pytest.fixture(scope="module")
def examined(doctor_host: DoctorHost) -> Callable[[Planted], Examined]:
    """Return a function that examines each fault once, on a host that is then put right."""
    seen: dict[str, Examined] = {}

    def once(fault: Planted) -> Examined:
        if fault.name not in seen:
            with tempfile.TemporaryDirectory(prefix="bg", ignore_cleanup_errors=True) as directory:
                try:
                    seen[fault.name] = examine(HostSetup(Path(directory), doctor_host), fault)
                finally:
                    doctor_host.restore()
        return seen[fault.name]

    return once


@pytest.fixture
def setup(short_dir: Path, doctor_host: DoctorHost) -> Iterator[HostSetup]:
    """A configuration with a host on which all is well; what a test changes there is put back."""
    yield HostSetup(short_dir, doctor_host)
    doctor_host.restore()


def sh(script: str, undo: str = "") -> Seed:
    return lambda setup: setup.at_host(script, undo)


# --- on the way to a login ---


def name(setup: HostSetup, text: str) -> None:
    """Have another name, for which this machine's resolver may take its time."""
    setup.pve1["ssh"] = text
    setup.constants["doctor.host_walk.NAME_SECONDS"] = 20.0


def closed_port(setup: HostSetup) -> None:
    setup.use_port(reserve_port())


def other_server(answer: bytes, **how: bool) -> Seed:
    return lambda setup: setup.use_port(setup.stack.enter_context(another_server(answer, **how)))


def silent_server(setup: HostSetup) -> None:
    setup.constants["proxmox.connect.CONNECT_SECONDS"] = 1  # it never says anything
    listener = setup.stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    setup.use_port(listener.getsockname()[1])


def other_host_key(setup: HostSetup) -> None:
    setup.pve1["host_key"] = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDGSYqA2NpkYh9rLQ6MUqU1TNMSiCjZVLKXCNAjl3NmK"


def penalised(setup: HostSetup) -> None:
    """Make another program's login fail, after which this sshd penalises the address for a minute."""
    penalties = ["PerSourcePenalties=authfail:60 noauth:60 min:1", "PerSourcePenaltyExemptList=none"]
    door = setup.use_sshd(*(word for penalty in penalties for word in ("-o", penalty)))
    assert door.login(new_ssh_key(), "ping").returncode == 255
    until(lambda: not descendants(door.process.pid), "the penalty: sshd counts a login when its process has ended")


def full_of_logins(setup: HostSetup) -> None:
    door = setup.use_sshd("-o", "MaxStartups=2:100:2", "-o", "PerSourcePenalties=no")
    until(lambda: _takes_login(setup, door.port), "one login")
    until(lambda: _takes_login(setup, door.port), "another one: there may be no third")


def _takes_login(setup: HostSetup, port: int) -> bool:
    """Begin one more login and leave it there; tell whether sshd has taken it."""
    waiting = setup.stack.enter_context(socket.create_connection(("127.0.0.1", port)))
    return waiting.recv(4).startswith(b"SSH-")


def only_rsa(setup: HostSetup) -> None:
    setup.host.shell("cd /etc/ssh; [ -e ssh_host_rsa_key ] || ssh-keygen -q -t rsa -b 3072 -N '' -f ssh_host_rsa_key")
    setup.host.shell("cd /etc/ssh; mkdir away; mv ssh_host_ed25519_key* away/")
    setup.use_sshd("-o", "HostKey=/etc/ssh/ssh_host_rsa_key")


def pin_rsa(setup: HostSetup) -> None:
    public = setup.host.run("cat", "/etc/ssh/ssh_host_rsa_key.pub").stdout
    setup.pve1["host_key"] = " ".join(public.split()[:2])
    setup.use_sshd("-o", "HostKey=/etc/ssh/ssh_host_rsa_key")


def elsewhere(setup: HostSetup) -> None:
    """Have a name that leads to another machine by /etc/hosts: here, to an sshd with another host key."""
    hosts = setup.directory / "hosts"
    hosts.write_text("127.0.0.1 localhost pve1.lan\n")
    setup.mounts.append((str(hosts), "/etc/hosts", "", ""))
    setup.host.shell("cd /etc/ssh; mkdir other; ssh-keygen -q -t ed25519 -N '' -f other/ssh_host_ed25519_key")
    setup.use_sshd("-o", "HostKey=/etc/ssh/other/ssh_host_ed25519_key")
    setup.pve1["ssh"] = setup.pve1["ssh"].replace("127.0.0.1", "pve1.lan")


def right_address(setup: HostSetup) -> None:
    setup.use_sshd()
    setup.pve1["ssh"] = setup.pve1["ssh"].replace("127.0.0.1", "pve1.lan")
    setup.constants["doctor.host_walk.NAME_SECONDS"] = 20.0


def no_ipv6(setup: HostSetup) -> None:
    setup.pve1["ssh"] = "breakglass@[2001:db8::1]:22"


def use_ipv4(setup: HostSetup) -> None:
    setup.use_sshd()


LOGINS = [
    Planted("name not found", lambda s: name(s, "breakglass@no-such.invalid:22"), "name-not-found", "hosts.pve1.ssh"),
    Planted("no name", lambda s: name(s, f"breakglass@{'a' * 64}.invalid"), "name-not-found", "hosts.pve1.ssh"),
    Planted("refused", closed_port, "connection-refused", "systemctl start ssh"),
    Planted("an SMTP server", other_server(b"220 mail ESMTP\r\n"), "not-ssh", "the port in hosts.pve1.ssh"),
    Planted("closes at once", other_server(b""), "turned-away", "PerSourcePenaltyExemptList"),
    Planted("host key differs", other_host_key, "host-key-differs", 'hosts.pve1.host_key = "ssh-ed25519 AAAA'),
    Planted("host key any", lambda s: s.pve1.update(host_key="any"), "host-key-any", "ssh-ed25519 AAAA", level=WARNING),
    Planted("an SSH server that says nothing", silent_server, "ssh-silent", "systemctl status ssh"),
    Planted("penalised", penalised, "penalised", "PerSourcePenaltyExemptList 127.0.0.1"),
    Planted("too many logins", full_of_logins, "penalised", "MaxStartups 100:30:200"),
    Planted(
        "H17 only the RSA host key is left",
        only_rsa,
        "host-key-differs",
        "ssh-keygen -l -f /etc/ssh/ssh_host_rsa_key.pub",
        "presents no ssh-ed25519 host key",
        pin_rsa,
    ),
    Planted(
        "R7 /etc/hosts leads elsewhere",
        elsewhere,
        "host-key-differs",
        "correct pve1.lan in /etc/hosts",
        "which is 127.0.0.1 here",
        right_address,
    ),
    Planted("R9 IPv6 without IPv6", no_ipv6, "no-route", "ip route get 2001:db8::1", "can't be reached", use_ipv4),
]

# --- sshd's configuration, and the account ---


def conf(name: str, *lines: str) -> Seed:
    """Write a file of sshd's configuration."""
    return sh("".join(f"echo '{line}' >>{D}/{name}\n" for line in lines))


def sshd_line(name: str, code: str, cause: str, *lines: str, fix: str = "", file: str = "00-a.conf") -> Planted:
    """Return a fault of one line of sshd's configuration, in its block. The cure is to remove that line."""
    number = next(number for number, line in enumerate(lines, 1) if not line.startswith("Match "))
    fix = f"{fix or 'remove ' + lines[number - 1].split()[0]} at {D}/{file}, line {number}"
    return Planted(name, conf(file, *lines), code, fix, cause, f"sed -i {number}d {D}/{file}", sshd=True)


def passwd(old: str, new: str) -> Seed:
    return sh(f"sed -i '/^breakglass:/s|{old}|{new}|' /etc/passwd")


def exemption(address: str) -> Seed:
    return lambda setup: setup.host.drop_in.write_text(
        re.sub("(# )?(PerSourcePenaltyExemptList) .*", rf"\2 {address}", setup.host.drop_in.read_text())
    )


def kill_jobs(setup: HostSetup) -> None:
    text = "[Login]\\nKillUserProcesses=yes\\nKillExcludeUsers=\\n"
    setup.host.shell(f"mkdir -p /etc/systemd/logind.conf.d; printf '{text}' >/etc/systemd/logind.conf.d/k.conf")


def own_key(setup: HostSetup) -> None:
    (setup.host.root / ".ssh/authorized_keys").write_text(f"{setup.host.power_public}\n")


CHAGE = "chage -m 0 -M -1 -I -1 -E -1 breakglass"
PASSWORD = "usermod --password '*' breakglass"
SHELL = "usermod --shell /bin/sh breakglass"
SSHD = [
    Planted(
        "H1 AllowUsers names others",
        conf("10-allow.conf", "AllowUsers admin"),
        "key-not-accepted",
        f"add breakglass to it at {D}/10-allow.conf, line 1",
        "AllowUsers does not name breakglass",
        f"sed -i 's/$/ breakglass/' {D}/10-allow.conf",
        sshd=True,
    ),
    sshd_line(
        "H2 Match Address with ForceCommand before ours",
        "agent-silent",
        "ForceCommand for breakglass",
        *("Match Address 127.0.0.1", "ForceCommand echo jump host only", "Match all"),
        fix="remove it",
    ),
    # doctor's other channel may still be open
    sshd_line("H11 MaxSessions 1", "no-channel|host-check", "MaxSessions 1", "MaxSessions 1"),
    sshd_line("H12 MaxSessions 0", "no-channel", "MaxSessions 0", "MaxSessions 0"),
    sshd_line(
        "H13 no ed25519 accepted",
        "key-not-accepted",
        "PubkeyAcceptedAlgorithms has no ssh-ed25519",
        "PubkeyAcceptedAlgorithms rsa-sha2-512",
    ),
    sshd_line(
        "H14 an earlier Match User",
        "key-not-accepted",
        "PermitRootLogin no refuses breakglass",
        *("Match User breakglass", "PermitRootLogin no", "Match all"),
    ),
    Planted(
        "H15 a configuration that sshd refuses",
        conf("00-a.conf", "AuthenticationMethods nonsense"),
        "host-check",
        "run sshd -t",
        "Sshd -T failed",
        f"rm {D}/00-a.conf",
    ),
    Planted(
        "H16 no Include",
        sh("sed -i '/^Include/d' /etc/ssh/sshd_config"),
        "key-not-accepted",
        f"write Include {D}/*.conf as its first line",
        f"sshd does not read {D}/00-breakglass.conf",
        f"sed -i '1iInclude {D}/*.conf' /etc/ssh/sshd_config",
        sshd=True,
    ),
    sshd_line("H31 one login at a time", "host-check", "MaxStartups 1 makes sshd turn", "MaxStartups 1")._replace(
        level=WARNING
    ),
    sshd_line(
        "N1 DenyUsers",
        "key-not-accepted",
        "DenyUsers names breakglass",
        "DenyUsers breakglass",
        fix="remove breakglass from it",
        file="zz.conf",
    ),
    Planted(
        "N2 PubkeyAuthentication no in sshd_config",
        sh("sed -i '1iPubkeyAuthentication no' /etc/ssh/sshd_config"),
        "turned-away",
        "remove PubkeyAuthentication at /etc/ssh/sshd_config, line 1",
        "PubkeyAuthentication no",
        "sed -i 1d /etc/ssh/sshd_config",
        sshd=True,
    ),
    sshd_line("N3 LoginGraceTime 3", "host-check", "LoginGraceTime 3", "LoginGraceTime 3")._replace(level=WARNING),
    Planted(
        "N4 AuthorizedKeysFile for all before ours",
        conf("00-a.conf", "Match User *", "AuthorizedKeysFile .ssh/authorized_keys", "Match all"),
        "key-not-accepted",
        f"{D}/00-a.conf, line 2",
        "AuthorizedKeysFile",
        f"rm {D}/00-a.conf",
        sshd=True,
    ),
    sshd_line(
        "N5 ChrootDirectory",
        "agent-missing",
        "sshd shuts breakglass into /usr",
        *("Match User breakglass", "ChrootDirectory /usr", "Match all"),
    ),
    sshd_line(
        "N6 ForceCommand after ours",
        "agent-silent",
        "ForceCommand for breakglass: /bin/false",
        *("Match User breakglass", "ForceCommand /bin/false", "Match all"),
        fix="remove it",
        file="zz.conf",
    ),
    Planted("exemption of another handler", exemption("192.0.2.60"), "host-check", "add 127.0.0.1", level=WARNING),
    Planted(
        "H3 account expired", sh("usermod --expiredate 2020-01-01 breakglass"), "turned-away", CHAGE, "expires", CHAGE
    ),
    Planted(
        "H4 locked, and UsePAM no",
        sh(f"echo UsePAM no >{D}/00-a.conf; usermod --password '!' breakglass"),
        "key-not-accepted",
        PASSWORD,
        "is locked",
        PASSWORD,
        sshd=True,
    ),
    Planted(
        "H6 bash and a start-up file that prints",
        lambda s: (passwd(":/:/bin/sh", ":/root:/bin/bash")(s), sh("echo 'echo hello' >/root/.bashrc")(s)),
        "host-check",
        SHELL,
        "/bin/bash",
        SHELL,
    ),
    Planted("H7 nologin", passwd("/bin/sh", "/usr/sbin/nologin"), "account-shell", SHELL, "has no shell", SHELL),
    Planted("a shell that is not there", passwd("/bin/sh", "/bin/zsh9"), "key-not-accepted", CHECK),
    Planted("no account", passwd("breakglass:", "other:"), "key-not-accepted", RECIPE),
    Planted(
        "H23 account with uid 1001",
        passwd(":0:0:", ":61234:61234:"),
        "host-check",
        "breakglass:",
        "has uid 61234",
        "sed -i 's/^breakglass:\\([^:]*\\):61234:/breakglass:\\1:0:/' /etc/passwd",
    ),
    Planted(
        "N14 root's password can log in as breakglass",
        sh("usermod --password '$6$abc$def' breakglass"),
        "host-check",
        PASSWORD,
        "has a password",
        PASSWORD,
    ),
    Planted(
        "N15 logind kills jobs",
        kill_jobs,
        "host-check",
        "set KillUserProcesses=no",
        "KillUserProcesses=yes",
        "rm /etc/systemd/logind.conf.d/k.conf",
    ),
]

# --- keys ---


def revoke(setup: HostSetup) -> None:
    setup.change_keys(lambda text: text.replace(setup.host.power_public, new_key()[1]))


def garbage_key(setup: HostSetup) -> None:
    setup.file("power", "-----BEGIN OPENSSH PRIVATE KEY-----\nnonsense\n-----END OPENSSH PRIVATE KEY-----\n")


def second_vm(vmid: int) -> Seed:
    return lambda setup: setup.config["vms"].update(other={"hosts": ["pve1"], "vmid": vmid})


def line(setup: HostSetup, options: str) -> None:
    """Replace the options of the key's line."""
    setup.change_keys(lambda _: f"{options} {setup.host.power_public}\n")


SERVES = '"/usr/local/sbin/breakglass-pve serve --vms 102'
COMMAND = f'command={SERVES}"'
WITH_FILES = COMMAND.replace(
    '"', '"case $SSH_ORIGINAL_COMMAND in *sftp*) exec /usr/lib/openssh/sftp-server;; esac; ', 1
)


def without_drop_in(setup: HostSetup, forwarding: str) -> None:
    """Run an sshd that allows everything that a key's line allows."""
    text = setup.host.drop_in.read_text()
    setup.host.drop_in.write_text(
        text.replace("forced-commands-only", "prohibit-password")
        .replace("DisableForwarding yes", "DisableForwarding no")
        .replace("PermitTTY no", "PermitTTY yes")
    )
    setup.use_sshd("-o", f"AllowTcpForwarding={forwarding}")


def open_line(options: str, *, forwarding: str = "yes") -> Seed:
    def seed(setup: HostSetup) -> None:
        without_drop_in(setup, forwarding)
        line(setup, options)

    return seed


def edit(old: str, new: str) -> Seed:
    """Change a text in each line of the key file."""
    return lambda setup: setup.change_keys(lambda text: text.replace(old, new))


OPEN = ("host-check",) * 4  # of `check`, because all that sshd refuses by itself was taken out, too
LINES = [
    Planted("power key revoked", revoke, "key-not-accepted", RECIPE),
    Planted("garbage power key", garbage_key, "host-disabled", "see breakglass docs admin; then run systemctl reload"),
    Planted("one of two VMs is off", second_vm(0), "vm-disabled", "[vms.other]"),
    Planted("read-only", lambda s: line(s, f'restrict,command={SERVES} --read-only"'), "power-key-read-only", RECIPE),
    Planted("key opens a shell", open_line("restrict"), "opens-shell", RECIPE),
    Planted(
        "forwarding", open_line(f"restrict,port-forwarding,{COMMAND}"), "allows-forwarding", "restrict,", also=OPEN
    ),
    Planted("line allows a terminal", open_line(f"restrict,pty,{COMMAND}"), "allows-terminal", "restrict,", also=OPEN),
    Planted(
        "line without restrict", open_line(COMMAND), "allows-forwarding", "restrict,", also=("allows-terminal", *OPEN)
    ),
    Planted(
        "line reaches ports",
        open_line(COMMAND, forwarding="local"),
        "allows-forwarding",
        "restrict,",
        also=("allows-terminal", *OPEN),
    ),
    Planted(
        "line opens ports",
        open_line(COMMAND, forwarding="remote"),
        "allows-forwarding",
        "restrict,",
        also=("allows-terminal", *OPEN),
    ),
    Planted(
        "files beside the agent", open_line(f"restrict,{WITH_FILES}"), "allows-sftp", RECIPE, also=("host-check", *OPEN)
    ),
    Planted(
        "line opens files", open_line('restrict,command="internal-sftp"'), "allows-sftp", RECIPE, also=("agent-silent",)
    ),
    Planted("line runs a shell", open_line('restrict,command="/bin/sh"'), "opens-shell", CHECK),
    Planted("another file", edit("/sbin/breakglass-pve", "/bin/breakglass-pve"), "key-line-wrong", RECIPE),
    Planted("another option", open_line(f"restrict,{COMMAND.replace('--vms', '--vm')}"), "key-line-wrong", RECIPE),
    Planted("another address", edit("restrict,", 'restrict,from="192.0.2.1",'), "key-not-accepted", "has from="),
    Planted("expired", edit("restrict,", 'restrict,expiry-time="20200101",'), "key-not-accepted", "expiry-time="),
    Planted(
        "H18 key file 0666",
        sh(f"chmod 0666 {KEYS}"),
        "key-not-accepted",
        f"chmod go-w {KEYS}",
        "0666",
        f"chmod go-w {KEYS}",
    ),
    Planted(
        "H19 its directory 0777",
        sh("chmod 0777 /etc/ssh/authorized_keys.d"),
        "key-not-accepted",
        "chmod go-w /etc/ssh/authorized_keys.d",
        "0777",
        "chmod go-w /etc/ssh/authorized_keys.d",
    ),
    Planted(
        "N9 key file removed",
        sh(f"rm {KEYS}"),
        "key-not-accepted",
        RECIPE,
        "does not exist",
        lambda s: s.host.restore_files(),
    ),
    Planted("key serves not this VM either", second_vm(103), "vm-not-served", "breakglass-pve allow 103"),
    Planted(
        "N13 the key serves another VM",
        edit("--vms 102", "--vms 103"),
        "vm-not-served",
        "breakglass-pve allow 102",
        "serves VM 103 and not 102",
        edit("--vms 103", "--vms 102"),
    ),
    Planted(
        "N16 the key is root's own too",
        own_key,
        "host-check",
        "remove it there",
        "opens a root shell",
        "rm /root/.ssh/authorized_keys",
    ),
]

# --- the host agent ---


def agent(code: str = "", /, **constants: object) -> Seed:
    """Install another host agent, with these constants and after this code."""
    return lambda setup: setup.host.set_agent(agent_program(code, **constants))


def setting(seed: Seed, **more: object) -> Seed:
    """Give the VM more settings, too."""

    def both(setup: HostSetup) -> None:
        setup.config["vms"]["devvm"].update(more)
        seed(setup)

    return both


def program(text: str) -> Seed:
    return lambda setup: setup.host.set_agent(text)


GO_W = f"chmod go-w {AGENT}"
CHOWN = f"chown root:root {AGENT}"
CHECK_FAILS = "replace(answer_check=lambda *_: 1 / 0)\n"
# until sshd's own process for the session has ended, because the shell in between waits for this one
HANGS = """#!/bin/sh
read -r _ _ _ session _ </proc/$PPID/stat
while read -r _ _ _ now _ </proc/$PPID/stat && [ "$now" = "$session" ]; do sleep 0.1; done
"""
CLOCK = "import time\nreal = time.time\ntime.time = lambda: real() + {seconds}\n"


def hanging(setup: HostSetup) -> None:
    program(HANGS)(setup)
    setup.constants["doctor.login.ANSWER_SECONDS"] = 6.0


def windows(setup: HostSetup) -> None:
    setup.host.set_agent(setup.host.program.replace("\n", "\r\n"))


def no_program(setup: HostSetup) -> None:
    (setup.host.sbin / "breakglass-pve").write_bytes(bytes(range(127, 256)) * 40)


def old_python(setup: HostSetup) -> None:
    """Let the host agent, as it is installed, need a Python that does not exist."""
    text = bundle()
    assert text.count("sys.version_info < (3, 11)") == 1
    setup.host.set_agent(text.replace("sys.version_info < (3, 11)", "sys.version_info < (9,)"))


def good_agent(setup: HostSetup) -> None:
    """Do what `breakglass host upgrade` and the recipe do: replace the host agent's file."""
    setup.host.set_agent(setup.host.program)


def qm(script: str) -> Seed:
    return sh(f"cp {QM} /root/qm.kept; cat >{QM} <<'END'\n#!/bin/sh\n{script}\nEND\n")


def half(setup: HostSetup) -> None:
    path = setup.host.sbin / "breakglass-pve"
    path.write_text(path.read_text()[:-200] + "\ndef main(")


AGENTS = [
    Planted("N7 agent removed", sh(f"rm {AGENT}"), "agent-missing", UPGRADE, "missing", good_agent),
    Planted("agent not executable", sh(f"chmod 0644 {AGENT}"), "agent-not-executable", f"chmod 0755 {AGENT}"),
    Planted("N8 agent writable by others", sh(f"chmod 0777 {AGENT}"), "host-check", "chmod go-w", "0777", GO_W),
    Planted("H22 agent of uid 1000", sh(f"chown 1000 {AGENT}"), "host-check", CHOWN, "uid 1000", CHOWN),
    Planted(
        "H9 noexec",
        sh(f"mount -o remount,bind,noexec {SBIN}", f"mount -o remount,bind,exec {SBIN}"),
        "agent-not-executable",
        f'mount -o remount,exec "$(findmnt -no TARGET -T {AGENT})"',
        "can't be started",
        f"mount -o remount,bind,exec {SBIN}",
    ),
    Planted("Python of Debian 11", old_python, "python-old", "upgrade Proxmox VE"),
    Planted("Python missing", program("#!/usr/bin/python3.99 -IS\n"), "agent-missing", "apt install python3"),
    Planted("Python missing for env", program("#!/usr/bin/env python3.99\n"), "python-missing", "apt install python3"),
    Planted("agent damaged", program("#!/usr/bin/python3 -IS\nimport no_such_module\n"), "agent-broken", UPGRADE),
    Planted("H20 agent cut", half, "agent-broken", UPGRADE, "SyntaxError", good_agent),
    Planted("H21 agent empty", program(""), "agent-empty", UPGRADE, "is empty", good_agent),
    Planted("agent says nothing", program("#!/bin/sh\n"), "agent-empty", UPGRADE),
    Planted("agent hangs", hanging, "agent-silent", "uptime"),
    Planted("check fails", agent(CHECK_FAILS), "check-silent", CHECK, also=("check-silent",)),
    Planted("agent is a web page", program("<html>404</html>\n"), "agent-broken", UPGRADE),
    Planted("agent with the line ends of Windows", windows, "agent-broken", UPGRADE),
    Planted("agent that is no program", no_program, "agent-broken", UPGRADE),
    Planted("another build", agent("replace(bundle_hash=lambda: 'f' * 64)"), "agent-outdated", UPGRADE, level=WARNING),
    Planted("agent is older", agent(VERSION=f"{VERSION}rc1"), "agent-outdated", UPGRADE, level=WARNING),
    Planted("agent is newer", agent(VERSION="0.9.0"), "agent-outdated", "this handler to 0.9.0", level=WARNING),
    Planted("a version that does not fit", agent(VERSION="0.2.0"), "agent-too-old", UPGRADE),
    Planted("reads the log", setting(agent(OLDER), last_words=False), "last-words-read", UPGRADE, level=WARNING),
    Planted("no names", setting(agent(OLDER), name="vm102"), "name-not-compared", UPGRADE, level=WARNING),
    Planted(
        "H29 clock 40 s ahead",
        agent(CLOCK.format(seconds=40)),
        "clock-differs",
        "systemctl restart chrony",
        "40 s ahead",
        good_agent,
        level=WARNING,
    ),
    Planted(
        "H30 clock 2 h behind",
        agent(CLOCK.format(seconds=-7200)),
        "clock-differs",
        "timedatectl",
        "s behind",
        good_agent,
        level=WARNING,
    ),
    Planted(
        "H24 qm fails",
        qm('echo "Can\'t locate PVE/QemuServer.pm in @INC" >&2; exit 2'),
        "qm",
        "dpkg --configure -a; apt full-upgrade",
        "Can't locate PVE/QemuServer.pm",
        f"cp /root/qm.kept {QM}",
    ),
    Planted(
        "H25 qm hangs",
        qm("exec sleep 300"),
        "qm",
        "time qm status 102",
        "gave no answer in 5 s",
        f"cp /root/qm.kept {QM}",
        level=WARNING,
    ),
    Planted("qm not on PATH", sh(f"mv {QM} /root/", f"mv /root/qm {SBIN}/"), "qm", "PATH"),
]

# --- the VMs on the host ---


def vm_conf(text: str) -> Seed:
    return lambda setup: (setup.host.etc / "pve/qemu-server/102.conf").write_text(text)


def without_conf(vmlist: str) -> Seed:
    def seed(setup: HostSetup) -> None:
        (setup.host.etc / "pve/qemu-server/102.conf").unlink()
        (setup.host.etc / "pve/.vmlist").write_text(vmlist)

    return seed


def under_ha(requested: str = "started", seen: str = "started", disarm: str = "", silent: int = 5) -> Seed:
    """Put the VM under HA, whose daemons wrote `silent` seconds ago."""

    def seed(setup: HostSetup) -> None:
        ha = setup.host.etc / "pve/ha"
        ha.mkdir()
        (ha / "resources.cfg").write_text(f"vm: 102\n\tstate {requested}\n")
        status: dict[str, object] = {"service_status": {"vm:102": {"state": seen, "node": node_name()}}}
        status |= {"disarm": {"mode": disarm, "state": "disarmed"}} if disarm else {}
        status["timestamp"] = int(time.time()) - silent
        (ha / "manager_status").write_text(json.dumps(status))
        lrm = {"state": "active", "mode": "active", "timestamp": status["timestamp"]}
        (setup.host.etc / "pve/local/lrm_status").write_text(json.dumps(lrm))
        setup.at_host("touch /run/pve-ha-crm.pid /run/pve-ha-lrm.pid", "rm /run/pve-ha-crm.pid /run/pve-ha-lrm.pid")

    return seed


def lock_file(setup: HostSetup) -> None:
    """Run a person's `qm` that holds the VM's lock file."""
    path = "/run/lock/qemu-server"
    script = f"mkdir -p {path}; exec flock {path}/lock-102.conf sh -c 'echo held; read line'"
    with_lock = setup.stack.enter_context(
        subprocess.Popen(
            setup.host.inside("/bin/sh", "-c", script), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
    )
    assert with_lock.stdout is not None
    assert with_lock.stdout.readline() == "held\n"
    assert with_lock.stdin is not None
    setup.stack.callback(with_lock.stdin.close)


def back(setup: HostSetup) -> None:
    (setup.host.etc / "pve/.vmlist").write_text(guests(vm102=node_name()))
    (setup.host.etc / "pve/qemu-server/102.conf").write_text("name: vm102\n")


def stale_lock(setup: HostSetup) -> None:
    """Leave the lock of a backup that has ended."""
    task = f"UPID:{node_name()}:0000A1B2:00C3D4E5:65000000:vzdump:102:root@pam:"
    setup.host.shell(f"mkdir -p /var/log/pve/tasks; echo '{task} 65000100 job errors' >/var/log/pve/tasks/index")
    vm_conf("lock: backup\n")(setup)


CONTAINER = json.dumps({"version": 1, "ids": {"102": {"node": node_name(), "type": "lxc", "version": 1}}})
GOOD_VM = vm_conf("name: vm102\n")
VMS = [
    Planted("R12 template", vm_conf("template: 1\n"), "vm-check", "qm list", "is a template", GOOD_VM),
    Planted("R13 a stale lock", stale_lock, "vm-check", "qm unlock 102", "locked (backup)", GOOD_VM, level=WARNING),
    Planted("lock of a migration", vm_conf("lock: migrate\nname: devvm\n"), "vm-check", "qm", level=WARNING),
    Planted("lock file held", lock_file, "vm-check", "kill", level=WARNING),
    Planted(
        "N12 VM on a node without a host",
        without_conf(guests(vm102="pve2")),
        "vm-elsewhere",
        "add the host of pve2 to vms.devvm.hosts",
        "is on node pve2",
        back,
    ),
    Planted("no such VM", without_conf(guests()), "vm-check", "qm list", also=("host-check",)),
    Planted("the number is a container", without_conf(CONTAINER), "vm-check", "take 102 out", also=("host-check",)),
    Planted("another VM has the number", setting(lambda _: None, name="customer-db"), "wrong-vm", "qm list"),
    Planted("HA error", under_ha(seen="error"), "vm-check", "ha-manager set vm:102 --state disabled"),
    Planted("HA dead", under_ha(silent=324), "vm-check", "systemctl start pve-ha-crm pve-ha-lrm"),
    Planted("HA disarmed", under_ha(disarm="ignore"), "vm-check", "ha-manager crm-command arm-ha", level=WARNING),
]

# --- the host ---

FULL = "mount -o remount,size={size} {path}; dd if=/dev/zero of={path}/filler bs=64k 2>/dev/null || true"
EMPTY = "rm {path}/filler; mount -o remount,size=50% {path}"
INODES = """mkdir -p /run/breakglass/filler
for n in $(seq 200); do : >/run/breakglass/filler/$n; done
mount -o remount,nr_inodes=$(($(find /run -xdev | wc -l) + 2)) /run"""


def broken_chain(setup: HostSetup) -> None:
    chain = f"/run/breakglass/102/chain-{node_name()}"
    setup.at_host(f"mkdir -p {os.path.dirname(chain)}; echo '{{\"n\":7}}' >{chain}", f"rm {chain}")


NODE = [
    Planted(
        "N17 another node's address",
        lambda s: s.pve1.update(node="pve9"),
        "wrong-node",
        f'hosts.pve1.node = "{node_name()}"',
        "is the node",
        lambda s: s.pve1.update(node=node_name()),
    ),
    Planted(
        "N11 no quorum",
        sh("chmod 0555 /etc/pve/local"),
        "host-check",
        "pvecm status",
        "no quorum",
        "chmod 0755 /etc/pve/local",
    ),
    Planted(
        "N10 /etc/pve not mounted",
        sh("mount -t tmpfs none /etc/pve"),
        "host-check",
        "systemctl restart pve-cluster",
        "pmxcfs",
        "umount /etc/pve",
    ),
    Planted(
        "/etc/pve hung",
        lambda s: s.hang("/etc/pve"),
        "host-check",
        "systemctl restart pve-cluster",
        also=("host-check",),
    ),
    Planted(
        "/etc/pve dead", lambda s: s.hang("/etc/pve", "dead_fuse"), "host-check", "pve-cluster", also=("host-check",)
    ),
    Planted(
        "H26 /run full",
        sh(FULL.format(size="3m", path="/run")),
        "host-check",
        "df /run",
        "/run",
        EMPTY.format(path="/run"),
    ),
    Planted(
        "H28 no inodes",
        sh(INODES),
        "host-check",
        "df -i /run/breakglass",
        "inodes",
        "rm -r /run/breakglass/filler; mount -o remount,nr_inodes=500000 /run",
        level=WARNING,
    ),
    Planted(
        "H27 /var/lib full",
        sh(FULL.format(size="1m", path="/var/lib")),
        "host-check",
        "df /var/lib/breakglass",
        "/var/lib/breakglass",
        EMPTY.format(path="/var/lib"),
        level=WARNING,
    ),
    Planted(
        "archive read-only",
        sh("mount -o remount,ro /var/lib", "mount -o remount,rw /var/lib"),
        "host-check",
        "findmnt -T /var/lib/breakglass",
        level=WARNING,
    ),
    Planted("archive hung", lambda s: s.hang("/var/lib"), "host-check", "findmnt -T /var/lib", level=WARNING),
    Planted("broken chain", broken_chain, "host-check", "The chain of jobs", level=WARNING),
]

FAULTS = [*LOGINS, *SSHD, *LINES, *AGENTS, *VMS, *NODE]
BY_NAME = {fault.name: fault for fault in FAULTS}
QUICK = (  # the others are run with --all
    "refused",
    "host key differs",
    "power key revoked",
    "read-only",
    "key opens a shell",
    "N7 agent removed",
    "another build",
    "N13 the key serves another VM",
    "N11 no quorum",
)


@pytest.mark.parametrize("name", sampled(BY_NAME, *QUICK))
def test_a_fault_has_one_cause_and_a_cure_that_works(examined: Callable[[Planted], Examined], name: str) -> None:
    """It is an error if it stops a rescue. What it is and what to do is said once, by doctor or by the host's check."""
    fault = BY_NAME[name]
    seen = examined(fault)
    codes = [finding.code for finding in seen.found]
    assert sorted(codes) in [sorted((code, *fault.also)) for code in fault.code.split("|")]
    finding = next(
        each for each in seen.found if each.code in fault.code.split("|") and fault.fix in f"{each}{seen.checked}"
    )
    assert finding.level == fault.level
    told = str(finding)
    if seen.checked:
        assert CHECK in told
        [line] = seen.checked
        told += line
    assert fault.cause in told
    assert fault.fix in told
    assert seen.left == []


@pytest.mark.all
def test_score(examined: Callable[[Planted], Examined], capsys: pytest.CaptureFixture[str]) -> None:
    """Print how many planted faults have exactly one finding, with the expected code: all but those with `also`."""
    codes = {fault: [finding.code for finding in examined(fault).found] for fault in FAULTS}
    others = [fault.name for fault, found in codes.items() if len(found) != 1 or found[0] not in fault.code.split("|")]
    with capsys.disabled():
        print(f"\ndoctor: {len(FAULTS) - len(others)} of {len(FAULTS)} planted faults have one finding, the right one")
    assert others == [fault.name for fault in FAULTS if fault.also]
    assert len(others) < len(FAULTS) / 8


# --- good hosts ---


def listen_on_ipv6(setup: HostSetup) -> None:
    door = setup.use_sshd("-o", "ListenAddress=::1")
    setup.pve1["ssh"] = f"breakglass@[::1]:{door.port}"


def sign_host_key(setup: HostSetup) -> None:
    """Let a certificate authority sign the host's key, and pin only that authority."""
    authority, etc = setup.directory / "authority", setup.host.etc / "ssh"
    for words in (
        ["-q", "-t", "ed25519", "-N", "", "-f", str(authority)],
        ["-q", "-s", str(authority), "-h", "-I", "pve1", "-n", "127.0.0.1", str(etc / "ssh_host_ed25519_key.pub")],
    ):
        subprocess.run(["ssh-keygen", *words], check=True)
    setup.use_sshd("-o", "HostCertificate=/etc/ssh/ssh_host_ed25519_key-cert.pub")
    del setup.pve1["host_key"]
    setup.pve1["host_ca"] = " ".join(authority.with_suffix(".pub").read_text().split()[:2])


def by_name(setup: HostSetup) -> None:
    setup.pve1["ssh"] = setup.pve1["ssh"].replace("127.0.0.1", "localhost")


def several_vms(setup: HostSetup) -> None:
    edit("--vms 102", "--vms 102-103")(setup)
    setup.config["vms"]["other"] = {"hosts": ["pve1"], "vmid": 103}


def without_an_account(setup: HostSetup) -> None:
    """Have a user id without a name or home, as in a container. asyncssh asks for both, although it needs neither."""
    setup.user = NO_ACCOUNT
    setup.write()
    for path in (setup.directory, *setup.directory.rglob("*")):
        os.chown(path, NO_ACCOUNT, NO_ACCOUNT)
        path.chmod(0o700 if path.is_dir() else 0o600)


def banner(setup: HostSetup) -> None:
    setup.host.shell("for n in $(seq 40); do echo 'Authorized use only'; done >/etc/issue.net")
    conf("10-banner.conf", "Banner /etc/issue.net")(setup)
    setup.use_sshd()


HEALTHY: dict[str, tuple[Seed, list[str]]] = {
    "as the recipe left it": (lambda setup: None, []),
    "a user id without an account": (without_an_account, []),
    "under HA": (under_ha(), []),
    "suspended to disk": (vm_conf("lock: suspended\nname: devvm\n"), []),
    "IPv6": (listen_on_ipv6, ["host-check"]),  # the recipe was printed with --from 127.0.0.1
    "host_ca": (sign_host_key, []),
    "by name": (by_name, []),
    "several VMs": (several_vms, []),
    "H5 a banner of 40 lines": (banner, []),
    "H8 /etc/nologin": (sh("echo maintenance >/etc/nologin"), []),
    "H10 LD_PRELOAD of a missing library": (sh("echo LD_PRELOAD=/nowhere/lib.so >>/etc/environment"), []),
    "R1 SSH key of Windows": (lambda s: s.file("power", s.host.power.replace("\n", "\r\n")), []),
    "R2 SSH key with a byte order mark": (lambda s: s.file("power", "\ufeff" + s.host.power), []),
    "N18 a slow profile": (sh("echo hello >/etc/motd; echo 'sleep 1' >/etc/profile.d/slow.sh"), []),
}


@pytest.mark.parametrize("name", sampled(HEALTHY, "as the recipe left it", "a user id without an account"))
def test_a_good_host_has_no_error(setup: HostSetup, name: str) -> None:
    """A host on which a rescue works has no error, and a warning only where something is unusual."""
    seed, warnings = HEALTHY[name]
    with setup.stack:
        seed(setup)
        report = look(setup)
    assert [(finding.level, finding.code) for finding in bad(report)] == [(WARNING, code) for code in warnings]
    assert report.code == (1 if warnings else 0)


@pytest.mark.all
def test_a_host_that_hangs_hides_no_other_one(setup: HostSetup) -> None:
    """All hosts are looked at at once: one behind a firewall that drops packets costs its own time only."""
    setup.config["hosts"]["pve2"] = setup.pve1 | {
        "ssh": f"breakglass@127.0.0.1:{setup.stack.enter_context(silent_port())}"
    }
    setup.config["hosts"]["pve3"] = setup.config["hosts"]["pve2"]
    with setup.stack:
        report = look(setup)
    errors = [(finding.place, finding.code) for finding in report.findings if finding.level == "error"]
    assert errors == [("host pve2", "timeout"), ("host pve3", "timeout")]
    assert "let 127.0.0.1 through its firewall" in found(report.findings, "timeout").fix
    assert found(report.findings, "host-key-pinned").level == OK
    assert "check finds" in found(report.findings, "vm-check").sentence


@pytest.mark.all
def test_a_resolver_that_hangs(setup: HostSetup) -> None:
    """A name whose look-up does not end is a finding, and doctor ends, because the look-up is in its own thread."""
    (setup.host.etc / "resolv.conf").unlink(missing_ok=True)
    (setup.host.etc / "resolv.conf").write_text("nameserver 127.9.9.9\n")
    setup.pve1["ssh"] = "breakglass@pve1.example.org"
    setup.write()
    argv = setup.host.inside(sys.executable, "-m", "breakglass", "doctor", "--json")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.9.9.9", 53))
        ran = subprocess.run(argv, env=setup.environment, cwd=ROOT, capture_output=True, text=True, timeout=60)
    findings = Report(ran.returncode, ran.stdout, ran.stderr, 0).findings
    assert "hosts.pve1.ssh" in found(findings, "name-silent").fix


@pytest.mark.all
def test_a_later_host_of_a_vm_is_looked_at_too(setup: HostSetup) -> None:
    """After a migration the VM is rescued there: what would refuse that is a warning, and so is one machine twice."""
    setup.config["hosts"]["pve2"] = setup.pve1 | {"ssh": setup.pve1["ssh"].replace("127.0.0.1", "localhost")}
    setup.config["vms"]["other"] = {"hosts": ["pve2", "pve1"], "vmid": 103}
    report = look(setup)
    assert found(report.findings, "same-machine").fix.startswith("correct hosts.pve2.ssh")
    served = [finding for finding in report.findings if finding.code == "vm-not-served"]
    assert [(finding.level, finding.place) for finding in served] == [("error", "VM other"), ("warning", "VM other")]


@pytest.mark.all
def test_a_login_that_fails_is_tried_once(setup: HostSetup) -> None:
    """Of a key that is not accepted sshd sees one attempt: each more would count against the handler's address."""
    log = setup.directory / "log"
    log.touch(0o666)
    setup.host.keys.write_text("")
    with setup.stack:
        door = setup.use_sshd("-o", "LogLevel=VERBOSE", "-E", str(log))
        look(setup)
        until(lambda: not descendants(door.process.pid), "the end of sshd's other processes, and so of what they log")
    assert log.read_text().count("Connection from ") == 1 + 1  # the key's, and the one that waited for sshd
    assert log.read_text().count("Failed publickey") == 1

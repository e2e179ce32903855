"""Faults of a Proxmox host as a person meets them: each gets one finding, with its cause and a cure that works.

tests/data/planted_hosts.yaml has the faults: H-numbers are those that a reviewer planted, and N-numbers are later ones.
The host was installed by the printed recipe, and has a real sshd. A finding may send a person to `breakglass-pve check`
on the host, which then names the cause. After the cure, doctor finds nothing.
"""

import errno
import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml  # type: ignore[import-untyped]  # its stubs are one more package

from breakglass.agents.bundle import bundle
from breakglass.agents.pve.host.cluster import node_name
from breakglass.agents.pve.words import VERSION
from breakglass.base.findings import ERROR, OK, WARNING, Finding

from ..support.agent import OLDER, agent_program
from ..support.doctor import DATA, Report, Seed, found, plant
from ..support.doctor_host import DoctorHost, HostSetup, guests
from ..support.installing import new_key
from ..support.peer import playing
from ..support.ports import reserve_port
from ..support.selection import sampled
from ..support.service import new_ssh_key
from ..support.sshd import descendants
from ..support.stages import until

pytestmark = [pytest.mark.real("sshd"), pytest.mark.real("root")]

PLACES = ["hosts"]
SBIN = "/usr/local/sbin"
QM = f"{SBIN}/qm"
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
    cure: Seed = ""
    sshd: bool = False
    level: str = ERROR
    also: tuple[str, ...] = ()


def read_faults() -> list[Planted]:
    text = (DATA / "planted_hosts.yaml").read_text("utf-8")
    return [Planted(**row) for row in yaml.safe_load(text.replace("@node@", node_name()).replace("@version@", VERSION))]


FAULTS = read_faults()
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
        plant(setup, fault.seed, globals())
        if fault.sshd:
            setup.use_sshd()
        report = look(setup)
        assert report.code == (2 if any(each.level == ERROR for each in report.findings) else 1)
        checked = []
        if fault.cause and fault.cause not in "".join(map(str, bad(report))):
            checked = [line for line in setup.host.check().stdout.splitlines() if not line.startswith("ok: ")]
        if not fault.cure:
            return Examined(bad(report), checked, [])
        plant(setup, {"sh": fault.cure} if isinstance(fault.cure, str) else fault.cure, globals())
        if fault.sshd:
            setup.use_sshd()
        setup.path.unlink()
        return Examined(bad(report), checked, bad(look(setup)))


@pytest.fixture
def setup(short_dir: Path, doctor_host: DoctorHost) -> Iterator[HostSetup]:
    """A configuration with a host on which all is well; what a test changes there is put back."""
    yield HostSetup(short_dir, doctor_host)
    doctor_host.restore()


@pytest.mark.parametrize("name", sampled(BY_NAME, *QUICK))
def test_a_fault_has_one_cause_and_a_cure_that_works(
    setup: HostSetup, name: str, request: pytest.FixtureRequest
) -> None:
    """It is an error if it stops a rescue. What it is and what to do is said once, by doctor or by the host's check."""
    fault = BY_NAME[name]
    if fault.seed == "stale_lock":  # its owner is looked for among the whole machine's processes
        request.getfixturevalue("own_tasks")
    seen = examine(setup, fault)
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


# --- seeds: anything at the host ---


def sh(setup: HostSetup, script: str, undo: str = "") -> None:
    setup.at_host(script, undo)


# --- on the way to a login ---


def name(setup: HostSetup, text: str) -> None:
    """Have another name, for which this machine's resolver may take its time."""
    setup.pve1["ssh"] = text
    setup.constants["doctor.host_walk.NAME_SECONDS"] = 20.0


def pve1(setup: HostSetup, **settings: str) -> None:
    setup.pve1.update(settings)


def closed_port(setup: HostSetup) -> None:
    setup.use_port(reserve_port())


def other_server(setup: HostSetup, answer: str) -> None:
    setup.use_port(setup.stack.enter_context(playing(lambda connection: connection.sendall(answer.encode()))))


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


def skip_unless(address: str, *errors: int) -> None:
    """Skip the test on a machine where a connection to this IPv6 address ends in another way."""
    with socket.socket(socket.AF_INET6) as tried:
        tried.settimeout(5)
        if tried.connect_ex((address, 9)) not in errors:
            pytest.skip(f"this machine's IPv6 has no such end of a connection to {address}")


def no_ipv6(setup: HostSetup) -> None:
    skip_unless("2001:db8::1", errno.ENETUNREACH, errno.EHOSTUNREACH)
    setup.pve1["ssh"] = "breakglass@[2001:db8::1]:22"


def use_ipv4(setup: HostSetup) -> None:
    setup.use_sshd()


# --- sshd's configuration, and the account ---


def conf(setup: HostSetup, file: str, *lines: str) -> None:
    """Write a file of sshd's configuration."""
    sh(setup, "".join(f"echo '{line}' >>/etc/ssh/sshd_config.d/{file}\n" for line in lines))


def passwd(setup: HostSetup, old: str, new: str) -> None:
    sh(setup, f"sed -i '/^breakglass:/s|{old}|{new}|' /etc/passwd")


def exemption(setup: HostSetup, address: str) -> None:
    text = setup.host.drop_in.read_text()
    setup.host.drop_in.write_text(re.sub("(# )?(PerSourcePenaltyExemptList) .*", rf"\2 {address}", text))


def kill_jobs(setup: HostSetup) -> None:
    text = "[Login]\\nKillUserProcesses=yes\\nKillExcludeUsers=\\n"
    setup.host.shell(f"mkdir -p /etc/systemd/logind.conf.d; printf '{text}' >/etc/systemd/logind.conf.d/k.conf")


# --- keys ---


def revoke(setup: HostSetup) -> None:
    edit(setup, setup.host.power_public, new_key()[1])


def garbage_key(setup: HostSetup) -> None:
    setup.file("power", "-----BEGIN OPENSSH PRIVATE KEY-----\nnonsense\n-----END OPENSSH PRIVATE KEY-----\n")


def power_key_of_windows(setup: HostSetup) -> None:
    setup.file("power", setup.host.power.replace("\n", "\r\n"))


def second_vm(setup: HostSetup, vmid: int) -> None:
    setup.config["vms"].update(other={"hosts": ["pve1"], "vmid": vmid})


def line(setup: HostSetup, options: str) -> None:
    """Replace the options of the key's line."""
    setup.change_keys(lambda _: f"{options} {setup.host.power_public}\n")


def open_line(setup: HostSetup, options: str, forwarding: str = "yes") -> None:
    """Replace them, at an sshd that allows everything that a key's line allows."""
    text = setup.host.drop_in.read_text()
    setup.host.drop_in.write_text(
        text.replace("forced-commands-only", "prohibit-password")
        .replace("DisableForwarding yes", "DisableForwarding no")
        .replace("PermitTTY no", "PermitTTY yes")
    )
    setup.use_sshd("-o", f"AllowTcpForwarding={forwarding}")
    line(setup, options)


def edit(setup: HostSetup, old: str, new: str) -> None:
    """Change a text in each line of the key file."""
    setup.change_keys(lambda text: text.replace(old, new))


def restore_files(setup: HostSetup) -> None:
    setup.host.restore_files()


# --- the host agent ---


def agent(setup: HostSetup, code: str = "", /, **constants: object) -> None:
    """Install another host agent, with these constants and after this code."""
    setup.host.set_agent(agent_program(code, **constants))


def older_agent(setup: HostSetup, **settings: object) -> None:
    """Install one that lacks an option, and give the VM settings that need it."""
    devvm(setup, **settings)
    agent(setup, OLDER)


def clock(setup: HostSetup, seconds: int) -> None:
    agent(setup, f"import time\nreal = time.time\ntime.time = lambda: real() + {seconds}\n")


def program(setup: HostSetup, text: str) -> None:
    setup.host.set_agent(text)


# until sshd's own process for the session has ended, because the shell in between waits for this one
HANGS = """#!/bin/sh
read -r _ _ _ session _ </proc/$PPID/stat
while read -r _ _ _ now _ </proc/$PPID/stat && [ "$now" = "$session" ]; do sleep 0.1; done
"""


def hanging(setup: HostSetup) -> None:
    program(setup, HANGS)
    setup.constants["doctor.login.ANSWER_SECONDS"] = 6.0


def windows(setup: HostSetup) -> None:
    setup.host.set_agent(setup.host.program.replace("\n", "\r\n"))


def old_python(setup: HostSetup) -> None:
    """Let the host agent, as it is installed, need a Python that does not exist."""
    text = bundle()
    assert text.count("sys.version_info < (3, 11)") == 1
    setup.host.set_agent(text.replace("sys.version_info < (3, 11)", "sys.version_info < (9,)"))


def good_agent(setup: HostSetup) -> None:
    """Do what `breakglass host upgrade` and the recipe do: replace the host agent's file."""
    setup.host.set_agent(setup.host.program)


def qm(setup: HostSetup, script: str) -> None:
    sh(setup, f"cp {QM} /root/qm.kept; cat >{QM} <<'END'\n#!/bin/sh\n{script}\nEND\n")


def half(setup: HostSetup) -> None:
    path = setup.host.sbin / "breakglass-pve"
    path.write_text(path.read_text()[:-200] + "\ndef main(")


# --- the VMs on the host ---


def devvm(setup: HostSetup, **settings: object) -> None:
    setup.config["vms"]["devvm"].update(settings)


def vm_conf(setup: HostSetup, text: str) -> None:
    (setup.host.etc / "pve/qemu-server/102.conf").write_text(text)


def without_conf(setup: HostSetup, **nodes: str) -> None:
    """Have these VMs in the cluster, and no configuration of the VM here."""
    (setup.host.etc / "pve/qemu-server/102.conf").unlink()
    (setup.host.etc / "pve/.vmlist").write_text(guests(**nodes))


def under_ha(setup: HostSetup, seen: str = "started") -> None:
    """Put the VM under HA, whose daemons wrote 5 seconds ago."""
    ha = setup.host.etc / "pve/ha"
    ha.mkdir()
    (ha / "resources.cfg").write_text("vm: 102\n\tstate started\n")
    status: dict[str, object] = {"service_status": {"vm:102": {"state": seen, "node": node_name()}}}
    status["timestamp"] = int(time.time()) - 5
    (ha / "manager_status").write_text(json.dumps(status))
    lrm = {"state": "active", "mode": "active", "timestamp": status["timestamp"]}
    (setup.host.etc / "pve/local/lrm_status").write_text(json.dumps(lrm))
    setup.at_host("touch /run/pve-ha-crm.pid /run/pve-ha-lrm.pid", "rm /run/pve-ha-crm.pid /run/pve-ha-lrm.pid")


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
    vm_conf(setup, "lock: backup\n")


# --- the host ---


def hang(setup: HostSetup, path: str) -> None:
    setup.hang(path)


# --- good hosts ---


def as_installed(setup: HostSetup) -> None:
    """Change nothing."""


def listen_on_ipv6(setup: HostSetup) -> None:
    skip_unless("::1", 0, errno.ECONNREFUSED)
    door = setup.use_sshd("-o", "ListenAddress=::1")
    setup.pve1["ssh"] = f"breakglass@[::1]:{door.port}"


def without_an_account(setup: HostSetup) -> None:
    """Have a user id without a name or home, as in a container. asyncssh asks for both, although it needs neither."""
    setup.user = NO_ACCOUNT
    setup.write()
    for path in (setup.directory, *setup.directory.rglob("*")):
        os.chown(path, NO_ACCOUNT, NO_ACCOUNT)
        path.chmod(0o700 if path.is_dir() else 0o600)


def banner(setup: HostSetup) -> None:
    setup.host.shell("for n in $(seq 40); do echo 'Authorized use only'; done >/etc/issue.net")
    conf(setup, "10-banner.conf", "Banner /etc/issue.net")
    setup.use_sshd()


HEALTHY: dict[str, Seed] = {
    "as the recipe left it": "as_installed",
    "a user id without an account": "without_an_account",
    "under HA": "under_ha",
    "IPv6": "listen_on_ipv6",
    "H5 a banner of 40 lines": "banner",
    "H8 /etc/nologin": {"sh": "echo maintenance >/etc/nologin"},
    "R1 SSH key of Windows": "power_key_of_windows",
}


@pytest.mark.parametrize("name", sampled(HEALTHY, "as the recipe left it", "a user id without an account"))
def test_a_good_host_has_no_error(setup: HostSetup, name: str) -> None:
    """A host on which a rescue works has no error, and a warning only where something is unusual."""
    warnings = ["host-check"] if name == "IPv6" else []  # the recipe was printed with --from 127.0.0.1
    with setup.stack:
        plant(setup, HEALTHY[name], globals())
        report = look(setup)
    assert [(finding.level, finding.code) for finding in bad(report)] == [(WARNING, code) for code in warnings]
    assert report.code == (1 if warnings else 0)


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

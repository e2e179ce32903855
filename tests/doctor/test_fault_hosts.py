"""Doctor's look at the hosts and their VMs, with faults seeded on a host with a real sshd.

The host was installed by the printed recipe. Each fault is found under its code, with its fix.
"""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from breakglass.agents.bundle import bundle
from breakglass.agents.pve.host.cluster import node_name
from breakglass.agents.pve.words import VERSION

from ..support.agent import OLDER, agent_program
from ..support.doctor import DoctorProcess, Fault, Report, check_fault, found
from ..support.doctor_host import DoctorHost, HostSetup, another_server, guests, silent_port
from ..support.installing import ROOT, new_key
from ..support.ports import reserve_port
from ..support.service import new_ssh_key
from ..support.sshd import descendants
from ..support.stages import until

pytestmark = [pytest.mark.real("sshd"), pytest.mark.real("root")]

HOSTS = ["hosts"]
RECIPE = "breakglass host install-commands --host pve1 --from 127.0.0.1"
UPGRADE = "breakglass host upgrade pve1"
Seed = Callable[[HostSetup], object]


@pytest.fixture
def setup(short_dir: Path, doctor_process: DoctorProcess, doctor_host: DoctorHost) -> Iterator[HostSetup]:
    """A configuration with a host on which all is well; what a test changes there is put back."""
    yield HostSetup(short_dir, doctor_process, doctor_host)
    doctor_host.restore()


def look(setup: HostSetup, *words: str) -> Report:
    report = setup.doctor(*words, places=HOSTS)
    assert report.stdout, report.stderr
    return report


def codes(report: Report, level: str) -> list[str]:
    return [finding.code for finding in report.findings if finding.level == level]


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


LOGINS = [
    ("name not found", lambda s: name(s, "breakglass@no-such-host.invalid:22"), "name-not-found", "hosts.pve1.ssh"),
    ("name that can't be one", lambda s: name(s, f"breakglass@{'a' * 64}.invalid"), "name-not-found", "hosts.pve1.ssh"),
    ("refused", closed_port, "connection-refused", "systemctl start ssh"),
    ("an SMTP server", other_server(b"220 mail ESMTP\r\n"), "not-ssh", "the port in hosts.pve1.ssh"),
    ("an HTTP server", other_server(b"HTTP/1.1 400 Bad Request\r\n\r\n", waits=True), "not-ssh", "hosts.pve1.ssh"),
    ("closes at once", other_server(b""), "turned-away", "PerSourcePenaltyExemptList"),
    ("host key differs", other_host_key, "host-key-differs", 'hosts.pve1.host_key = "ssh-ed25519 AAAA'),
    (
        "host key any",
        lambda s: s.pve1.update(host_key="any"),
        "host-key-any",
        'hosts.pve1.host_key = "ssh-ed25519 AAAA',
    ),
    ("an SSH server that says nothing", silent_server, "ssh-silent", "systemctl status ssh"),
    ("penalised", penalised, "penalised", "PerSourcePenaltyExemptList 127.0.0.1"),
    ("too many logins", full_of_logins, "penalised", "MaxStartups 100:30:200"),
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


SERVE = '"/usr/local/sbin/breakglass-pve serve --vms 102'
COMMAND = f'command={SERVE}"'
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


def serve(vms: str, *, only: str = "") -> Seed:
    """Make the lines serve other VMs, or `only` the lines with a word."""

    def change(text: str) -> str:
        lines = [line.replace("--vms 102", f"--vms {vms}") if only in line else line for line in text.splitlines()]
        return "\n".join(lines) + "\n"

    return lambda setup: setup.change_keys(change)


def edit(old: str, new: str) -> Seed:
    """Change a text in each line of the key file."""
    return lambda setup: setup.change_keys(lambda text: text.replace(old, new))


KEYS = [
    ("power key revoked", revoke, "key-not-accepted", RECIPE),
    ("power key not installed", lambda s: s.file("power", new_ssh_key()), "key-not-accepted", "breakglass-pve check"),
    ("garbage power key", garbage_key, "host-disabled", "see breakglass docs admin; then run systemctl reload"),
    ("one of two VMs is off", second_vm(0), "vm-disabled", "[vms.other]"),
    ("no key in the file", lambda s: s.host.keys.write_text(""), "key-not-accepted", RECIPE),
    ("no key file", lambda s: s.host.keys.unlink(), "key-not-accepted", RECIPE),
    ("key file of others", lambda s: s.host.keys.chmod(0o666), "key-not-accepted", "breakglass-pve check"),
    (
        "power key line is read-only",
        lambda s: line(s, f'restrict,command={SERVE} --read-only"'),
        "power-key-read-only",
        RECIPE,
    ),
    ("key opens a shell", open_line("restrict"), "opens-shell", RECIPE),
    ("line allows forwarding", open_line(f"restrict,port-forwarding,{COMMAND}"), "allows-forwarding", "restrict,"),
    ("line allows a terminal", open_line(f"restrict,pty,{COMMAND}"), "allows-terminal", "restrict,"),
    ("line without restrict", open_line(COMMAND), "allows-forwarding", "restrict,"),
    ("line reaches ports", open_line(COMMAND, forwarding="local"), "allows-forwarding", "restrict,"),
    ("line opens ports", open_line(COMMAND, forwarding="remote"), "allows-forwarding", "restrict,"),
    ("line opens files beside the agent", open_line(f"restrict,{WITH_FILES}"), "allows-sftp", RECIPE),
    ("line opens files alone", open_line('restrict,command="internal-sftp"'), "allows-sftp", RECIPE),
    ("line opens files", open_line('restrict,command="internal-sftp"'), "agent-silent", "breakglass-pve check"),
    ("line runs a shell", open_line('restrict,command="/bin/sh"'), "opens-shell", "breakglass-pve check"),
    ("line with another file", edit("/sbin/breakglass-pve", "/bin/breakglass-pve"), "key-line-wrong", RECIPE),
    (
        "line for another address",
        edit("restrict,", 'restrict,from="192.0.2.1",'),
        "key-not-accepted",
        "its line has from=",
    ),
    (
        "line that has expired",
        edit("restrict,", 'restrict,expiry-time="20200101",'),
        "key-not-accepted",
        "expiry-time=",
    ),
    ("no keys at sshd", lambda s: s.use_sshd("-o", "PubkeyAuthentication=no"), "turned-away", "breakglass-pve check"),
    ("line with another option", open_line(f"restrict,{COMMAND.replace('--vms', '--vm')}"), "key-line-wrong", RECIPE),
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


def account(old: str, new: str) -> Seed:
    """Change the account's line of /etc/passwd."""

    def seed(setup: HostSetup) -> None:
        path = setup.host.etc / "passwd"
        text = path.read_text()
        line = next(line for line in text.splitlines() if line.startswith("breakglass:"))
        assert old in line
        path.write_text(text.replace(line, line.replace(old, new)))

    return seed


SBIN = "/usr/local/sbin"
AGENT = f"{SBIN}/breakglass-pve"
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


def exemption(address: str) -> Seed:
    return lambda setup: setup.host.drop_in.write_text(
        re.sub("(# )?(PerSourcePenaltyExemptList) .*", rf"\2 {address}", setup.host.drop_in.read_text())
    )


AGENTS = [
    ("wrong node", lambda s: s.pve1.update(node="pve9"), "wrong-node", f'hosts.pve1.node = "{node_name()}"'),
    ("agent missing", lambda s: s.at_host(f"rm {AGENT}"), "agent-missing", UPGRADE),
    ("agent not executable", lambda s: s.at_host(f"chmod 0644 {AGENT}"), "agent-not-executable", f"chmod 0755 {AGENT}"),
    ("Python of Debian 11", old_python, "python-old", "upgrade Proxmox VE"),
    ("Python missing", program("#!/usr/bin/python3.99 -IS\n"), "agent-missing", "apt install python3"),
    ("Python missing for env", program("#!/usr/bin/env python3.99\n"), "python-missing", "apt install python3"),
    ("agent damaged", program("#!/usr/bin/python3 -IS\nimport no_such_module\n"), "agent-broken", UPGRADE),
    ("agent cut off", program("#!/usr/bin/python3 -IS\ndef main(\n"), "agent-broken", UPGRADE),
    ("agent hangs", hanging, "agent-silent", "uptime"),
    ("check fails", agent(CHECK_FAILS), "check-silent", "breakglass-pve check"),
    ("agent is a web page", program("<html>404</html>\n"), "agent-broken", UPGRADE),
    ("agent with the line ends of Windows", windows, "agent-broken", UPGRADE),
    ("agent that is no program", no_program, "agent-broken", UPGRADE),
    (
        "agent on a file system without programs",
        lambda s: s.at_host(f"mount -o remount,bind,noexec {SBIN}", f"mount -o remount,bind,exec {SBIN}"),
        "agent-not-executable",
        "mount -o remount,exec",
    ),
    ("agent is empty", program("#!/bin/sh\n"), "agent-empty", UPGRADE),
    ("agent of another build", agent("replace(bundle_hash=lambda: 'f' * 64)"), "agent-outdated", UPGRADE),
    ("agent is older", agent(VERSION=f"{VERSION}rc1"), "agent-outdated", UPGRADE),
    ("agent is newer", agent(VERSION="0.9.0"), "agent-outdated", "upgrade this handler to 0.9.0"),
    ("agent of a version that does not fit", agent(VERSION="0.2.0"), "agent-too-old", UPGRADE),
    ("agent can't be asked not to read a log", setting(agent(OLDER), last_words=False), "last-words-read", UPGRADE),
    ("agent can't compare names", setting(agent(OLDER), name="devvm"), "name-not-compared", UPGRADE),
    ("another VM has the number", setting(lambda _: None, name="customer-db"), "wrong-vm", "qm list"),
    ("clock ahead", agent(CLOCK.format(seconds=300)), "clock-differs", "timedatectl"),
    ("clock behind", agent(CLOCK.format(seconds=-300)), "clock-differs", "chrony"),
    ("account with another shell", account("/bin/sh", "/bin/bash"), "host-check", "usermod --shell /bin/sh breakglass"),
    ("account without a shell", account("/bin/sh", "/usr/sbin/nologin"), "account-shell", "usermod --shell /bin/sh"),
    (
        "account with a shell that is not there",
        account("/bin/sh", "/bin/zsh9"),
        "key-not-accepted",
        "breakglass-pve check",
    ),
    (
        "account that has expired",
        lambda s: s.at_host("usermod --expiredate 2020-01-01 breakglass"),
        "turned-away",
        "breakglass-pve check",
    ),
    ("account with another uid", account(":0:0:", ":1234:1234:"), "host-check", "breakglass:"),
    ("no account", account("breakglass:", "other:"), "key-not-accepted", RECIPE),
    ("exemption of another handler", exemption("192.0.2.60"), "host-check", "add 127.0.0.1 to PerSource"),
    ("no channels", lambda s: s.use_sshd("-o", "MaxSessions=0"), "no-channel", "MaxSessions"),
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


CONTAINER = json.dumps({"version": 1, "ids": {"102": {"node": node_name(), "type": "lxc", "version": 1}}})
VMS = [
    ("key serves another VM", serve("103"), "vm-not-served", "breakglass-pve allow 102"),
    ("key serves not this VM either", second_vm(103), "vm-not-served", "breakglass-pve allow 103"),
    (
        "VM on another node",
        without_conf(guests(vm102="pve2")),
        "vm-elsewhere",
        "add the host of pve2 to vms.devvm.hosts",
    ),
    ("no such VM", without_conf(guests()), "vm-check", "qm list"),
    ("the number is a container", without_conf(CONTAINER), "vm-check", "take 102 out"),
    ("a template", vm_conf("template: 1\nname: devvm\n"), "vm-check", "qm list"),
    ("lock of a backup", vm_conf("lock: backup\nname: devvm\n"), "vm-check", "qm"),
    ("lock of a migration", vm_conf("lock: migrate\nname: devvm\n"), "vm-check", "qm"),
    ("lock file held", lock_file, "vm-check", "kill"),
    ("HA error", under_ha(seen="error"), "vm-check", "ha-manager set vm:102 --state disabled"),
    ("HA dead", under_ha(silent=324), "vm-check", "systemctl start pve-ha-crm pve-ha-lrm"),
    ("HA fence", under_ha(seen="fence"), "vm-check", "ha-manager status"),
    ("HA freeze", under_ha(seen="freeze"), "vm-check", "ha-manager"),
    ("HA disarmed and frozen", under_ha(disarm="freeze"), "vm-check", "arm-ha"),
    ("HA disarmed", under_ha(disarm="ignore"), "vm-check", "ha-manager crm-command arm-ha"),
]

# --- the host ---

FILL = "mount -o remount,size={size} {path}; dd if=/dev/zero of={path}/filler bs=64k 2>/dev/null || true"
EMPTY = "rm -f {path}/filler; mount -o remount,size=50% {path}"
INODES = """mkdir -p {path}/filler
for n in $(seq 200); do : >{path}/filler/$n; done
mount -o remount,nr_inodes=$(($(find {path} -xdev | wc -l) + 8)) {path}"""
PLENTY = "rm -r {path}/filler; mount -o remount,nr_inodes=500000 {path}"
ETC_PVE = "/etc/pve"


def full(path: str, size: str) -> Seed:
    return lambda setup: setup.at_host(FILL.format(path=path, size=size), EMPTY.format(path=path))


def few_inodes(path: str) -> Seed:
    return lambda setup: setup.at_host(INODES.format(path=path), PLENTY.format(path=path))


def broken_chain(setup: HostSetup) -> None:
    chain = f"/run/breakglass/102/chain-{node_name()}"
    setup.at_host(f"mkdir -p {os.path.dirname(chain)}; echo '{{\"n\":7}}' >{chain}", f"rm {chain}")


HOST = [
    ("no quorum", lambda s: (s.host.etc / "pve/local").chmod(0o555), "host-check", "pvecm status"),
    ("/etc/pve hung", lambda s: s.hang(ETC_PVE), "host-check", "systemctl restart pve-cluster"),
    ("/etc/pve dead", lambda s: s.hang(ETC_PVE, "dead_fuse"), "host-check", "pve-cluster"),
    (
        "/etc/pve not mounted",
        lambda s: s.at_host("mount -t tmpfs none /etc/pve", "umount /etc/pve"),
        "host-check",
        "pve-cluster",
    ),
    ("/run full", full("/run", "3m"), "host-check", "df /run"),
    ("/run without inodes", few_inodes("/run"), "host-check", "df -i /run"),
    ("archive full", full("/var/lib", "1m"), "host-check", "df /var/lib"),
    ("archive without inodes", few_inodes("/var/lib"), "host-check", "df -i /var/lib"),
    (
        "archive read-only",
        lambda s: s.at_host("mount -o remount,ro /var/lib", "mount -o remount,rw /var/lib"),
        "host-check",
        "findmnt -T /var/lib/breakglass",
    ),
    ("archive hung", lambda s: s.hang("/var/lib"), "host-check", "findmnt -T /var/lib/breakglass"),
    ("broken chain", broken_chain, "host-check", "The chain of jobs"),
    (
        "qm not on PATH",
        lambda s: s.at_host("mv /usr/local/sbin/qm /root/", "mv /root/qm /usr/local/sbin/"),
        "qm",
        "PATH",
    ),
]

# The others are run with --all.
QUICK = """
refused; host key differs; power key revoked; power key line is read-only; key opens a shell; agent missing;
agent of another build; key serves another VM; no quorum
"""
# With these faults, a rescue still works. The others are errors.
WARNINGS = """
host key any; agent of another build; agent is older; agent can't be asked not to read a log;
agent is newer; clock ahead; clock behind; lock of a backup; lock of a migration;
lock file held; HA disarmed; /run without inodes; archive full; archive without inodes; archive read-only;
 exemption of another handler; archive hung; broken chain; agent can't compare names
"""
ROWS = [*LOGINS, *KEYS, *AGENTS, *VMS, *HOST]
FAULTS = [Fault(*row) for row in ROWS]


def _names(text: str) -> set[str]:
    return {name.strip() for name in text.split(";")}


def marked(fault: Fault) -> object:
    marks = [] if fault.name in _names(QUICK) else [pytest.mark.all]
    return pytest.param(fault, id=fault.name, marks=marks)


@pytest.mark.parametrize("fault", [marked(fault) for fault in FAULTS])
def test_a_fault_is_found_with_its_fix(setup: HostSetup, fault: Fault) -> None:
    """Each fault is found under its code, with its fix; it is an error if it stops a rescue."""
    finding = check_fault(setup, fault, HOSTS)
    assert finding.level == ("warning" if fault.name in _names(WARNINGS) else "error")


# --- good hosts ---


def test_a_good_host(setup: HostSetup) -> None:
    """It gets neither an error nor a warning, and each part has a line."""
    report = look(setup)
    assert codes(report, "error") == codes(report, "warning") == []
    assert report.code == 0


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


def running_job_of_another_vm(setup: HostSetup) -> None:
    serve("102-103")(setup)
    setup.config["vms"]["other"] = {"hosts": ["pve1"], "vmid": 103}


HEALTHY: dict[str, tuple[Seed, list[str]]] = {
    "own account, VM stopped": (lambda setup: None, []),
    "under HA": (under_ha(), []),
    "HA disarmed": (under_ha(disarm="ignore"), ["vm-check"]),
    "suspended to disk": (vm_conf("lock: suspended\nname: devvm\n"), []),
    "IPv6": (listen_on_ipv6, ["host-check"]),  # the recipe was printed with --from 127.0.0.1
    "host_ca": (sign_host_key, []),
    "by name": (by_name, []),
    "several VMs": (running_job_of_another_vm, []),
}


@pytest.mark.all
@pytest.mark.parametrize(("seed", "warnings"), HEALTHY.values(), ids=HEALTHY)
def test_a_good_host_has_no_error(setup: HostSetup, seed: Seed, warnings: list[str]) -> None:
    """A host on which a rescue works has no error, and a warning only where something is unusual."""
    with setup.stack:
        seed(setup)
        report = look(setup)
    assert codes(report, "error") == []
    assert codes(report, "warning") == warnings
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
    assert "host-key-pinned" in codes(report, "ok")
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

"""Faults of a Proxmox host as a person meets them: each gets one finding, with its cause and a cure that works.

H-numbers are faults that a reviewer planted, and N-numbers are later ones. A finding may send a person to
`breakglass-pve check` on the host, which then names the cause. After the cure, doctor finds nothing.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from breakglass.agents.pve.host.cluster import node_name

from ..support.agent import agent_program
from ..support.doctor import DoctorProcess, Report
from ..support.doctor_host import DoctorHost, HostSetup, guests

pytestmark = [pytest.mark.real("sshd"), pytest.mark.real("root")]

Seed = Callable[[HostSetup], object]
D = "/etc/ssh/sshd_config.d"
AGENT = "/usr/local/sbin/breakglass-pve"
KEYS = "/etc/ssh/authorized_keys.d/breakglass"
QM = "/usr/local/sbin/qm"
UPGRADE = "breakglass host upgrade pve1"
CHECK = "breakglass-pve check"


@pytest.fixture
def setup(short_dir: Path, doctor_process: DoctorProcess, doctor_host: DoctorHost) -> Iterator[HostSetup]:
    yield HostSetup(short_dir, doctor_process, doctor_host)
    doctor_host.restore()


class Planted(NamedTuple):
    """One fault: how it is planted, the code that doctor gives it, and words that name its cause and its cure.

    `cure` is what the words mean, as a script at the host or a function; without one, the words are the script.
    `sshd` says that sshd reads its configuration again after the fault and after the cure.
    """

    name: str
    seed: Seed
    code: str
    cause: str
    fix: str
    cure: str | Seed = ""
    sshd: bool = False


def sh(script: str) -> Seed:
    return lambda setup: setup.at_host(script)


def conf(name: str, *lines: str) -> Seed:
    """Write a file of sshd's configuration."""
    return sh("".join(f"echo '{line}' >>{D}/{name}\n" for line in lines))


def passwd(old: str, new: str) -> Seed:
    return sh(f"sed -i '/^breakglass:/s|{old}|{new}|' /etc/passwd")


def agent(code: str = "", /, **constants: object) -> Seed:
    return lambda setup: setup.host.set_agent(agent_program(code, **constants))


def text(program: str) -> Seed:
    return lambda setup: setup.host.set_agent(program)


def good_agent(setup: HostSetup) -> None:
    """Do what `breakglass host upgrade` and the recipe do: replace the host agent's file."""
    setup.host.set_agent(setup.host.program)


def qm(script: str) -> Seed:
    return sh(f"cp {QM} /root/qm.kept; cat >{QM} <<'END'\n#!/bin/sh\n{script}\nEND\n")


def half(setup: HostSetup) -> None:
    path = setup.host.sbin / "breakglass-pve"
    path.write_text(path.read_text()[:-200] + "\ndef main(")


def only_rsa(setup: HostSetup) -> None:
    setup.host.shell("cd /etc/ssh; [ -e ssh_host_rsa_key ] || ssh-keygen -q -t rsa -b 3072 -N '' -f ssh_host_rsa_key")
    setup.host.shell("cd /etc/ssh; mkdir away; mv ssh_host_ed25519_key* away/")
    setup.use_sshd("-o", "HostKey=/etc/ssh/ssh_host_rsa_key")


def pin_rsa(setup: HostSetup) -> None:
    public = setup.host.run("cat", "/etc/ssh/ssh_host_rsa_key.pub").stdout
    setup.pve1["host_key"] = " ".join(public.split()[:2])
    setup.use_sshd("-o", "HostKey=/etc/ssh/ssh_host_rsa_key")


def with_channels(number: int) -> Seed:
    return conf("00-a.conf", f"MaxSessions {number}")


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


def ipv4(setup: HostSetup) -> None:
    setup.use_sshd()


def conf_of_vm(lines: str) -> Seed:
    return lambda setup: (setup.host.etc / "pve/qemu-server/102.conf").write_text(lines)


def on_pve2(setup: HostSetup) -> None:
    (setup.host.etc / "pve/qemu-server/102.conf").unlink()
    (setup.host.etc / "pve/.vmlist").write_text(guests(vm102="pve2"))


def back(setup: HostSetup) -> None:
    (setup.host.etc / "pve/.vmlist").write_text(guests(vm102=node_name()))
    (setup.host.etc / "pve/qemu-server/102.conf").write_text("name: vm102\n")


def kill_jobs(setup: HostSetup) -> None:
    text = "[Login]\\nKillUserProcesses=yes\\nKillExcludeUsers=\\n"
    setup.host.shell(f"mkdir -p /etc/systemd/logind.conf.d; printf '{text}' >/etc/systemd/logind.conf.d/k.conf")


def own_key(setup: HostSetup) -> None:
    (setup.host.root / ".ssh/authorized_keys").write_text(f"{setup.host.power_public}\n")


def stale_lock(setup: HostSetup) -> None:
    """Leave the lock of a backup that has ended."""
    task = f"UPID:{node_name()}:0000A1B2:00C3D4E5:65000000:vzdump:102:root@pam:"
    setup.host.shell(f"mkdir -p /var/log/pve/tasks; echo '{task} 65000100 job errors' >/var/log/pve/tasks/index")
    conf_of_vm("lock: backup\n")(setup)


CLOCK = "import time\nreal = time.time\ntime.time = lambda: real() + {}\n"
FULL = "mount -o remount,size={} {}; dd if=/dev/zero of={}/filler bs=64k 2>/dev/null || true"
INODES = """mkdir -p /run/breakglass/filler
for n in $(seq 200); do : >/run/breakglass/filler/$n; done
mount -o remount,nr_inodes=$(($(find /run -xdev | wc -l) + 2)) /run"""
CHAGE = "chage -m 0 -M -1 -I -1 -E -1 breakglass"
PASSWORD = "usermod --password '*' breakglass"

HOSTS = [
    Planted(
        "H1 AllowUsers names others",
        conf("10-allow.conf", "AllowUsers admin"),
        "key-not-accepted",
        "AllowUsers does not name breakglass",
        f"add breakglass to it at {D}/10-allow.conf, line 1",
        f"sed -i 's/$/ breakglass/' {D}/10-allow.conf",
        sshd=True,
    ),
    Planted(
        "H2 Match Address with ForceCommand before ours",
        conf("00-a.conf", "Match Address 127.0.0.1", "ForceCommand echo jump host only", "Match all"),
        "agent-silent",
        "ForceCommand for breakglass",
        f"remove it at {D}/00-a.conf, line 2",
        f"sed -i 2d {D}/00-a.conf",
        sshd=True,
    ),
    Planted(
        "H3 account expired", sh("usermod --expiredate 2020-01-01 breakglass"), "turned-away", "expires", CHAGE, CHAGE
    ),
    Planted(
        "H4 locked, and UsePAM no",
        sh(f"echo UsePAM no >{D}/00-a.conf; usermod --password '!' breakglass"),
        "key-not-accepted",
        "is locked",
        PASSWORD,
        PASSWORD,
        sshd=True,
    ),
    Planted(
        "H6 bash and a start-up file that prints",
        lambda s: (passwd(":/:/bin/sh", ":/root:/bin/bash")(s), sh("echo 'echo hello' >/root/.bashrc")(s)),
        "host-check",
        "/bin/bash",
        "usermod --shell /bin/sh breakglass",
    ),
    Planted(
        "H7 nologin",
        passwd("/bin/sh", "/usr/sbin/nologin"),
        "account-shell",
        "has no shell",
        "usermod --shell /bin/sh breakglass",
    ),
    Planted(
        "H9 noexec",
        lambda s: s.at_host(
            "mount -o remount,bind,noexec /usr/local/sbin", "mount -o remount,bind,exec /usr/local/sbin"
        ),
        "agent-not-executable",
        "can't be started",
        f'mount -o remount,exec "$(findmnt -no TARGET -T {AGENT})"',
        "mount -o remount,bind,exec /usr/local/sbin",
    ),
    Planted(
        "H11 MaxSessions 1",
        with_channels(1),
        "no-channel|host-check",  # doctor's other channel may still be open
        "MaxSessions 1",
        f"remove MaxSessions at {D}/00-a.conf, line 1",
        f"sed -i 1d {D}/00-a.conf",
        sshd=True,
    ),
    Planted(
        "H12 MaxSessions 0",
        with_channels(0),
        "no-channel",
        "MaxSessions 0",
        f"remove MaxSessions at {D}/00-a.conf, line 1",
        f"sed -i 1d {D}/00-a.conf",
        sshd=True,
    ),
    Planted(
        "H13 no ed25519 accepted",
        conf("00-a.conf", "PubkeyAcceptedAlgorithms rsa-sha2-512"),
        "key-not-accepted",
        "PubkeyAcceptedAlgorithms has no ssh-ed25519",
        f"remove PubkeyAcceptedAlgorithms at {D}/00-a.conf, line 1",
        f"sed -i 1d {D}/00-a.conf",
        sshd=True,
    ),
    Planted(
        "H14 an earlier Match User",
        conf("00-a.conf", "Match User breakglass", "PermitRootLogin no", "Match all"),
        "key-not-accepted",
        "PermitRootLogin no refuses breakglass",
        f"remove PermitRootLogin at {D}/00-a.conf, line 2",
        f"sed -i 2d {D}/00-a.conf",
        sshd=True,
    ),
    Planted(
        "H15 a configuration that sshd refuses",
        conf("00-a.conf", "AuthenticationMethods nonsense"),
        "host-check",
        "Sshd -T failed",
        "run sshd -t",
        f"rm {D}/00-a.conf",
    ),
    Planted(
        "H16 no Include",
        sh("sed -i '/^Include/d' /etc/ssh/sshd_config"),
        "key-not-accepted",
        f"sshd does not read {D}/00-breakglass.conf",
        f"write Include {D}/*.conf as its first line",
        f"sed -i '1iInclude {D}/*.conf' /etc/ssh/sshd_config",
        sshd=True,
    ),
    Planted(
        "H17 only the RSA host key is left",
        only_rsa,
        "host-key-differs",
        "presents no ssh-ed25519 host key",
        "ssh-keygen -l -f /etc/ssh/ssh_host_rsa_key.pub",
        pin_rsa,
    ),
    Planted("H18 key file 0666", sh(f"chmod 0666 {KEYS}"), "key-not-accepted", "0666", f"chmod go-w {KEYS}"),
    Planted(
        "H19 its directory 0777",
        sh("chmod 0777 /etc/ssh/authorized_keys.d"),
        "key-not-accepted",
        "0777",
        "chmod go-w /etc/ssh/authorized_keys.d",
    ),
    Planted("H20 agent cut", half, "agent-broken", "SyntaxError", UPGRADE, good_agent),
    Planted("H21 agent empty", text(""), "agent-empty", "is empty", UPGRADE, good_agent),
    Planted("H22 agent of uid 1000", sh(f"chown 1000 {AGENT}"), "host-check", "uid 1000", f"chown root:root {AGENT}"),
    Planted(
        "H23 account with uid 1001",
        passwd(":0:0:", ":61234:61234:"),
        "host-check",
        "has uid 61234",
        "sed -i 's/^breakglass:\\([^:]*\\):61234:/breakglass:\\1:0:/' /etc/passwd",
    ),
    Planted(
        "H24 qm fails",
        qm('echo "Can\'t locate PVE/QemuServer.pm in @INC" >&2; exit 2'),
        "qm",
        "Can't locate PVE/QemuServer.pm",
        "dpkg --configure -a; apt full-upgrade",
        f"cp /root/qm.kept {QM}",
    ),
    Planted(
        "H25 qm hangs",
        qm("exec sleep 300"),
        "qm",
        "gave no answer in 5 s",
        "time qm status 102",
        f"cp /root/qm.kept {QM}",
    ),
    Planted(
        "H26 /run full",
        sh(FULL.format("3m", "/run", "/run")),
        "host-check",
        "/run",
        "df /run",
        "rm /run/filler; mount -o remount,size=50% /run",
    ),
    Planted(
        "H27 /var/lib full",
        sh(FULL.format("1m", "/var/lib", "/var/lib")),
        "host-check",
        "/var/lib/breakglass",
        "df /var/lib/breakglass",
        "rm /var/lib/filler; mount -o remount,size=50% /var/lib",
    ),
    Planted(
        "H28 no inodes",
        sh(INODES),
        "host-check",
        "inodes",
        "df -i /run/breakglass",
        "rm -r /run/breakglass/filler; mount -o remount,nr_inodes=500000 /run",
    ),
    Planted(
        "H29 clock 40 s ahead",
        agent(CLOCK.format(40)),
        "clock-differs",
        "40 s ahead",
        "systemctl restart chrony",
        good_agent,
    ),
    Planted("H30 clock 2 h behind", agent(CLOCK.format(-7200)), "clock-differs", "s behind", "timedatectl", good_agent),
    Planted(
        "H31 one login at a time",
        conf("00-a.conf", "MaxStartups 1"),
        "host-check",
        "MaxStartups 1 makes sshd turn the handler away",
        f"remove MaxStartups at {D}/00-a.conf, line 1",
        f"sed -i 1d {D}/00-a.conf",
        sshd=True,
    ),
    Planted(
        "H34 Python 3.10",
        agent("import sys; sys.version_info = (3, 10, 12)\n"),
        "host-check",
        "Python 3.10.12",
        "use 3.11 or later",
        good_agent,
    ),
    Planted(
        "R7 /etc/hosts leads elsewhere",
        elsewhere,
        "host-key-differs",
        "which is 127.0.0.1 here",
        "correct pve1.lan in /etc/hosts",
        right_address,
    ),
    Planted("R9 IPv6 without IPv6", no_ipv6, "no-route", "can't be reached", "ip route get 2001:db8::1", ipv4),
    Planted(
        "R12 template", conf_of_vm("template: 1\n"), "vm-check", "is a template", "qm list", conf_of_vm("name: vm102\n")
    ),
    Planted(
        "R13 a stale lock",
        stale_lock,
        "vm-check",
        "locked (backup)",
        "qm unlock 102",
        conf_of_vm("name: vm102\n"),
    ),
    # later ones
    Planted(
        "N1 DenyUsers",
        conf("zz.conf", "DenyUsers breakglass"),
        "key-not-accepted",
        "DenyUsers names breakglass",
        f"remove breakglass from it at {D}/zz.conf, line 1",
        f"rm {D}/zz.conf",
        sshd=True,
    ),
    Planted(
        "N2 PubkeyAuthentication no in sshd_config",
        sh("sed -i '1iPubkeyAuthentication no' /etc/ssh/sshd_config"),
        "turned-away",
        "PubkeyAuthentication no",
        "remove PubkeyAuthentication at /etc/ssh/sshd_config, line 1",
        "sed -i 1d /etc/ssh/sshd_config",
        sshd=True,
    ),
    Planted(
        "N3 LoginGraceTime 3",
        conf("00-a.conf", "LoginGraceTime 3"),
        "host-check",
        "LoginGraceTime 3",
        f"remove LoginGraceTime at {D}/00-a.conf, line 1",
        f"rm {D}/00-a.conf",
        sshd=True,
    ),
    Planted(
        "N4 AuthorizedKeysFile for all before ours",
        conf("00-a.conf", "Match User *", "AuthorizedKeysFile .ssh/authorized_keys", "Match all"),
        "key-not-accepted",
        "AuthorizedKeysFile",
        f"{D}/00-a.conf, line 2",
        f"rm {D}/00-a.conf",
        sshd=True,
    ),
    Planted(
        "N5 ChrootDirectory",
        conf("00-a.conf", "Match User breakglass", "ChrootDirectory /usr", "Match all"),
        "agent-missing",
        "sshd shuts breakglass into /usr",
        f"remove ChrootDirectory at {D}/00-a.conf, line 2",
        f"rm {D}/00-a.conf",
        sshd=True,
    ),
    Planted(
        "N6 ForceCommand after ours",
        conf("zz.conf", "Match User breakglass", "ForceCommand /bin/false", "Match all"),
        "agent-silent",
        "ForceCommand for breakglass: /bin/false",
        f"remove it at {D}/zz.conf, line 2",
        f"rm {D}/zz.conf",
        sshd=True,
    ),
    Planted(
        "N7 agent removed by an upgrade of the host", sh(f"rm {AGENT}"), "agent-missing", "missing", UPGRADE, good_agent
    ),
    Planted("N8 agent writable by others", sh(f"chmod 0777 {AGENT}"), "host-check", "0777", f"chmod go-w {AGENT}"),
    Planted(
        "N9 key file removed",
        sh(f"rm {KEYS}"),
        "key-not-accepted",
        "does not exist",
        "breakglass host install-commands",
        lambda s: s.host.restore_files(),
    ),
    Planted(
        "N10 /etc/pve not mounted",
        lambda s: s.at_host("mount -t tmpfs none /etc/pve"),
        "host-check",
        "pmxcfs",
        "systemctl restart pve-cluster",
        "umount /etc/pve",
    ),
    Planted(
        "N11 no quorum",
        sh("chmod 0555 /etc/pve/local"),
        "host-check",
        "no quorum",
        "pvecm status",
        "chmod 0755 /etc/pve/local",
    ),
    Planted(
        "N12 VM on a node without a host",
        on_pve2,
        "vm-elsewhere",
        "is on node pve2",
        "add the host of pve2 to vms.devvm.hosts",
        back,
    ),
    Planted(
        "N13 the key serves another VM",
        sh(f"sed -i 's/--vms 102/--vms 103/' {KEYS}"),
        "vm-not-served",
        "serves VM 103 and not 102",
        "breakglass-pve allow 102",
        f"sed -i 's/--vms 103/--vms 102/' {KEYS}",
    ),
    Planted(
        "N14 root's password can log in as breakglass",
        sh("usermod --password '$6$abc$def' breakglass"),
        "host-check",
        "has a password",
        PASSWORD,
    ),
    Planted(
        "N15 logind kills jobs",
        kill_jobs,
        "host-check",
        "KillUserProcesses=yes",
        "set KillUserProcesses=no",
        "rm /etc/systemd/logind.conf.d/k.conf",
    ),
    Planted(
        "N16 the key is root's own too",
        own_key,
        "host-check",
        "opens a root shell",
        "remove it there",
        "rm /root/.ssh/authorized_keys",
    ),
    Planted(
        "N17 another node's address",
        lambda s: s.pve1.update(node="pve9"),
        "wrong-node",
        "is the node",
        "write hosts.pve1.node",
        lambda s: s.pve1.update(node=node_name()),
    ),
]

# What harms nothing gets no finding.
HARMLESS: dict[str, Seed] = {
    "H5 a banner of 40 lines": lambda s: (
        sh("for n in $(seq 40); do echo 'Authorized use only'; done >/etc/issue.net")(s),
        conf("10-banner.conf", "Banner /etc/issue.net")(s),
        s.use_sshd(),
    ),
    "H8 /etc/nologin": sh("echo maintenance >/etc/nologin"),
    "H10 LD_PRELOAD of a missing library": sh("echo LD_PRELOAD=/nowhere/lib.so >>/etc/environment"),
    "R1 SSH key with the line ends of Windows": lambda s: s.file("power", s.host.power.replace("\n", "\r\n")),
    "R2 SSH key with a byte order mark": lambda s: s.file("power", "\ufeff" + s.host.power),
    "N18 a message of the day and a slow profile": sh("echo hello >/etc/motd; echo 'sleep 1' >/etc/profile.d/slow.sh"),
}


def told_by_check(setup: HostSetup) -> list[str]:
    """Return the lines of `breakglass-pve check` on the host that are not ok."""
    lines = setup.host.check().stdout.splitlines()
    return [line for line in lines if not line.startswith("ok: ")]


def bad(report: Report) -> list[str]:
    assert report.stdout, report.stderr
    return [f"{each.code}: {each}" for each in report.findings if each.level != "ok"]


@pytest.mark.all
@pytest.mark.parametrize("fault", [pytest.param(each, id=each.name) for each in HOSTS])
def test_a_fault_has_one_cause_and_a_cure_that_works(setup: HostSetup, fault: Planted) -> None:
    with setup.stack:
        fault.seed(setup)
        if fault.sshd:
            setup.use_sshd()
        found = bad(setup.doctor(places=["hosts"]))
        assert len(found) == 1, "\n".join(found)
        assert found[0].partition(":")[0] in fault.code.split("|")
        told = found[0]
        if CHECK in told and fault.cause not in told:
            lines = told_by_check(setup)
            assert len(lines) == 1, lines
            told += lines[0]
        assert fault.cause in told
        assert fault.fix in told
        cure = fault.cure or fault.fix
        if isinstance(cure, str):
            setup.host.shell(cure)
        else:
            cure(setup)
        if fault.sshd:
            setup.use_sshd()
        setup.path.unlink()
        assert bad(setup.doctor(places=["hosts"])) == []


@pytest.mark.all
@pytest.mark.parametrize("seed", HARMLESS.values(), ids=HARMLESS)
def test_what_harms_nothing_is_no_finding(setup: HostSetup, seed: Seed) -> None:
    with setup.stack:
        seed(setup)
        assert bad(setup.doctor(places=["hosts"])) == []

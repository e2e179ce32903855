"""`breakglass-pve check` on a host in a directory: the files that it reads, and its findings.

tests/unit/test_check_findings.py and test_key_lines.py test the judgements. tests/deploy/test_install.py runs the
bundle with a real sshd. Here, `sshd -T` prints the content of a file.
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from breakglass.agents.pve.host.cluster import node_name

from ..support.agent import agent_program
from ..support.hung import unserved_fuse
from ..support.selection import sampled

pytestmark = [pytest.mark.real("root"), pytest.mark.slow]  # each starts the agent

POWER, READ_ONLY = "ssh-ed25519 AAAApower", "ssh-ed25519 AAAAread"
SERVE = "/usr/local/sbin/breakglass-pve serve --vms 102"
KEYS = f'restrict,command="{SERVE}" {POWER}\nrestrict,command="{SERVE} --read-only" {READ_ONLY}\n'
VMLIST = """{"version":3,"ids":{"102":{"node":"%s","type":"qemu","version":2},
"103":{"node":"pve2","type":"qemu","version":3},"104":{"node":"%s","type":"lxc","version":1}}}"""
KEY_FILE = "etc/ssh/authorized_keys.d/breakglass"
SSHD = """\
forcecommand none
authorizedkeysfile /etc/ssh/authorized_keys.d/%u
authenticationmethods publickey
permitrootlogin forced-commands-only
disableforwarding yes
permittty no
permituserrc no
clientaliveinterval 15
"""
FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/bash\nbreakglass:x:0:0::/:/bin/sh\n",
    "etc/shadow": "root:!:20000:0:99999:7:::\nbreakglass:*:20000::::::\n",
    KEY_FILE: KEYS,
    "etc/pve/local": "",
    "etc/pve/.vmlist": VMLIST % (node_name(), node_name()),
    "etc/pve/priv/authorized_keys": "ssh-ed25519 AAAAcluster root@pve\n",
    "root/.ssh/authorized_keys": "# no key\n",
    "bin/qm": "#!/bin/sh\n",
    "bin/sshd": '#!/bin/sh\ncase "$*" in *user=root,*) exec cat "${0%/*}/root" ;; esac\nexec cat "${0%/*}/account"\n',
    "bin/root": "authorizedkeysfile .ssh/authorized_keys\n",
    "bin/account": SSHD,
}
# A command, or an access to a file, may take as long as on a busy machine.
PATIENT: dict[str, object] = {"SSHD_SECONDS": 60.0, "FILE_SECONDS": 20.0}


class CheckedHost:
    """A directory with the files of a good host that `check` reads. Tests change them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.agent = root / "usr/local/sbin/breakglass-pve"
        for name, text in FILES.items():
            self.write(name, text)
        self.set_constants()

    def write(self, name: str, text: str) -> None:
        (self.root / name).parent.mkdir(0o755, parents=True, exist_ok=True)
        (self.root / name).write_text(text)
        (self.root / name).chmod(0o755 if name.startswith(("bin/", "usr/local/sbin/")) else 0o644)

    def set_constants(self, **constants: object) -> None:
        self.write(str(self.agent.relative_to(self.root)), agent_program(**PATIENT | constants))

    def check(self, *options: str) -> tuple[int, list[str]]:
        """Return the exit code, and the lines that are printed without the root before each path."""
        command = [str(self.agent), "check", "--root", str(self.root), *options]
        environment = {"PATH": f"{self.root}/bin:/usr/bin:/bin"}
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert ran.stderr == ""
        return ran.returncode, ran.stdout.replace(str(self.root), "").splitlines()


@pytest.fixture
def host(tmp_path: Path) -> CheckedHost:
    root = tmp_path / "root"
    root.mkdir(0o755)
    return CheckedHost(root)


def test_a_good_host(host: CheckedHost) -> None:
    """Exit 0, and one line for everything that was checked."""
    code, lines = host.check()
    assert code == 0
    assert lines == [
        "ok: /usr/local/sbin/breakglass-pve belongs to root, and only root can change it",
        next(line for line in lines if line.startswith("ok: this is Python 3.")),
        "ok: qm status 102 works",
        "ok: /run/breakglass can be written",
        next(line for line in lines if line.startswith("ok: /run/breakglass has ") and line.endswith(" free room")),
        "ok: /run/breakglass has 0 files, and its file system has inodes for more",
        "ok: /var/lib/breakglass can be written",
        next(line for line in lines if line.startswith("ok: /var/lib/breakglass has ") and line.endswith(" free room")),
        "ok: /var/lib/breakglass has 0 files, and its file system has inodes for more",
        "ok: /etc/pve answers, and this node has a quorum",
        "ok: breakglass has uid 0 and the shell /bin/sh",
        "ok: logind: KillUserProcesses=no, so a job outlives its SSH session",
        "ok: no password can log in as breakglass, but the account's keys can",
        "ok: sshd: a public key only, no ForceCommand, no forwarding, no terminal, no rc file for breakglass",
        f"ok: /{KEY_FILE} belongs to root, and only root can change it",
        f"ok: /{KEY_FILE}: every key has restrict and its own command=",
        f"ok: /{KEY_FILE}:1: a power key for VM 102",
        f"ok: /{KEY_FILE}:2: a read-only key for VM 102",
        "ok: VM 102 is configured on this node",
        "ok: root's own key files have no breakglass key",
    ]


def remove(name: str) -> Callable[[CheckedHost], None]:
    return lambda host: (host.root / name).unlink()


def write(name: str, text: str) -> Callable[[CheckedHost], None]:
    return lambda host: host.write(name, text)


def set_sshd(old: str, new: str) -> Callable[[CheckedHost], None]:
    assert old in SSHD
    return write("bin/account", SSHD.replace(old, new))


def link_into_pve(host: CheckedHost) -> None:
    (host.root / KEY_FILE).unlink()
    (host.root / KEY_FILE).symlink_to(host.root / "etc/pve/priv/authorized_keys")


def name_vms(vms: str) -> Callable[[CheckedHost], None]:
    return write(KEY_FILE, KEYS.replace("102", vms))


def make_directory(name: str) -> Callable[[CheckedHost], None]:
    """Replace a file by a directory, so that reading it is an error."""

    def make(host: CheckedHost) -> None:
        (host.root / name).unlink()
        (host.root / name).mkdir()

    return make


def run_program(path: str, mode: int = 0o755) -> Callable[[CheckedHost], None]:
    """Make the key lines run another program, which has this mode."""

    def run(host: CheckedHost) -> None:
        host.write(path, "#!/bin/sh\n")
        (host.root / path).chmod(mode)
        host.write(KEY_FILE, KEYS.replace("usr/local/sbin/breakglass-pve", path))

    return run


def run_through_link(host: CheckedHost) -> None:
    """Make the key lines run a link to the installed file, in a directory that every user can write."""
    run_program("srv/breakglass-pve")(host)
    (host.root / "srv/breakglass-pve").unlink()
    (host.root / "srv/breakglass-pve").symlink_to("../usr/local/sbin/breakglass-pve")
    (host.root / "srv").chmod(0o1777)


def run_foreign_program(host: CheckedHost) -> None:
    run_program("opt/breakglass-pve")(host)
    os.chown(host.root / "opt", 65534, 65534)


def lock_account_under_pam(host: CheckedHost) -> None:
    host.write("bin/account", f"{SSHD}usepam yes\n")
    host.write("etc/shadow", "breakglass:!:20000::::::\n")


def leave_proxmox(host: CheckedHost) -> None:
    remove("bin/qm")(host)
    shutil.rmtree(host.root / "etc/pve")


# One fault for each thing that is read, and the beginning of its finding. The unit tests have the other faults.
FAULTS: dict[str, tuple[Callable[[CheckedHost], None], str]] = {
    "writable agent": (lambda host: host.agent.chmod(0o775), "error: {agent} can be written by others than root: 0775"),
    "no qm": (remove("bin/qm"), "error: qm is not on PATH"),
    "another machine": (leave_proxmox, "error: this is no Proxmox host, because it has no qm and no /etc/pve"),
    "run": (write("run/breakglass", ""), "error: /run/breakglass can't be written: no job can be recorded"),
    "no program": (
        write(KEY_FILE, KEYS.replace("/usr/local", "/opt")),
        "error: /opt/sbin/breakglass-pve does not exist",
    ),
    "a program in another user's directory": (run_foreign_program, "error: /opt belongs to uid 65534"),
    "a link that others can replace": (run_through_link, "error: /srv can be written by others than root: 1777"),
    "no such VM": (name_vms("102,105"), "error: no node has VM 105"),
    "a container": (name_vms("102,104"), "error: 104 is a container"),
    "terminal codes": (
        write(KEY_FILE, KEYS + f'restrict,command="\x1b[2J" {POWER}2\n'),
        r"error: /{keys}:3 does not run the host agent in the required form: \x1b[2J / ",
    ),
    "no account": (remove("etc/passwd"), 'error: there is no account "breakglass"'),
    "no shadow": (make_directory("etc/shadow"), "error: breakglass has no line in /etc/shadow"),
    "sshd": (write("bin/sshd", "#!/bin/sh\nexit 255\n"), "error: sshd -T failed, so sshd's settings are not known"),
    "no key files": (set_sshd("authorizedkeysfile /etc", "#"), "error: AuthorizedKeysFile is none for breakglass"),
    "keys in /etc/pve": (link_into_pve, "error: /{keys} is below /etc/pve, which is gone when"),
    "no keys": (remove(KEY_FILE), "error: /{keys} does not exist"),
    "no key": (write(KEY_FILE, "#\n"), "error: /{keys} has no key in it"),
    "writable directory": (
        lambda host: (host.root / KEY_FILE).parent.chmod(0o777),
        "error: /etc/ssh/authorized_keys.d can be written by others than root: 0777",
    ),
    "key of root's": (
        write("root/.ssh/authorized_keys", f"{POWER}\n"),
        "error: /root/.ssh/authorized_keys:1 has a breakglass key without a command=",
    ),
    "key of the cluster's": (
        write("etc/pve/priv/authorized_keys", f"#\n{READ_ONLY}\n"),
        "error: /etc/pve/priv/authorized_keys:2 has a breakglass key without a command=",
    ),
    "no quorum": (lambda host: (host.root / "etc/pve/local").chmod(0o444), "error: this node has no quorum"),
    "pmxcfs that does not run": (remove("etc/pve/local"), "error: /etc/pve is not mounted: pmxcfs does not run"),
    "another program": (
        run_program("opt/breakglass-pve"),
        "warning: /{keys}:1 runs /opt/breakglass-pve, and this check",
    ),
    "a missing VM in a range": (name_vms("102,105-106"), "warning: 105-106: no node has VM 105, 106"),
    "every VM": (write(KEY_FILE, KEYS.replace("102", "all", 1)), "warning: /{keys}:1: the key reaches every VM"),
    "archive": (write("var/lib/breakglass", ""), "warning: /var/lib/breakglass can't be written"),
    "no list of VMs": (remove("etc/pve/.vmlist"), "warning: /etc/pve has no list of VMs"),
    "little room in /run": (lambda host: host.set_constants(RUN_ROOM=2**62), "warning: /run/breakglass has "),
    "little room on disk": (lambda host: host.set_constants(ARCHIVE_ROOM=2**62), "warning: /var/lib/breakglass has "),
    "no power key": (write(KEY_FILE, KEYS.splitlines()[1]), "warning: there is no power key"),
    "keys not readable": (make_directory("root/.ssh/authorized_keys"), "warning: /root/.ssh/authorized_keys does not"),
    "locked with PAM": (lock_account_under_pam, "warning: breakglass is locked, and sshd refuses it once UsePAM is no"),
}


@pytest.mark.parametrize(
    "name", sampled(FAULTS, "no qm", "another program", "a missing VM in a range", "key of root's")
)
def test_a_fault(host: CheckedHost, name: str) -> None:
    """A line has the fault and its fix. An error is exit 1. A warning is exit 0, because a rescue still works."""
    change, text = FAULTS[name]
    change(host)
    code, lines = host.check()
    level, _, words = text.format(agent="/usr/local/sbin/breakglass-pve", keys=KEY_FILE).partition(": ")
    [line, *_] = [line for line in lines if line.startswith(f"{level}: ") and words in line] or [""]
    assert (" / " in line) == (name != "keys not readable"), lines
    assert code == any(line.startswith("error: ") for line in lines) == (level == "error")


def test_a_line_is_named_with_its_file(host: CheckedHost) -> None:
    """The account may have several key files, and each of them has a line 1, so the finding names the file."""
    set_sshd("/%u", "/%u /etc/ssh/more/%u")(host)
    host.write("etc/ssh/more/breakglass", KEYS.replace("102", "all").replace("AAAA", "BBBB"))
    code, lines = host.check()
    assert code == 0
    for path, vms in ((f"/{KEY_FILE}", "102"), ("/etc/ssh/more/breakglass", "all")):
        assert f"ok: {path}:1: a power key for VM {vms}" in lines
        assert f"ok: {path}:2: a read-only key for VM {vms}" in lines
    assert any(line.startswith("warning: /etc/ssh/more/breakglass:1: the key reaches every VM") for line in lines)


@pytest.mark.all
def test_logind_is_read_in_its_own_order(host: CheckedHost) -> None:
    """The main file of /etc replaces the packaged one; a drop-in of /etc replaces one of the same name."""
    host.write("usr/lib/systemd/logind.conf", "KillUserProcesses=yes\nKillExcludeUsers=nobody\n")
    assert host.check()[0] == 1
    host.write("etc/systemd/logind.conf", "[Login]\n")
    assert host.check()[0] == 0
    host.write("run/systemd/logind.conf.d/50-kill.conf", "KillUserProcesses=yes\nKillExcludeUsers=nobody\n")
    assert host.check()[0] == 1
    host.write("etc/systemd/logind.conf.d/50-kill.conf", "")
    assert host.check()[0] == 0


def test_nothing_outside_of_the_root_is_read(tmp_path: Path) -> None:
    """With an empty directory as root, the host is empty, and only the two directories of `serve` are made."""
    host = CheckedHost(tmp_path / "other")
    empty = tmp_path / "empty"
    empty.mkdir()
    code, lines = host.check("--root", str(empty))
    assert code == 1
    assert (
        'error: there is no account "breakglass" / run the commands that `breakglass host install-commands` prints'
        in lines
    )
    assert sorted(path.name for path in empty.rglob("*")) == ["breakglass", "breakglass", "lib", "run", "var"]


def test_another_account(host: CheckedHost) -> None:
    """The option names it, and the findings are about it."""
    code, lines = host.check("--user", "rescue")
    assert code == 1
    assert any(line.startswith('error: there is no account "rescue" / ') for line in lines)
    assert any(line.startswith("error: /etc/ssh/authorized_keys.d/rescue does not exist") for line in lines)
    assert not any("VM 102" in line for line in lines)


def test_an_sshd_that_hangs(host: CheckedHost) -> None:
    """After sshd's time limit, the check ends with an error."""
    host.set_constants(SSHD_SECONDS=0.5)
    host.write("bin/sshd", "#!/bin/sh\nexec sleep 600\n")
    code, lines = host.check()
    assert (code, lines[-1].startswith("error: sshd -T failed")) == (1, True)


@pytest.mark.all
@pytest.mark.real("fuse")
def test_an_etc_pve_that_hangs(host: CheckedHost) -> None:
    """The check still ends, with a line each for the cluster, for a key file that leads there, and for root's keys."""
    host.set_constants(FILE_SECONDS=1.0)
    link_into_pve(host)
    with unserved_fuse(host.root / "etc/pve"):
        code, lines = host.check()
    assert code == 1
    assert any(line.startswith("error: /etc/pve does not answer") for line in lines)
    assert any(line.startswith(f"error: /{KEY_FILE} is below /etc/pve") for line in lines)
    assert any(line.startswith("warning: /etc/pve/priv/authorized_keys does not answer") for line in lines)

"""`breakglass-pve check` on a host in a directory: the files that it reads, and its findings.

tests/unit/test_check_findings.py and test_key_lines.py test the judgements. tests/deploy/test_install.py runs the
bundle with a real sshd. Here, `sshd -T` prints the content of a file.
"""

import subprocess
from pathlib import Path

import pytest

from breakglass.agents.pve.host.cluster import node_name

from ..support.agent import agent_program
from ..support.hung import unserved_fuse

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
    assert (code, len(lines), [line for line in lines if not line.startswith("ok: ")]) == (0, 20, [])
    said = [f"{KEY_FILE}:1: a power key", f"{KEY_FILE}:2: a read-only key", "sshd: a public key only"]
    assert [text for text in said if not any(text in line for line in lines)] == []


def assert_found(host: CheckedHost, code: int, *texts: str) -> None:
    """Check the exit code, and that these lines are printed, each with its fix."""
    got, lines = host.check()
    assert [text for text in texts if not any(line.startswith(text) and " / " in line for line in lines)] == [], lines
    assert got == code


# The unit tests have the other faults. These are one for each thing that is read.
def test_errors(host: CheckedHost) -> None:
    """With an error, the exit code is 1."""
    host.agent.chmod(0o775)
    host.write("run/breakglass", "")
    host.write(KEY_FILE, KEYS.replace("102", "102,104") + f'restrict,command="\x1b[2J" {POWER}2\n')
    (host.root / KEY_FILE).parent.chmod(0o777)
    host.write("root/.ssh/authorized_keys", f"{POWER}\n")
    host.write("etc/pve/priv/authorized_keys", f"#\n{READ_ONLY}\n")
    (host.root / "etc/pve/local").chmod(0o444)
    (host.root / "bin/qm").unlink()
    assert_found(
        host,
        1,
        "error: /usr/local/sbin/breakglass-pve can be written by others",
        "error: /run/breakglass can't be written",
        "error: 104 is a container",
        rf"error: /{KEY_FILE}:3 does not run the host agent in the required form: \x1b[2J / ",
        "error: /etc/ssh/authorized_keys.d can be written by others",
        "error: /root/.ssh/authorized_keys:1 has a breakglass key",
        "error: /etc/pve/priv/authorized_keys:2 has a breakglass key",
        "error: this node has no quorum",
        "error: qm is not on PATH",
    )


def test_warnings(host: CheckedHost) -> None:
    """A warning is exit 0, because a rescue still works."""
    host.write("opt/breakglass-pve", "#!/bin/sh\n")
    (host.root / "opt/breakglass-pve").chmod(0o755)
    host.write(KEY_FILE, KEYS.replace("usr/local/sbin", "opt").replace("102", "102,105-106"))
    host.set_constants(RUN_ROOM=2**62)
    assert_found(
        host,
        0,
        f"warning: /{KEY_FILE}:1 runs /opt/breakglass-pve, and this check",
        "warning: 105-106: no node has VM 105, 106",
        "warning: /run/breakglass has ",
    )


@pytest.mark.all
def test_links(host: CheckedHost) -> None:
    """The key lines run a link in a directory that every user can write, or the key file leads into /etc/pve."""
    host.write("srv/other", "")
    (host.root / "srv/breakglass-pve").symlink_to("../usr/local/sbin/breakglass-pve")
    (host.root / "srv").chmod(0o1777)
    host.write(KEY_FILE, KEYS.replace("usr/local/sbin", "srv"))
    assert_found(host, 1, "error: /srv can be written by others than root: 1777")
    link_into_pve(host)
    assert_found(host, 1, f"error: /{KEY_FILE} is below /etc/pve, which is gone when")
    host.write("bin/sshd", "#!/bin/sh\nexit 255\n")
    assert_found(host, 1, "error: sshd -T failed, so sshd's settings are not known")


def link_into_pve(host: CheckedHost) -> None:
    (host.root / KEY_FILE).unlink()
    (host.root / KEY_FILE).symlink_to(host.root / "etc/pve/priv/authorized_keys")


@pytest.mark.all
def test_logind_is_read_in_its_own_order(host: CheckedHost) -> None:
    """The main file of /etc replaces the packaged one; a drop-in of /etc replaces one of the same name."""
    host.write("usr/lib/systemd/logind.conf", "KillUserProcesses=yes\nKillExcludeUsers=nobody\n")
    host.write("etc/systemd/logind.conf", "[Login]\n")
    host.write("run/systemd/logind.conf.d/50-kill.conf", "KillUserProcesses=yes\nKillExcludeUsers=nobody\n")
    assert host.check()[0] == 1
    host.write("etc/systemd/logind.conf.d/50-kill.conf", "")
    assert host.check()[0] == 0


@pytest.mark.all
@pytest.mark.real("fuse")
def test_an_etc_pve_that_hangs(host: CheckedHost) -> None:
    """The check still ends, with a line each for the cluster, for a key file that leads there, and for root's keys."""
    host.set_constants(FILE_SECONDS=1.0)
    link_into_pve(host)
    with unserved_fuse(host.root / "etc/pve"):
        code, lines = host.check()
    told = ["error: /etc/pve does", f"error: /{KEY_FILE} is below", "warning: /etc/pve/priv/authorized_keys does"]
    assert (code, [text for text in told if not any(line.startswith(text) for line in lines)]) == (1, [])

"""The release, and the life of the host's package on a Debian with apt, a real sshd and a stand-in for Proxmox."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from breakglass.agents.bundle import bundle
from breakglass.agents.pve.words import VERSION
from breakglass.cli.install import recipe
from breakglass.config.model import Address, Host, Vm

from ..support.chroot import debian
from ..support.documents import commands
from ..support.hung import silent_fuse
from ..support.installing import new_key
from ..support.locks import ROOT, copy_checkout, read_pins
from ..support.machines import HOST, Machine, furnish_proxmox
from ..support.release import build_package, host_package
from ..support.stages import until

pytestmark = [pytest.mark.all, pytest.mark.real("debian", "network")]

EPOCH, NEXT = 1_796_000_000, f"{VERSION}.1"
ACCOUNT = "getent passwd breakglass"
NO_ACCOUNT = 'error: there is no account "breakglass", because no key was allowed yet'
KEYS, DROP_IN = "/etc/ssh/authorized_keys.d/breakglass", "/etc/ssh/sshd_config.d/00-breakglass.conf"
AGENT, PASTED = "/usr/sbin/breakglass-pve", "/usr/local/sbin/breakglass-pve"
OWN = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAroot an operator\n"
# what the machine and the stand-ins change by themselves
BESIDE = re.compile(r"/etc/pve|/var/lib/vz|/vm|/root/\.ssh/known_hosts|.*__pycache__|/etc/(\.pwd\.lock|\w+-$)")
SSH = "ssh -i /root/power -o BatchMode=yes -o StrictHostKeyChecking=no -o LogLevel=ERROR breakglass@127.0.0.1"


def test_a_release_is_the_same_twice(tmp_path: Path) -> None:
    """Two builds of one commit, with another umask, have the same bytes. The signature and the lists are right."""
    tree = tmp_path / "tree"
    copy_checkout(tree)
    git = "git init -q && git add -A && git -c user.name=x -c user.email=x@example.org commit -qm x"
    subprocess.run(git, shell=True, cwd=tree, check=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    own = {**os.environ, "PYTHONPATH": ""}  # or the modules of this checkout, which are measured, build it
    for name, mask in (("one", 0o022), ("two", 0o077)):
        options = ["--to", str(tmp_path / name), "--sign", str(tmp_path / "key")]
        command = [sys.executable, "-m", "tests.support.release", *options]
        ran = subprocess.run(command, cwd=tree, env=own, umask=mask, capture_output=True, text=True, timeout=300)
        assert ran.returncode == 0, ran.stdout + ran.stderr
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert sorted(one) == sorted(two)
    assert [name for name in one if one[name] != two[name]] == []
    (tmp_path / "one/signers").write_text(f"breakglass {(tmp_path / 'key.pub').read_text()}")
    [verify] = commands("docs/packages.md", "Verify")
    ran = subprocess.run(["sh", "-ec", verify], cwd=tmp_path / "one", capture_output=True, text=True)
    assert (ran.returncode, "Good " in ran.stdout, ran.stdout.count(": OK")) == (0, True, 7), ran.stdout + ran.stderr
    (tmp_path / "one/SHA256SUMS").write_text(one["SHA256SUMS"].decode().replace("0", "1", 1))
    assert subprocess.run(["sh", "-ec", verify], cwd=tmp_path / "one", capture_output=True).returncode != 0
    [bill] = [json.loads(data) for name, data in one.items() if name.endswith(".cdx.json")]
    pins = {str(name): str(version) for name, version in read_pins("requirements.txt").items()}
    assert {part["name"]: part["version"] for part in bill["components"]} == pins
    (tree / "README.md").write_text("changed")
    ran = subprocess.run(command, cwd=tree, env=own, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, "the tree is not clean" in ran.stderr) == (1, True)


class PveHost(Machine):
    """A Proxmox host with the project's stand-ins, and packages of two versions on it."""

    def furnish(self, packages: Path) -> None:
        self.ip("link set lo up")
        self.apt("openssh-server", "procps", "iproute2")
        self.path("/usr/sbin/policy-rc.d").unlink()
        furnish_proxmox(self)
        private, self.power = new_key()
        self.write("/root/power", private, 0o600)
        self.write("/root/.ssh/authorized_keys", OWN, 0o600)
        for version in (VERSION, NEXT):
            shutil.copy(build_package(host_package(ROOT, EPOCH), ROOT, packages, EPOCH, version), self.path("/root"))

    def install(self, version: str = VERSION, *, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Install a package as a person does, without a terminal that could answer a question."""
        return self.run(f"apt-get -qy install ./root/breakglass-host_{version}_all.deb </dev/null", check=check)

    def ssh(self, line: str) -> "subprocess.CompletedProcess[str]":
        return self.run(f"{SSH} '{line}'", check=False)

    def reset(self) -> None:
        """Remove every trace of the package and of a recipe."""
        self.run(
            f"dpkg --purge breakglass-host; rm -f {KEYS} {DROP_IN} {PASTED}; "
            "sed -i /^breakglass:/d /etc/passwd /etc/shadow"
        )
        self.write("/root/.ssh/authorized_keys", OWN, 0o600)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PveHost]:
    with ExitStack() as files:
        host = PveHost("pve1", HOST, files.enter_context(debian()), files)
        host.furnish(tmp_path_factory.mktemp("packages"))
        yield host


@pytest.fixture
def host(machine: PveHost) -> Iterator[PveHost]:
    yield machine
    machine.reset()


def test_install_allow_rescue_upgrade_remove_purge(host: PveHost) -> None:
    """Each step does what docs/install.md says of it, and root's own key file keeps its bytes."""
    before = host.tree("/var/lib/dpkg", "/var/lib/apt", "/var/cache", "/var/log", "/etc/passwd-", "/etc/shadow-")
    [install, allow] = commands("docs/packages.md", "The host's package")
    said = host.run(f"cd /root\n{install.replace('apt install', 'apt-get -qy install')}").stdout
    assert "breakglass-pve allow 102 --key" in said
    assert ": forensics done, state running" in said
    assert host.run(ACCOUNT, check=False).returncode == 2  # no account with uid 0 without a key
    errors = [line for line in host.run("breakglass-pve check", check=False).stdout.splitlines() if "error:" in line]
    assert [line.partition(" / ")[0] for line in errors] == [NO_ACCOUNT]
    said = host.run(allow.replace("ssh-ed25519 AAAA…", host.power).replace("192.0.2.50", "127.0.0.1")).stdout
    assert ("error:" in said, 'node = "pve1"' in said) == (False, True)
    assert "ok: the host agent is from the package breakglass-host" in said
    assert "PerSourcePenaltyExemptList 127.0.0.1\n" in host.path(DROP_IN).read_text()
    assert '"outcome": "done"' in host.ssh("reset vm=102 id=by-package").stdout
    assert host.ssh("/bin/sh").returncode == 10
    lines = host.path(KEYS).read_text()
    host.install(NEXT)
    assert (host.path(KEYS).read_text(), NEXT) == (
        lines,
        host.run("dpkg-query -Wf '${Version}' breakglass-host").stdout,
    )
    assert '"attached": true' in host.ssh("reset vm=102 id=by-package").stdout
    assert host.path("/root/.ssh/authorized_keys").read_text() == OWN

    # a removal first takes the key lines away, then waits for the cycle that runs
    os.mkfifo(host.path("/gate"))
    host.write("/qm.json", json.dumps({"gate": "stop"}))
    host.write("/plugin.py", (ROOT / "tests/support/failing_tools.py").read_text())
    host.path("/plugin").symlink_to("/plugin.py")
    cycle = subprocess.Popen(
        host.argv("breakglass-pve", "cycle", "102", "--id", "the-last-one"), stdout=subprocess.PIPE, text=True
    )
    stage = host.path("/run/breakglass/102/jobs/the-last-one/stage")
    until(lambda: stage.exists() and stage.read_text().startswith("stop"), "stage stop")
    removal = subprocess.Popen(
        host.argv("apt-get", "-qy", "remove", "breakglass-host"), stdout=subprocess.PIPE, text=True
    )
    assert removal.stdout is not None
    assert next(line for line in removal.stdout if "waiting for running jobs" in line)
    assert (host.path(KEYS).read_text(), host.path(AGENT).exists()) == ("", True)
    assert host.ssh("status vm=102").returncode == 255
    host.path("/gate").write_text("")
    host.path("/qm.json").unlink()
    removal.communicate()
    assert (removal.returncode, ": cycle done, state running, id the-last-one" in cycle.communicate()[0]) == (
        0,
        True,
    )
    assert not any(host.path(name).exists() for name in (AGENT, DROP_IN, KEYS))
    assert host.run(ACCOUNT, check=False).returncode == 2
    assert host.path("/var/lib/breakglass/102/jobs/the-last-one").exists()
    host.run("apt-get -qy purge breakglass-host; rm /plugin* /gate")
    left = host.tree("/var/lib/dpkg", "/var/lib/apt", "/var/cache", "/var/log", "/etc/passwd-", "/etc/shadow-")
    assert {name for name in before.keys() ^ left.keys() if not BESIDE.match(name)} == set()
    assert host.path("/root/.ssh/authorized_keys").read_text() == OWN


def test_the_account_exists_only_while_it_has_a_key(host: PveHost) -> None:
    """The first key makes it and the last one takes it away. An upgrade makes it for a key that is there, only."""
    host.install()
    other = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAother"
    allow, revoke = (f"breakglass-pve {each} --key" for each in ("allow 102", "revoke"))
    refused = host.run(f"useradd --uid 999 breakglass; {allow} '{other}' || :; userdel breakglass").stdout
    assert "the account breakglass was not made: the account breakglass exists and its uid is not 0" in refused
    host.run(f"{allow} '{other}'; {allow} '{host.power}'; {revoke} '{other}'")
    assert host.ssh("status vm=102").returncode == 0
    assert "the account breakglass had no other key and was removed" in host.run(f"{revoke} '{host.power}'").stdout
    assert host.ssh("status vm=102").returncode == 255
    host.run("dpkg-reconfigure breakglass-host")
    assert (host.run(ACCOUNT, check=False).returncode, host.path(KEYS).read_text()) == (2, "")
    host.write(KEYS, f'restrict,command="{AGENT} serve --vms 102" {host.power}\n')
    host.run("dpkg-reconfigure breakglass-host")
    assert host.run(f"{ACCOUNT}; getent shadow breakglass | cut -d: -f2").stdout == "breakglass:x:0:0::/:/bin/sh\n*\n"
    assert host.ssh("status vm=102").returncode == 0


def test_the_pasted_recipe_is_taken_over(host: PveHost) -> None:
    """Its key line runs the package's host agent, and its own is gone. A recipe that is pasted later is refused."""
    text = recipe(Host("pve1", Address("breakglass", HOST, 22), ""), [Vm("devvm", 102, ())], host.power, "127.0.0.1")
    host.write("/root/breakglass-pve", bundle(), 0o755)
    host.run("sh", stdin=text)
    assert "ok: the host agent is from the recipe" in host.run("breakglass-pve check", check=False).stdout
    drop_in, other = host.path(DROP_IN).read_text(), 'restrict,command="/bin/other" ssh-ed25519 AAAAother\n'
    with host.path(KEYS).open("a") as file:
        file.write(other)
    host.install()
    assert (
        host.path(KEYS).read_text()
        == f'restrict,command="{AGENT} serve --vms 102" {host.power} breakglass power\n{other}'
    )
    assert (host.path(DROP_IN).read_text(), host.path(PASTED).exists()) == (drop_in, False)
    assert host.ssh("status vm=102").returncode == 0
    host.write("/root/breakglass-pve", bundle(), 0o755)
    ran = host.run("sh", stdin=text, check=False)
    assert (ran.returncode, "this host has the package breakglass-host" in ran.stderr) == (1, True)
    assert not host.path(PASTED).exists()
    host.run("rm /root/breakglass-pve; apt-get -qy remove breakglass-host")
    assert host.path(KEYS).read_text() == other


NEWER = '#!/usr/bin/python3\n"""The breakglass host agent."""\nprint("9.9.9")\n'


REFUSED = [
    ("/etc/passwd", "breakglass:x:999:999::/:/bin/false\n", "the account breakglass has uid 999"),
    (PASTED, "#!/bin/sh\n", f"{PASTED} is not the host agent"),
    (PASTED, NEWER, "so get a newer package"),
    ("/root/.ssh/authorized_keys", f'command="{PASTED} serve --vms 102" ssh-ed25519 AAAA\n', "so move it to"),
    (KEYS, 'command="/opt/breakglass-pve serve --vms 102" ssh-ed25519 AAAA\n', "runs /opt/breakglass-pve"),
]


def test_two_agents_over_one_record_are_refused(host: PveHost) -> None:
    """The package's first script ends with the reason and what to do, and apt unpacks nothing."""
    script = (ROOT / "deploy/debian/host/preinst").read_text().replace("@VERSION@", VERSION)
    for file, text, said in REFUSED:
        host.run(f"mkdir -p {KEYS[:-11]}; cat >>{file}; [ {file} != {PASTED} ] || chmod 755 {file}", stdin=text)
        ran = host.run("sh -s install", stdin=script, check=False)
        output = ran.stdout + ran.stderr
        assert (ran.returncode, said in output, "nothing was installed" in output) == (1, True, True), output
        if text == NEWER:
            assert (host.install(check=False).returncode, host.path(AGENT).exists()) == (100, False)
        host.reset()


def test_a_hung_cluster_file_system_does_not_hang_apt(tmp_path: Path) -> None:
    """The first script, which looks at root's key file, stops waiting for it."""
    script = (ROOT / "deploy/debian/host/preinst").read_text().replace("@VERSION@", VERSION)
    script = script.replace("/root/.ssh", str(tmp_path / "pve")).replace("KILL 5", "KILL 1")
    (tmp_path / "pve").mkdir()
    with silent_fuse(tmp_path / "pve"):
        assert subprocess.run(["sh", "-c", script, "preinst", "install"], timeout=20).returncode == 0


def test_a_removal_that_is_killed_twice_loses_no_key_line(tmp_path: Path) -> None:
    """The second one does not take what the first one saved for a key file."""
    before, after = ((ROOT / f"deploy/debian/host/{name}").read_text() for name in ("prerm", "postinst"))
    begins = before.partition("jobs() {")[0]
    restores = f"keys_dir=/etc/ssh/authorized_keys.d\n{after[after.index('rm -f') : after.index('! command')]}"
    line = f'restrict,command="{AGENT} serve --vms 102" ssh-ed25519 AAAA\n'
    (tmp_path / "breakglass").write_text(line)
    for script in (begins, begins, restores):
        script = script.replace("/etc/ssh/authorized_keys.d", str(tmp_path))
        subprocess.run(["sh", "-c", script, "script", "remove"], check=True, timeout=20)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"breakglass": line}

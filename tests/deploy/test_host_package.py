"""The release, and the life of the host's package on a Debian with apt, a real sshd and a stand-in for Proxmox."""

import json
import os
import re
import shutil
import signal
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
from ..support.rows import each_row
from ..support.service import let_in
from ..support.signals import signal_process
from ..support.stages import until
from ..support.wheelhouse import wheelhouse

pytestmark = [pytest.mark.all, pytest.mark.real("debian", "network")]

EPOCH, NEXT = 1_796_000_000, f"{VERSION}.1"
REMOVE = "apt-get -qy remove breakglass-host"
ACCOUNT = "getent passwd breakglass"
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
        words = f"-m tests.support.release --to {tmp_path}/{name} --sign {tmp_path}/key"
        command = [sys.executable, *words.split()]
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
    assert all(part["externalReferences"] for part in bill["components"])
    (tree / "README.md").write_text("changed")
    ran = subprocess.run(command, cwd=tree, env=own, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, "is not clean" in ran.stderr) == (1, True)


def test_the_wheel_runs_the_demo(short_dir: Path) -> None:
    """`uvx` needs the wheel and its packages only. An ordinary user runs it."""
    let_in(short_dir / "home")
    wheels = shutil.copytree(wheelhouse(), short_dir / "wheels")
    for name in ("uv", "uvx"):
        shutil.copy(Path(sys.executable).parent / name, short_dir)
    (short_dir / "home").mkdir()
    os.chown(short_dir / "home", 65534, 65534)
    environment = {"UV_OFFLINE": "1", "UV_NO_INDEX": "1", "UV_FIND_LINKS": str(wheels), "HOME": f"{short_dir}/home"}
    [demo] = commands("docs/packages.md", "The wheel")
    argv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", f"exec {demo}"]
    path = {"PATH": f"{short_dir}:/usr/bin:/bin"}
    with subprocess.Popen(argv, cwd=wheels, env=environment | path, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        page = next(line for line in run.stdout if line.strip().startswith("page "))
        assert page.split()[1].startswith("http://127.0.0.1:")
        signal_process(run.pid, signal.SIGINT)
        assert "Ctrl-C ended everything." in run.stdout.read()


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

    def start_removal(self) -> "subprocess.Popen[str]":
        """Start to remove the package, and return once the removal waits for a job."""
        removal = subprocess.Popen(self.argv("sh", "-c", f"{REMOVE} 2>&1"), stdout=subprocess.PIPE, text=True)
        assert removal.stdout is not None
        assert next(line for line in removal.stdout if "running jobs" in line)
        return removal

    def reset(self) -> None:
        """Remove every trace of the package and of a recipe."""
        self.run(
            f"dpkg --purge breakglass-host; rm -rf {Path(KEYS).parent} {DROP_IN} {PASTED}; "
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
    assert ": forensics done" in said
    assert host.run(ACCOUNT, check=False).returncode == 2  # no account with uid 0 without a key
    [error] = re.findall("error: .*", host.run("breakglass-pve check", check=False).stdout)
    assert "no account" in error
    said = host.run(allow.replace("ssh-ed25519 AAAA…", host.power).replace("192.0.2.50", "127.0.0.1")).stdout
    assert ("error:" in said, 'node = "pve1"' in said) == (False, True)
    assert "from the package breakglass-host" in said
    assert "PerSourcePenaltyExemptList 127.0.0.1\n" in host.path(DROP_IN).read_text()
    assert '"outcome": "done"' in host.ssh("reset vm=102 id=by-package").stdout
    assert host.ssh("/bin/sh").returncode == 10
    lines = host.path(KEYS).read_text()
    host.install(NEXT)
    assert host.run("dpkg-query -Wf '${Version}' breakglass-host").stdout == NEXT
    assert host.path(KEYS).read_text() == lines
    assert '"attached": true' in host.ssh("reset vm=102 id=by-package").stdout
    assert host.path("/root/.ssh/authorized_keys").read_text() == OWN

    # a removal first takes the key lines away, then waits for the cycle that runs
    os.mkfifo(host.path("/gate"))
    host.write("/qm.json", json.dumps({"gate": "stop"}))
    host.write("/plugin.py", (ROOT / "tests/support/failing_tools.py").read_text())
    host.path("/plugin").symlink_to("/plugin.py")
    argv = host.argv("breakglass-pve", "cycle", "102", "--id", "the-last-one")
    cycle = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    stage = host.path("/run/breakglass/102/jobs/the-last-one/stage")
    until(lambda: stage.exists() and stage.read_text().startswith("stop"), "stage stop")
    removal = host.start_removal()
    assert (host.path(KEYS).read_text(), host.path(AGENT).exists()) == ("", True)
    assert host.ssh("status vm=102").returncode == 255
    host.path("/gate").write_text("")
    host.path("/qm.json").unlink()
    removal.communicate()
    assert (removal.returncode, ": cycle done" in cycle.communicate()[0]) == (0, True)
    assert not any(host.path(name).exists() for name in (AGENT, DROP_IN, KEYS))
    assert host.run(ACCOUNT, check=False).returncode == 2
    assert host.path("/var/lib/breakglass/102/jobs/the-last-one").exists()
    host.run("apt-get -qy purge breakglass-host; rm /plugin* /gate")
    left = host.tree("/var/lib/dpkg", "/var/lib/apt", "/var/cache", "/var/log", "/etc/passwd-", "/etc/shadow-")
    assert {name for name in before.keys() ^ left.keys() if not BESIDE.match(name)} == set()
    assert host.path("/root/.ssh/authorized_keys").read_text() == OWN


def test_the_account_exists_only_while_it_has_a_key(host: PveHost) -> None:
    """The first key makes it, if sshd has our settings for it. An upgrade makes it only for a key that is there."""
    host.install()
    other = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAother"
    allow, revoke = (f"breakglass-pve {each} --key" for each in ("allow 102", "revoke"))
    host.run("useradd --uid 999 breakglass")
    refused = host.run(f"{allow} '{other}' || :; userdel breakglass").stdout
    assert "uid is not 0" in refused
    refused = host.run(f"mv {DROP_IN} /root/away; {allow} '{other}' || mv /root/away {DROP_IN}; {ACCOUNT} || :").stdout
    assert ("no settings for" in refused, "breakglass:x:" in refused) == (True, False)
    said = host.run(f"{allow} '{other}'; {allow} '{host.power}'").stdout
    assert said.count("its first key") == 1
    assert host.ssh("status vm=102").returncode == 0
    host.run(f"{revoke} '{other}'")
    assert host.ssh("status vm=102").returncode == 0
    assert "no other key" in host.run(f"{revoke} '{host.power}'").stdout
    assert (host.run(ACCOUNT, check=False).returncode, host.path(KEYS).read_text()) == (2, "")
    assert host.ssh("status vm=102").returncode == 255
    host.install(NEXT)
    assert host.run(ACCOUNT, check=False).returncode == 2
    host.write(KEYS, f'restrict,command="{AGENT} serve --vms 102" {host.power}\n')
    host.run("dpkg-reconfigure breakglass-host")
    assert host.run(ACCOUNT).stdout == "breakglass:x:0:0::/:/bin/sh\n"
    assert host.run("getent shadow breakglass").stdout.split(":")[1] == "*"
    assert host.ssh("status vm=102").returncode == 0


def test_the_pasted_recipe_is_taken_over(host: PveHost) -> None:
    """Its key line runs the package's host agent, and its own is gone. A recipe that is pasted later is refused."""
    text = recipe(Host("pve1", Address("breakglass", HOST, 22), ""), [Vm("devvm", 102, ())], host.power, "127.0.0.1")
    host.write("/root/breakglass-pve", bundle(), 0o755)
    host.run("sh", stdin=text)
    assert "from the recipe" in host.run("breakglass-pve check", check=False).stdout
    drop_in, other = host.path(DROP_IN).read_text(), 'restrict,command="/bin/other" ssh-ed25519 AAAAother\n'
    with host.path(KEYS).open("a") as file:
        file.write(other)
    host.install()
    ours = f'restrict,command="{AGENT} serve --vms 102" {host.power} breakglass power\n'
    assert host.path(KEYS).read_text() == ours + other
    assert (host.path(DROP_IN).read_text(), host.path(PASTED).exists()) == (drop_in, False)
    assert host.ssh("status vm=102").returncode == 0
    host.write("/root/breakglass-pve", bundle(), 0o755)
    ran = host.run("sh", stdin=text, check=False)
    assert (ran.returncode, "breakglass-host" in ran.stderr, host.path(PASTED).exists()) == (1, True, False)
    host.run(f"rm /root/breakglass-pve; {REMOVE}")
    assert host.path(KEYS).read_text() == other


NEWER = '#!/usr/bin/python3\n"""The breakglass host agent."""\nprint("9.9.9")\n'


@each_row(
    ("file", "text", "said"),
    [
        ("/etc/passwd", "breakglass:x:999:999::/:/bin/false\n", "uid 999"),
        (PASTED, "#!/bin/sh\n", f"{PASTED} is not the host agent"),
        (PASTED, NEWER, "so get a newer package"),
        ("/root/.ssh/authorized_keys", f'command="{PASTED} serve --vms 102" ssh-ed25519 AAAA\n', "so move it to"),
        (KEYS, 'command="/opt/breakglass-pve serve --vms 102" ssh-ed25519 AAAA\n', "runs /opt/breakglass-pve"),
    ],
)
def test_two_agents_over_one_record_are_refused(host: PveHost, file: str, text: str, said: str) -> None:
    """Nothing is unpacked, and the reason is printed with what to do."""
    host.reset()
    host.run(f"mkdir -p {KEYS[:-11]}; cat >>{file}; [ {file} != {PASTED} ] || chmod 755 {file}", stdin=text)
    ran = host.install(check=False)
    text = ran.stdout + ran.stderr  # apt passes on what dpkg says
    assert (ran.returncode, said in text, "nothing was installed" in text) == (100, True, True), text
    assert not host.path(AGENT).exists()


def test_a_hung_cluster_file_system_does_not_hang_apt(tmp_path: Path) -> None:
    """The first script, which looks at root's key file, and the completion of a VM's number stop waiting for it."""
    place = tmp_path / "pve"
    script, completion = ((ROOT / f"deploy/debian/host/{name}").read_text() for name in ("preinst", "completion.bash"))
    script = script.replace("@VERSION@", VERSION).replace("/root/.ssh", str(place)).replace("KILL 5", "KILL 1")
    press = "COMP_WORDS=(breakglass-pve status 10) COMP_CWORD=2; _breakglass_pve; echo ${COMPREPLY[@]}"
    tab = ["bash", "-c", f"{completion.replace('/etc/pve', str(place))}\n{press}"]
    (place / "qemu-server").mkdir(parents=True)
    for number in (102, 103, 200):
        (place / f"qemu-server/{number}.conf").touch()
    assert subprocess.check_output(tab, timeout=20) == b"102 103\n"
    with silent_fuse(place):
        assert subprocess.run(["sh", "-c", script, "preinst", "install"], timeout=20).returncode == 0
        assert subprocess.check_output(tab, timeout=20) == b"\n"


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


def test_what_fails_half_way_loses_nothing(host: PveHost) -> None:
    """After a full disk, sshd gets its whole drop-in, and every key line is there. A failed removal can be repeated."""
    keys, drop_ins = KEYS.rpartition("/")[0], DROP_IN.rpartition("/")[0]
    full = "mount -t tmpfs -o size=4k,mode=755 none"
    host.run(f"{full} {drop_ins}; head -c 4096 /dev/zero >{drop_ins}/filler")
    assert host.install(check=False).returncode == 100
    host.run(f"rm {drop_ins}/filler; dpkg --configure -a")
    assert host.path(DROP_IN).read_text() == (ROOT / "deploy/debian/host/sshd.conf").read_text()
    lines = f'restrict,command="{AGENT} serve --vms 102" {host.power} breakglass power\n{OWN}'
    host.run(f"{full} {keys}")
    host.write(KEYS, lines)
    assert (host.run(REMOVE, check=False).returncode, host.path(KEYS).read_text()) == (100, lines)
    host.run(f"umount {keys}; mkfifo {keys}/hangs")  # like a link to a file system that hangs
    host.write(KEYS, lines)
    argv = host.argv("bash", "-c", "exec -a 'python3 -IS /usr/sbin/breakglass-pve job' sleep 1000")
    job = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    of_job = "--ns $$ --nslist mnt -f '^python3 -IS /usr/sbin/breakglass-pve job'"
    until(lambda: host.run(f"pgrep {of_job}", check=False).returncode == 0, "the job")
    removal = host.start_removal()
    assert host.path(KEYS).read_text() == OWN
    host.run("pkill --ns $$ --nslist mnt -KILL -f 'breakglass-host.prerm remove$'")
    removal.communicate()
    assert (removal.returncode, host.path(KEYS).read_text()) == (100, lines)
    assert sorted(path.name for path in host.path(keys).iterdir()) == ["breakglass", "hangs"]
    host.run(f"pkill {of_job}")
    job.wait()
    host.run(f"rm {keys}/hangs; mkdir -p /etc/passwd.edit/so-vipw-fails")
    assert "breakglass stays" in host.run(f"{REMOVE} 2>&1", check=False).stdout
    host.run(f"rm -r /etc/passwd.edit; {REMOVE}; umount {drop_ins}")
    assert host.run(ACCOUNT, check=False).returncode == 2

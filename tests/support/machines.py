"""Two machines on which a test follows the documents: the handler's, and a Proxmox host with the project's stand-ins.

Each is a Debian with a name, an address and its own network, and a cable connects them. The addresses are those of the
documents.
There is no systemd as process 1, so `systemctl` is tests/support/systemctl.py, which starts what the unit files say.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from .chroot import ENVIRONMENT, Chroot, debian
from .locks import ROOT
from .stages import until

HANDLER, HOST = "192.0.2.50", "192.0.2.10"
STANDIN = "/usr/share/proxmox-standin"
CONF = "boot: order=virtio0\ncores: 1\nmemory: 32\nname: {name}\nvirtio0: local:vm-{vmid}-disk-0.raw,size=1M\n"
TOOLS = {
    "qm": ("qm",),
    **{name: ("pve_tools", name) for name in ("pvesh", "pvecm", "pvesm", "pveversion")},
}
_RUN_STANDIN = """#!/bin/sh
BREAKGLASS_DEMO_ROOT=pve1 exec /usr/bin/python3 -IS -c "import sys
package = type(sys)('breakglass'); package.__path__ = ['{standin}/breakglass']; sys.modules['breakglass'] = package
{main}" {words} "$@"
"""


class Machine:
    """A Debian with a name and an address."""

    def __init__(self, name: str, address: str, chroot: Chroot, files: ExitStack) -> None:
        self.name, self.address, self.chroot = name, address, chroot
        self.root = chroot.root
        until(lambda: not self.root.samefile("/"), "the holder's chroot")
        script = f'hostname "{name}"; ip link set lo up; echo ready; exec cat'
        self.network = subprocess.Popen(
            ["unshare", "--net", "--uts", "sh", "-ec", script],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        files.callback(self._close)
        assert self.network.stdout is not None
        assert self.network.stdout.readline() == "ready\n"
        self.write("/etc/hostname", f"{name}\n")
        self.write("/usr/local/sbin/systemctl", (ROOT / "tests/support/systemctl.py").read_text(), 0o755)

    def _close(self) -> None:
        self.network.communicate()

    def ip(self, words: str) -> None:
        """Run this machine's `ip` in that one's network."""
        enter = ["nsenter", f"--target={self.network.pid}", "--net", "--"]
        subprocess.run([*enter, "ip", *words.split()], check=True)

    def argv(self, *argv: str, online: bool = False) -> list[str]:
        """Return the command line that runs a command there. If `online`, it has the network of the tests' machine."""
        own = ["--uts"] if online else ["--net", "--uts"]
        return ["nsenter", f"--target={self.network.pid}", *own, "--", *self.chroot.inside(*argv)]

    def run(
        self, script: str, *, stdin: str = "", online: bool = False, check: bool = True, env: Mapping[str, str] = {}
    ) -> "subprocess.CompletedProcess[str]":
        """Run a script there as root, as a login shell has it; fail the test if it fails."""
        ran = subprocess.run(
            self.argv("bash", "-e", "-o", "pipefail", "-c", script, online=online),
            input=stdin, env={**ENVIRONMENT, **env}, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert not check or ran.returncode == 0, f"on {self.name}: {script}\n{ran.returncode}\n{ran.stdout}{ran.stderr}"
        return ran

    def apt(self, *packages: str) -> None:
        """Install Debian's packages, and start none of their services."""
        self.write("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", 0o755)
        words = "apt-get -q update && apt-get -qy install --no-install-recommends"
        self.run(f"{words} {' '.join(packages)}", online=True, env={"DEBIAN_FRONTEND": "noninteractive"})

    def path(self, name: str) -> Path:
        """Return the path of the machine's file as seen from outside."""
        return self.root / name.removeprefix("/")

    def write(self, name: str, text: str, mode: int = 0o644) -> None:
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def running(self) -> str:
        """Return the command line of each process there, one a line."""
        found = []
        for file in self.path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):  # the process has just ended
                found.append(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        return "\n".join(found)

    def wait_until_gone(self, program: str) -> None:
        """Return once no command line there names a program."""
        until(lambda: program not in self.running(), f"the end of {program} on {self.name}")

    def tree(self, *leave_out: str) -> dict[str, str]:
        """Return every file with its kind, mode, owner and size, except those below these paths."""
        pruned = " -o ".join(f"-path {name}" for name in ("/proc", "/sys", "/dev", "/run", "/tmp", *leave_out))
        listed = self.run(rf"find / -xdev \( {pruned} \) -prune -o -printf '%p\t%y%m %u:%g %s %l\n'").stdout
        rows = (line.partition("\t") for line in listed.splitlines())
        # a directory's size depends on the files that it once had
        return {name: " ".join(seen.split(" ")[:2]) if seen.startswith("d") else seen for name, _, seen in rows}


def connect(one: Machine, other: Machine) -> None:
    """Put a cable between the two."""
    one.ip(f"link add eth0 type veth peer name eth0 netns {other.network.pid}")
    for machine in (one, other):
        machine.ip("link set eth0 up")
        machine.ip(f"address add {machine.address}/24 dev eth0")


def furnish_proxmox(host: Machine) -> None:
    """Give a machine Proxmox's parts: /etc/pve, qm and the other commands, and two VMs, one of which runs.

    Its times are a twentieth of Proxmox's own.
    """
    package = host.path(f"{STANDIN}/breakglass")
    for name in ("demo", "base/__init__.py", "base/isolated.py", "__init__.py"):
        source, target = ROOT / "handler" / name, package / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    for name, (module, *words) in TOOLS.items():
        main = f"from breakglass.demo.proxmox.{module} import main; sys.exit(main())"
        text = _RUN_STANDIN.format(standin=STANDIN, main=main, words=" ".join(["''", *words]))
        host.write(f"/usr/sbin/{name}", text, 0o755)
    host.write(f"{STANDIN}/ha_services.py", (ROOT / "tests/support/ha_services.py").read_text())
    main = f"import runpy; runpy.run_path('{STANDIN}/ha_services.py', run_name='__main__')"
    host.write("/usr/sbin/ha-manager", _RUN_STANDIN.format(standin=STANDIN, main=main, words="'' ha-manager"), 0o755)
    node = "/etc/pve/nodes/pve1"
    for vmid, name in ((102, "devvm"), (103, "mail")):
        host.write(f"{node}/qemu-server/{vmid}.conf", CONF.format(vmid=vmid, name=name))
    ids = {str(vmid): {"node": "pve1", "type": "qemu", "version": 1} for vmid in (102, 103)}
    host.write("/etc/pve/.vmlist", json.dumps({"version": 2, "ids": ids}))
    host.write("/etc/pve/storage.cfg", "dir: local\n\tpath /var/lib/vz\n\tcontent iso,images,snippets\n")
    kvm = ["/usr/bin/kvm", "-IS", f"{STANDIN}/breakglass/demo/proxmox/kvm.py"]
    run = "/run/qemu-server/102"
    host.write("/scale", "20")
    host.write("/vm.json", json.dumps([*kvm, "-pidfile", f"{run}.pid", "-qmp", f"{run}.qmp", "-daemonize"]))
    host.run(
        "ln -s nodes/pve1 /etc/pve/local; ln -s local/qemu-server /etc/pve/qemu-server; ln -s python3 /usr/bin/kvm;"
        "mkdir -p /run/qemu-server /run/lock/qemu-server /var/log/pve/tasks /root/.ssh /run/sshd;"
        "mount -t tmpfs none /sys/fs/cgroup; ssh-keygen -A; systemctl start ssh; qm start 102"
    )


@contextmanager
def two_machines() -> Iterator[tuple[Machine, Machine]]:
    """The handler's machine, new, and a Proxmox host with the VMs 102 and 103, of which 102 runs."""
    with ExitStack() as files:
        pair = [
            Machine(name, address, files.enter_context(debian()), files)
            for name, address in (("rescue", HANDLER), ("pve1", HOST))
        ]
        handler, host = pair
        connect(handler, host)
        host.apt("openssh-server", "procps", "iproute2")
        furnish_proxmox(host)
        yield handler, host

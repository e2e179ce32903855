"""Three nodes on one machine: three hosts, each with an sshd, and one shared /etc/pve/nodes. One of them has the VM."""

import json
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

from breakglass.demo.proxmox.world import CONF, VMID, World

from .agent import hasten, set_constants
from .alerting import entry
from .service import Service, with_constants
from .signals import signal_process
from .sshd import Sshd, descendants
from .stages import until

NODES = ("pve1", "pve2", "pve3")
COROSYNC = "totem {\n  cluster_name: demo\n}\n"


class Cluster:
    """The nodes by name, and where the VM is. `directory` must be short."""

    def __init__(self, directory: Path) -> None:
        self.shared = directory / "nodes"
        self.place = NODES[0]
        self.nodes: dict[str, Sshd] = {}
        with ExitStack() as begun:
            begun.callback(self.close)
            for name in NODES:
                self.nodes[name] = Sshd(self._host(directory / name, name))
            self._write_vmlist()
            assert self.world.qm("start", str(VMID)).returncode == 0
            begun.pop_all()

    def _host(self, directory: Path, name: str) -> World:
        world = World(directory, qemu="", scale=20)
        pve = world.root / "etc/pve"
        if not self.shared.exists():
            (pve / "nodes").rename(self.shared)
            (self.shared / "demo").rename(self.shared / name)
        else:
            (self.shared / f"{name}/qemu-server").mkdir(parents=True)
            (pve / f"nodes/demo/qemu-server/{VMID}.conf").unlink()
            (pve / "nodes").rename(directory / "unused")
        (pve / "nodes").symlink_to(self.shared)
        (pve / "local").unlink()
        (pve / "local").symlink_to(f"nodes/{name}")
        hasten(world)
        # No test here makes QEMU hang, and three hosts on a busy machine can be slow to hear its answer.
        set_constants(world, f"replace(node_name=lambda: {name!r})", QMP_SECONDS=30.0)
        (pve / "corosync.conf").write_text(COROSYNC)
        (world.root / "etc/corosync").mkdir()
        (world.root / "etc/corosync/corosync.conf").write_text(COROSYNC)
        return world

    @property
    def world(self) -> World:
        """The host that has the VM."""
        return self.nodes[self.place].world

    def _write_vmlist(self) -> None:
        """Write on which node the VM is, because pmxcfs shows it on every node at once."""
        text = json.dumps({"version": 1, "ids": {str(VMID): {"node": self.place, "type": "qemu", "version": 1}}})
        for sshd in self.nodes.values():
            new = sshd.world.root / "etc/pve/.vmlist.new"
            new.write_text(text)
            new.rename(sshd.world.root / "etc/pve/.vmlist")

    def restore(self) -> None:
        """Undo what a test has done to the nodes. They are in one cluster again, and the VM runs on pve1 alone."""
        for name, sshd in self.nodes.items():
            if sshd.process.returncode is not None:
                sshd.start()
            pve = sshd.world.root / "etc/pve"
            if not (pve / "nodes").is_symlink():
                self.heal(name)
            (pve / "local").unlink(missing_ok=True)
            (pve / "local").symlink_to(f"nodes/{name}")
            (pve / "corosync.conf").write_text(COROSYNC)
            shutil.rmtree(pve / "ha", ignore_errors=True)
            if self.place != NODES[0] or name != NODES[0]:
                _end_process(sshd.world)
        for conf in self.shared.glob(f"*/qemu-server/{VMID}.conf"):
            conf.unlink()
        (self.shared / NODES[0] / f"qemu-server/{VMID}.conf").write_text(CONF)
        self.place = NODES[0]
        self._write_vmlist()
        if self.world.pid is None:
            assert self.world.qm("start", str(VMID)).returncode == 0

    def move(self, node: str, *, running: bool = True) -> None:
        """Move the VM to another node. Its process ends, its configuration moves, and it starts there."""
        _end_process(self.world)
        self.take_configuration(node)
        if running:
            assert self.world.qm("start", str(VMID)).returncode == 0

    def handler(self, directory: Path, seconds: float | None = 60.0) -> Service:
        """Return a handler whose VM may run on each node, once it is connected to them all.

        The handler waits this many seconds for the hosts to say where the VM is, or as long as its own limits if None.
        """
        times = [f"proxmox.places.{name} = {seconds}" for name in ("ASK_SECONDS", "ASK_AGAIN_SECONDS")]
        times += ["web.alert.ACK_SECONDS = 60.0", "web.alert.PLAN_SECONDS = 60.0", "proxmox.patience.BACKOFF = (0.05,)"]
        sshd = self.nodes["pve1"]
        others = "".join(self._host_table(name) for name in NODES[1:]) + entry("generic", 0, host="devvm")
        service = Service(
            directory,
            **sshd.access,
            hosts=NODES,
            extra=others,
            program=with_constants(*times) if seconds else Service.program,
        )
        with ExitStack() as begun:
            begun.callback(service.stop)
            self.wait_for(service)
            begun.pop_all()
        return service

    def wait_for(self, service: Service) -> None:
        """Return once the handler knows which nodes run."""
        up = [name for name, sshd in self.nodes.items() if sshd.process.returncode is None]
        until(lambda: [n for n, host in service.health()["hosts"].items() if host["state"] == "answering"] == up, "it")

    def _host_table(self, name: str) -> str:
        sshd = self.nodes[name]
        address = f'ssh = "breakglass@127.0.0.1:{sshd.port}"\n'
        return f"[hosts.{name}]\n{address}key = '''{sshd.power_key}'''\nhost_key = {json.dumps([sshd.host_key])}\n"

    def take_configuration(self, node: str) -> World:
        """Give the VM's configuration to another node by hand while the VM runs. Return the host that still runs it."""
        running = self.world
        conf = f"qemu-server/{VMID}.conf"
        (self.shared / self.place / conf).rename(self.shared / node / conf)
        self.place = node
        self._write_vmlist()
        return running

    def pretend_moved(self, node: str) -> None:
        """Run the VM on another node, and leave its process on the previous one, which has its own /etc/pve."""
        old = self.nodes["pve1"].world.root / "etc/pve/.vmlist"
        kept = old.read_text()
        self.take_configuration(node)
        old.write_text(kept)
        assert self.world.qm("start", str(VMID)).returncode == 0

    def delete_configuration(self) -> None:
        """Remove the VM's configuration from every node while its process runs."""
        (self.shared / self.place / f"qemu-server/{VMID}.conf").unlink()
        for sshd in self.nodes.values():
            (sshd.world.root / "etc/pve/.vmlist").write_text('{"version": 2, "ids": {}}')

    def give_own_pve(self, name: str, holder: str) -> Path:
        """Give a node its own /etc/pve, as it was when `holder` had the VM; return it."""
        pve = self.nodes[name].world.root / "etc/pve"
        (pve / "nodes").unlink()
        shutil.copytree(self.shared, pve / "nodes")
        conf = f"qemu-server/{VMID}.conf"
        [now] = (pve / "nodes").glob(f"*/{conf}")
        now.rename(pve / "nodes" / holder / conf)
        ids = {str(VMID): {"node": holder, "type": "qemu", "version": 1}}
        (pve / ".vmlist").write_text(json.dumps({"version": 1, "ids": ids}))
        return pve

    def heal(self, name: str) -> None:
        """Connect a node that has its own /etc/pve to the cluster again."""
        nodes = self.nodes[name].world.root / "etc/pve/nodes"
        (nodes / name).chmod(0o755)
        shutil.rmtree(nodes)
        nodes.symlink_to(self.shared)
        self._write_vmlist()

    @contextmanager
    def frozen(self, name: str) -> Iterator[None]:
        """Make a node silent. Its connections stay open, as far as the handler can tell."""
        sshd = self.nodes[name]
        found = [sshd.process.pid, *descendants(sshd.process.pid)]
        try:
            for pid in found:
                with suppress(ProcessLookupError):  # a child of the host agent that has just ended
                    signal_process(pid, signal.SIGSTOP)
            yield
        finally:
            for pid in found:
                with suppress(ProcessLookupError):
                    signal_process(pid, signal.SIGCONT)

    def close(self) -> None:
        """Stop each sshd and its host."""
        for sshd in self.nodes.values():
            sshd.stop()
            sshd.world.close()


def _end_process(world: World) -> None:
    if (pid := world.pid) is not None:
        signal_process(pid, signal.SIGKILL)
        until(lambda: world.pid is None, "the end of the VM's process")


@contextmanager
def cluster(directory: Path) -> Iterator[Cluster]:
    """Run three nodes until the block ends."""
    with closing(Cluster(directory)) as made:
        yield made

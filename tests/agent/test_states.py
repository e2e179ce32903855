"""`states`: one line answers how each VM of the key is, and a VM that hangs hides no other."""

import signal

import pytest

from breakglass.demo.proxmox.world import VMID, World

from ..support.agent import Session, execute
from ..support.signals import signal_process

pytestmark = pytest.mark.real("qemu")
SEVERAL = ("--vms", f"{VMID},110-119")


def others(world: World, *vmids: int) -> None:
    """Add VMs that are off, on this node."""
    for vmid in vmids:
        (world.root / f"etc/pve/qemu-server/{vmid}.conf").write_text("memory: 32\n")


def test_each_vm_is_judged_as_by_a_status(world: World) -> None:
    """The VMs of the key that are on this node are told, with what a status says but the evidence, and no other VM."""
    others(world, 110, 111, 200)
    (world.root / "etc/pve/qemu-server/111.conf").write_text("lock: backup\nmemory: 32\n")
    with Session(world, world.forced_command(*SEVERAL)) as session:
        states = {state.pop("vm"): state for state in session.ask("states")["states"]}
        for vmid in (VMID, 110, 111):
            status = session.ask(f"status vm={vmid}")
            status["verdict"]["evidence"] = []
            told = ("state", "last", "holder", "heartbeat", "verdict", "proxmox_name")
            assert states.pop(vmid) == {name: status[name] for name in told}
    assert states == {}


@pytest.mark.all
def test_a_vm_that_hangs_hides_no_other(world: World) -> None:
    """QEMU that is silent is said to be, and the next VM is known all the same; one that is late is not known."""
    others(world, 110)
    signal_process(world.pid, signal.SIGSTOP)
    with Session(world, world.forced_command(*SEVERAL)) as session:
        states = {state["vm"]: (state["state"], state["verdict"]["code"]) for state in session.ask("states")["states"]}
    assert states == {VMID: ("wedged", "qemu-wedged"), 110: ("stopped", "qemu-stopped")}


def test_a_read_only_key_gets_no_states(world: World) -> None:
    """They are of VMs that a turn was not opened for."""
    assert execute(world, "states", *SEVERAL, "--read-only").code == 10

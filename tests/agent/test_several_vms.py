"""One key, one session and one agent for all VMs of a host."""

import signal
from itertools import product

import pytest

from breakglass.agents.pve.host.cluster import node_name
from breakglass.agents.pve.words import VERSION
from breakglass.demo.proxmox.world import VMID, World

from ..support.agent import Session, execute, set_constants
from ..support.signals import signal_process

pytestmark = pytest.mark.real("qemu")
SEVERAL = ("--vms", f"{VMID},110-119")
CODES = {110: "qemu-stopped", 111: "stopped-locked"}


def several(world: World) -> list[str]:
    return world.forced_command(*SEVERAL)


def test_a_key_serves_its_list_and_no_other_vm(world: World) -> None:
    """Each VM of the list is served, even in the middle of a range. A line without a number could mean any of them."""
    before = world.pid
    with Session(world, several(world)) as session:
        assert session.ask(f"status vm={VMID}")["state"] == "running"
        assert session.ask("status vm=115")["state"] == "stopped"
        for verb in ("status", "reset", "forensics", "history", "job id=some-job-1"):
            assert session.ask(verb)["verdict"]["code"] == "wrong-vm"
        for number, verb in product((101, 109, 120, 1102), ("reset", "status", "check")):
            refused = session.ask(f"{verb} vm={number}")
            assert (refused["exit_code"], refused["verdict"]["code"]) == (12, "wrong-vm")
        # the same id under two numbers is two jobs, so the second one attaches to nothing
        assert session.ask(f"start vm={VMID} id=same-id-0001")["outcome"] == "done"
        other = session.ask("reset vm=110 id=same-id-0001")
        assert (other["outcome"], other["attached"], other["verdict"]["code"]) == ("refused", False, "not-running")
    assert world.pid == before
    assert execute(world, "status vm=999999999", "--vms", "all").code == 0
    for words in (("--vms", ""), ("--vms", "102,"), ("--vm", "102")):  # not clear, so nothing is read
        answer = execute(world, "reset", *words)
        assert (answer.code, answer.trailer) == (2, {})


def test_ping_says_what_the_key_reaches(world: World) -> None:
    """The handler relies on the answer's version, node, list of VMs, and whether the key can change power."""
    answer = execute(world, "ping", *SEVERAL, "--read-only").trailer
    expected = {"version": VERSION, "node": node_name(), "vms": "102,110-119", "read_only": True}
    expected |= {"quorum": True, "records": True}
    assert {name: answer[name] for name in expected} == expected


def test_states_judges_each_vm_as_a_status_does(world: World) -> None:
    """It has the VMs of the key that are on this node, without the evidence. A VM that hangs hides no other."""
    for vmid, text in ((110, ""), (111, "lock: backup\n"), (200, "")):
        (world.root / f"etc/pve/qemu-server/{vmid}.conf").write_text(f"{text}memory: 32\n")
    with Session(world, several(world)) as session:
        states = {state.pop("vm"): state for state in session.ask("states")["states"]}
        for vmid in (VMID, 110, 111):
            status = session.ask(f"status vm={vmid}")
            status["verdict"]["evidence"] = []
            told = ("state", "last", "holder", "heartbeat", "verdict", "proxmox_name")
            assert states[vmid] == {name: status[name] for name in told}
        assert {vmid: each["verdict"]["code"] for vmid, each in states.items()} == CODES | {VMID: "qemu-running"}
        signal_process(world.pid, signal.SIGSTOP)
        silent = {state["vm"]: state["verdict"]["code"] for state in session.ask("states")["states"]}
    assert silent == CODES | {VMID: "qemu-wedged"}


def test_what_changes_power_waits_for_no_read(world: World) -> None:
    """Although there is no room for a read, a reset behind three reads is done, and so is a ping."""
    set_constants(world, MOST_TASKS=0)
    with Session(world, several(world)) as session:
        lines = [f"status vm={VMID}", "status vm=110", f"history vm={VMID}", f"reset vm={VMID} id=ahead-0001", "ping"]
        tags = session.send_all(lines)
        assert session.result(tags[4])["outcome"] == "done"
        assert session.result(tags[3], 60)["outcome"] == "done"

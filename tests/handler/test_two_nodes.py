"""Two nodes have the VM: its QEMU runs on one of them, and its configuration is on another. No verb runs it twice."""

import pytest

from breakglass.client import new_id
from breakglass.demo.proxmox.world import VMID

from ..support.agent import execute
from ..support.cluster import Cluster
from ..support.service import Service
from ..support.stages import memory

pytestmark = pytest.mark.real("sshd")
MOVED = f"a QEMU of VM {VMID} still runs on pve1, but the VM's configuration is on node pve2"
CUT_OFF = "pve1 (which has no quorum, or no /etc/pve), but the VM's configuration is on node pve2"


@pytest.fixture
def service(nodes: Cluster, nodes_service: Service) -> Service:
    nodes.wait_for(nodes_service)
    return nodes_service


def looks_are_stale(service: Service, sentence: str, state: str) -> None:
    for verb in ("status", "forensics"):
        seen = service.pve(verb).json
        verdict = seen["verdict"]
        assert (seen["outcome"], verdict["code"], verdict["advice"]) == ("done", "stale-copy", ""), seen
        assert sentence in verdict["sentence"]
        assert f"kill $(cat /run/qemu-server/{VMID}.pid)" in verdict["evidence"][0]
        assert (seen["state"], seen["last"] is None) == (state, state == "unknown")


def starts_are_refused(nodes: Cluster, service: Service, do: str = "send stop first") -> str:
    """Send each verb that would run the VM a second time. Each must be refused. Return an id that is still unused."""
    for verb in ("cycle", "start"):
        msg_id = new_id()
        answer = service.pve(verb, msg_id=msg_id).json
        assert (answer["outcome"], answer["reached"]) == ("unreached", False), answer
        assert answer["verdict"]["code"] == "stale-copy"
        assert f"{do}; nothing was sent" in answer["verdict"]["sentence"]
        [command] = answer["by_hand"]
        assert f"-p {nodes.nodes['pve1'].port} " in command
        assert "qm" not in command.replace("qemu", "")
        assert not any(memory(sshd.world, "jobs", msg_id).exists() for sshd in nodes.nodes.values())
    return msg_id


def test_a_configuration_that_is_moved_while_the_vm_runs(nodes: Cluster, service: Service) -> None:
    """The node with the configuration says that the VM is off. A stop goes to the node that runs it, and ends it."""
    assert service.pve("status").json["state"] == "running"
    old = nodes.take_configuration("pve2")
    running = old.pid
    looks_are_stale(service, MOVED, "unknown")
    free = starts_are_refused(nodes, service)
    reset = service.pve("reset").json
    assert (reset["outcome"], reset["verdict"]["code"]) == ("refused", "not-running")
    assert reset["verdict"]["advice"] == ""  # a start would be refused
    assert MOVED in reset["warnings"][-1]
    assert (old.pid, nodes.world.pid) == (running, None)
    seen = service.pve("status").json
    stopped = service.pve("stop", if_state="" if seen["state"] == "unknown" else seen["state"]).json
    assert (stopped["outcome"], stopped["state"]) == ("done", "elsewhere"), stopped
    assert "the VM is on node pve2" in stopped["warnings"][-1]
    assert old.pid is None
    assert service.pve("status").json["verdict"]["code"] == "qemu-stopped"
    assert service.pve("start", msg_id=free).json["outcome"] == "done"
    assert nodes.world.pid is not None


@pytest.mark.all
def test_a_vm_that_runs_on_two_nodes_is_not_off_after_one_stop(nodes: Cluster, service: Service) -> None:
    """The first stop ends the VM itself, and says that another QEMU is left. The second stop ends that one.

    So no earlier answer says "send stop first", because that would end the healthy QEMU.
    """
    old = nodes.take_configuration("pve2")
    assert nodes.world.qm("start", str(VMID)).returncode == 0
    by_hand = "end that QEMU by hand, because a stop would end the one on pve2 first"
    looks_are_stale(service, f"{MOVED}; {by_hand}", "running")
    starts_are_refused(nodes, service, by_hand)
    first = service.pve("stop").json
    assert (first["outcome"], first["verdict"]["code"], first["exit_code"]) == ("failed", "stale-copy", 13), first
    assert "the VM was stopped on pve2, but another QEMU of it runs on pve1" in first["verdict"]["sentence"]
    assert first["state"] == "unknown"
    assert (nodes.world.pid, old.pid is None) == (None, False)
    second = service.pve("stop").json
    assert (second["outcome"], second["state"]) == ("done", "elsewhere"), second
    assert old.pid is None
    third = service.pve("stop").json
    assert (third["outcome"], third["state"]) == ("done", "stopped"), third


@pytest.mark.all
def test_a_partition_and_its_end(nodes: Cluster, service: Service) -> None:
    """HA has started the VM on pve2, although it still runs on pve1, which was cut off and then returns."""
    old = nodes.nodes["pve1"].world
    pve = nodes.give_own_pve("pve1", "pve1")
    (pve / "nodes/pve1").chmod(0o555)
    nodes.pretend_moved("pve2")
    looks_are_stale(service, CUT_OFF, "running")
    starts_are_refused(nodes, service, "end that QEMU by hand, because a stop would end the one on pve2 first")
    assert service.pve("reset").json["outcome"] == "done"  # of the VM itself, so the copy is not touched
    (pve / "nodes/pve1").chmod(0o755)
    nodes.heal("pve1")
    looks_are_stale(service, MOVED, "running")
    for verb, code in (("status", 0), ("forensics", 0), ("reset", 12)):  # by hand on pve1
        answer = execute(old, verb)
        assert (answer.code, answer.trailer["verdict"]["code"]) == (code, "stale-copy")
    assert [service.pve("stop").json["outcome"] for _ in range(3)] == ["failed", "done", "done"]
    assert (old.pid, nodes.world.pid) == (None, None)


@pytest.mark.all
def test_the_two_qemus_of_a_live_migration_are_no_copies(nodes: Cluster, service: Service) -> None:
    """Before the switch, the target's QEMU is not yet the VM. After it, the source's QEMU exists for a moment more."""
    source = nodes.take_configuration("pve2")
    assert nodes.world.qm("start", str(VMID)).returncode == 0
    conf = nodes.shared / f"pve2/qemu-server/{VMID}.conf"
    conf.write_text(f"lock: migrate\n{conf.read_text()}")
    for node in ("pve1", "pve2"):
        nodes.take_configuration(node)
        assert service.pve("status").json["verdict"]["code"] == "qemu-running"
        answer = service.pve("cycle").json
        assert (answer["outcome"], answer["verdict"]["code"]) == ("refused", "locked"), answer
    assert source.pid is not None

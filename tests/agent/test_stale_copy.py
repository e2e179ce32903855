"""A QEMU that runs while another node has the VM. It is called a stale copy, and may only be stopped."""

import pytest

from breakglass.demo.proxmox.world import World

from ..support.agent import Session, execute
from ..support.pve_host import moved, no_quorum, under_ha

pytestmark = pytest.mark.slow
BY_HAND = ("kill $(cat /run/qemu-server/102.pid)", "mv /etc/pve/nodes/pve2/qemu-server/102.conf /etc/pve/nodes/")


@pytest.mark.parametrize("paused", [False, pytest.param(True, marks=pytest.mark.all)])
def test_no_look_calls_it_well_and_no_verb_lets_it_go_on(world: World, *, paused: bool) -> None:
    """However healthy the QEMU looks, the VM may run on the other node, and both would write to its disks."""
    moved(world)
    if paused:
        world.monitor("stop")
    for line, code in (("status", 0), ("forensics", 0), ("reset", 12), ("start", 12), ("cycle", 12)):
        answer = execute(world, line)
        verdict = answer.trailer["verdict"]
        assert (answer.code, verdict["code"], verdict["advice"]) == (code, "stale-copy", ""), line
        assert "node pve2; send stop" in verdict["sentence"]
        assert [text for text in BY_HAND if text not in "".join(verdict["evidence"])] == []
        assert answer.trailer["state"] != "elsewhere"
    assert world.pid is not None
    assert execute(world, "status").trailer["last"] == "none"


@pytest.mark.parametrize("ha", [True, pytest.param(False, marks=pytest.mark.all)])
def test_it_can_be_stopped_without_qm(world: World, *, ha: bool) -> None:
    """Under HA, `qm stop` would make HA stop the VM on the other node. The answer does not say that the VM is off."""
    if ha:
        under_ha(world)
    moved(world)
    answer = execute(world, "stop")
    assert (answer.code, answer.trailer["state"], answer.trailer["verdict"]) == (0, "elsewhere", None), answer
    assert "on node pve2" in "".join(answer.trailer["warnings"])
    assert world.pid is None
    where = execute(world, "where").trailer
    assert [where[name] for name in ("node", "sure", "process", "migrating")] == ["pve2", True, False, False]
    assert "Requesting HA stop" not in answer.stdout
    if ha:
        assert "state started" in (world.root / "etc/pve/ha/resources.cfg").read_text()
    assert execute(world, "status").trailer["verdict"]["code"] == "other-node"


def test_what_is_no_stale_copy(world: World) -> None:
    """A migration's source exists until it has ended, and its configuration is locked for that time.

    /etc/pve of a node without a quorum may be old. A reset works there, as on every node without a quorum.
    """
    known = ("node", "sure", "process", "migrating")
    with Session(world) as session:
        here = session.ask("where")
        assert [here[name] for name in known] == [here["here"], True, True, False]
        moved(world, lock="migrate")
        assert session.ask("status")["verdict"]["code"] == "qemu-running"
        assert session.ask("forensics")["verdict"]["code"] != "stale-copy"
        source = session.ask("where")
        assert [source[name] for name in known] == ["pve2", True, True, True]
        no_quorum(world)
        assert session.ask("status")["verdict"]["code"] == "qemu-running"
        assert session.ask("reset")["exit_code"] == 0

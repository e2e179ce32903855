"""The verb `check`: the findings of `breakglass-pve check`, and reasons that would refuse a verb on one VM."""

from collections.abc import Callable

import pytest

from breakglass.agents.pve.host.cluster import node_name
from breakglass.demo.proxmox.world import VMID, World

from ..support.agent import Answer, Session, execute, set_constants
from ..support.hung import unserved_fuse
from ..support.pve_host import dead_upid, lock, moved, no_quorum, restore, task_index, under_ha
from ..support.selection import sampled

pytestmark = [pytest.mark.real("qemu"), pytest.mark.shared("world"), pytest.mark.usefixtures("own_tasks")]
own_host = pytest.mark.shared()
REFUSED = "reset and stop work; start and cycle are refused"


@pytest.fixture
def own_tasks(own_tasks: None, world: World) -> None:
    """Keep other tests' tasks away from VM 102, and the index empty."""
    restore(world)
    task_index(world)


def faults(answer: Answer) -> list[str]:
    """Return the lines that are not ok. The output and the field must be the same."""
    assert answer.code == 0
    lines = [
        f"{found['level']}: {found['sentence']}" + (f" / {found['hint']}" if found["hint"] else "")
        for found in answer.trailer["findings"]
    ]
    assert answer.stdout.splitlines()[:-1] == lines
    return [line for line in lines if not line.startswith("ok: ")]


def of_vm(world: World) -> list[str]:
    return faults(execute(world, f"check vm={VMID}"))


def test_a_vm_on_which_each_verb_can_act(world: World) -> None:
    """Everything that was checked has a line, and nothing is changed."""
    before = world.pid
    answer = execute(world, f"check vm={VMID}")
    assert faults(answer) == []
    assert [found["sentence"] for found in answer.trailer["findings"]] == [
        "/etc/pve answers, and this node has a quorum",
        f'VM {VMID} "devvm" is configured on this node, {node_name()}',
        f"VM {VMID} is not a template",
        f"VM {VMID} has no lock",
        f"VM {VMID}: HA does not manage the VM",
        f"no process holds the lock file of VM {VMID}",
        f"no job runs on VM {VMID}",
    ]
    assert (answer.trailer["outcome"], answer.trailer["stage"], world.pid) == ("done", "check", before)
    assert execute(world, "history").trailer["jobs"] == []


def test_the_host_is_checked_as_by_hand(world: World) -> None:
    """It has the lines of `breakglass-pve check`, the quorum and the free room, also on a session and for several VMs.

    With --root it checks no account and no key, because those of the tests are in another place.
    """
    answer = execute(world, "check")
    sentences = [found["sentence"] for found in answer.trailer["findings"]]
    assert "/etc/pve answers, and this node has a quorum" in sentences
    assert f"{world.root}/run/breakglass can be written" in sentences
    assert faults(answer) == []
    with Session(world, world.forced_command("--vms", f"{VMID},110-119")) as session:
        assert "/etc/pve answers, and this node has a quorum" in str(session.ask("check")["findings"])
        assert session.ask(f"check vm={VMID}")["findings"][1]["sentence"].startswith(f'VM {VMID} "devvm" is configured')


def lock_of_dead_task(world: World) -> None:
    lock(world, "snapshot")
    task_index(world, f"{dead_upid(f'qmsnapshot:{VMID}')} 1 6743E100 killed")


# The beginning of the line and a part of its fix, or all that follows if there is no fault.
FAULTS: dict[str, tuple[Callable[[World], object], str, str]] = {
    "no quorum": (no_quorum, f"error: this node has no quorum; {REFUSED}", "pvecm status"),
    "moved while it ran": (moved, f"error: a QEMU of VM {VMID} still runs on ", "send stop to end this QEMU first"),
    "a dead task's lock": (
        lock_of_dead_task,
        f"warning: VM {VMID} is locked (snapshot)",
        "the last such task, qmsnapshot",
    ),
    "HA's LRM is dead": (
        lambda world: under_ha(world, dead=("pve-ha-lrm",), silent=324),
        f"error: VM {VMID}: HA manages it: requested started, now started; HA does nothing now",
        "because pve-ha-lrm of node ",
    ),
    "HA moves it": (
        lambda world: under_ha(world, seen="migrate"),
        f"warning: VM {VMID}: HA manages it: requested started, now migrate",
        "wait until HA has moved it",
    ),
}


@pytest.mark.parametrize("name", sampled(FAULTS, "no quorum", "moved while it ran", "HA's LRM is dead"))
def test_what_would_refuse_a_verb_is_found(world: World, name: str) -> None:
    """One line is not ok. It says the fault, its effect and the fix."""
    change, beginning, fix = FAULTS[name]
    change(world)
    [found] = of_vm(world)
    assert (found.startswith(beginning), fix in found, " / " in found) == (True, True, True), found


@pytest.mark.all
@own_host
@pytest.mark.real("fuse")
def test_an_etc_pve_that_hangs_is_a_finding(world: World) -> None:
    """Both answer in time, with the fix."""
    set_constants(world, CLUSTER_SECONDS=1.0, FILE_SECONDS=0.5)
    with unserved_fuse(world.root / "etc/pve"):
        vm, host = execute(world, f"check vm={VMID}"), execute(world, "check")
    expected = f"error: /etc/pve does not answer: pmxcfs hangs; {REFUSED} / systemctl restart pve-cluster"
    assert [line.startswith(expected) for line in faults(vm)] == [True]
    assert any(line.startswith(expected) for line in faults(host))


@own_host
def test_a_slow_host_gets_an_answer_in_time(world: World) -> None:
    """The answer has the findings so far, and an error that says that the rest was not checked."""
    set_constants(world, SPARE_SECONDS=20.0)
    [*_, last] = faults(execute(world, "check"))
    assert last.startswith("error: not everything was checked, because the host answers too slowly / ")

"""The verb `check`: the findings of `breakglass-pve check`, and reasons that would refuse a verb on one VM."""

import re
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


@pytest.fixture
def own_tasks(own_tasks: None, world: World) -> None:
    """Keep other tests' tasks away from VM 102, and the index empty."""
    restore(world)
    task_index(world)


def faults(answer: Answer) -> list[dict[str, str]]:
    """Return the findings that are not ok. The output and the field must be the same."""
    assert answer.code == 0
    findings: list[dict[str, str]] = answer.trailer["findings"]
    lines = [f"{each['level']}: {each['sentence']}" + f" / {each['hint']}" * bool(each["hint"]) for each in findings]
    assert answer.stdout.splitlines()[:-1] == lines
    return [found for found in findings if found["level"] != "ok"]


def test_a_vm_on_which_each_verb_can_act(world: World) -> None:
    """Everything that was checked has a line, and nothing is changed."""
    before = world.pid
    answer = execute(world, f"check vm={VMID}")
    assert faults(answer) == []
    sentences = [found["sentence"] for found in answer.trailer["findings"]]
    about = [
        "a quorum",
        f'"devvm" is configured on this node, {node_name()}',
        "template",
        "no lock",
        "HA",
        "file",
        "job",
    ]
    assert [word for word, sentence in zip(about, sentences, strict=True) if word not in sentence] == []
    assert (answer.trailer["outcome"], answer.trailer["stage"], world.pid) == ("done", "check", before)
    assert execute(world, "history").trailer["jobs"] == []


def test_the_host_is_checked_as_by_hand(world: World) -> None:
    """It has the lines of `breakglass-pve check`, the quorum and the free room, also on a session and for several VMs.

    With --root it checks no account and no key, because those of the tests are in another place.
    """
    answer = execute(world, "check")
    assert faults(answer) == []
    assert [text for text in ("has a quorum", "/run/breakglass can") if text not in answer.stdout] == []
    with Session(world, world.forced_command("--vms", f"{VMID},110-119")) as session:
        assert session.ask("check")["findings"] == answer.trailer["findings"]
        assert '"devvm" is configured' in session.ask(f"check vm={VMID}")["findings"][1]["sentence"]


def lock_of_dead_task(world: World) -> None:
    lock(world, "snapshot")
    task_index(world, f"{dead_upid(f'qmsnapshot:{VMID}')} 1 6743E100 killed")


def dead_lrm(world: World) -> None:
    under_ha(world, dead=("pve-ha-lrm",), silent=324)


def moved_by_ha(world: World) -> None:
    under_ha(world, seen="migrate")


# The level of the finding, a pattern of the fault, and words of its fix.
FAULTS: dict[str, tuple[Callable[[World], object], str, str, str]] = {
    "no quorum": (no_quorum, "error", "no quorum; reset and stop work", "pvecm status"),
    "moved while it ran": (moved, "error", "node pve2; send stop", f"kill $(cat /run/qemu-server/{VMID}.pid)"),
    "a dead task's lock": (lock_of_dead_task, "warning", r"\(snapshot\).* qmsnapshot ", f"qm unlock {VMID}"),
    "HA's LRM is dead": (dead_lrm, "error", "HA does nothing now, because pve-ha-lrm", "systemctl start pve-ha-crm"),
    "HA moves it": (moved_by_ha, "warning", "now migrate", "wait until HA has moved it"),
}


@pytest.mark.parametrize("name", sampled(FAULTS, "no quorum", "moved while it ran", "HA's LRM is dead"))
def test_what_would_refuse_a_verb_is_found(world: World, name: str) -> None:
    """One line is not ok. It says the fault, its effect and the fix."""
    change, level, fault, fix = FAULTS[name]
    change(world)
    [found] = faults(execute(world, f"check vm={VMID}"))
    assert re.search(fault, found["sentence"]), found
    assert (found["level"], fix in found["hint"]) == (level, True), found


@pytest.mark.all
@own_host
@pytest.mark.real("fuse")
def test_an_etc_pve_that_hangs_is_a_finding(world: World) -> None:
    """Both answer in time, with the fix."""
    set_constants(world, CLUSTER_SECONDS=1.0, FILE_SECONDS=0.5)
    with unserved_fuse(world.root / "etc/pve"):
        vm, host = execute(world, f"check vm={VMID}"), execute(world, "check")
    fix = "systemctl restart pve-cluster"
    assert [(found["level"], found["hint"].startswith(fix)) for found in faults(vm)] == [("error", True)]
    assert any(found["level"] == "error" and found["hint"].startswith(fix) for found in faults(host))


@own_host
def test_a_slow_host_gets_an_answer_in_time(world: World) -> None:
    """The answer has the findings so far, and an error that says that the rest was not checked."""
    set_constants(world, SPARE_SECONDS=20.0)
    [*_, last] = faults(execute(world, "check"))
    assert (last["level"], "too slowly" in last["sentence"], last["hint"] != "") == ("error", True, True)

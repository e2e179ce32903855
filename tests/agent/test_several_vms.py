"""One key, one session and one agent for all VMs of a host."""

import json
import os

import pytest

from breakglass.agents.pve.words import CONTAINER_SENTENCE, VERSION
from breakglass.demo.proxmox.world import VMID, World

from ..support.agent import Session, execute, set_constants

pytestmark = pytest.mark.real("qemu")
SEVERAL = ("--vms", f"{VMID},110-119")


def guests(world: World, **kinds: str) -> None:
    """Add these guests to the cluster, such as `vm110="lxc"`, on another node."""
    ids = {name.removeprefix("vm"): {"node": "pve2", "type": kind, "version": 3} for name, kind in kinds.items()}
    (world.root / "etc/pve/.vmlist").write_text(json.dumps({"version": 1, "ids": ids}))


def several(world: World) -> list[str]:
    return world.forced_command(*SEVERAL)


@pytest.mark.all
@pytest.mark.parametrize("line", ["status", "reset", "forensics", "history", "job id=some-job-1"])
def test_a_key_for_several_vms_needs_a_number(world: World, line: str) -> None:
    """A line without `vm=` could mean any of them. It is refused, and nothing is changed."""
    before = world.pid
    answer = execute(world, line, *SEVERAL)
    assert (answer.code, answer.trailer["verdict"]["code"], world.pid) == (12, "wrong-vm", before)
    assert answer.stderr == (
        f"this key serves several VMs (102,110-119): name one, like {line.split()[0]} vm=102; nothing was changed\n"
    )


def test_a_key_serves_its_list_and_no_other_vm(world: World) -> None:
    """Each VM of the list is served, even in the middle of a range, but the next number is not."""
    assert execute(world, f"status vm={VMID}", *SEVERAL).trailer["state"] == "running"
    assert execute(world, "status vm=115", *SEVERAL).code == 0
    for other in (101, 109, 120, 1102):
        answer = execute(world, f"reset vm={other}", *SEVERAL)
        assert (answer.code, answer.trailer["verdict"]["code"]) == (12, "wrong-vm")


def test_a_key_for_every_vm_serves_each(world: World) -> None:
    """`--vms all` has no bound."""
    assert execute(world, "status vm=999999999", "--vms", "all").code == 0


@pytest.mark.parametrize("words", [("--vms", ""), ("--vms", "102,"), ("--vm", "102")], ids=str)
def test_a_forced_command_that_is_not_clear_serves_nothing(world: World, words: tuple[str, str]) -> None:
    """A damaged list or an unknown option ends the command before anything is read."""
    answer = execute(world, "reset", *words)
    assert (answer.code, answer.trailer) == (2, {})


def test_ping_says_what_the_key_reaches(world: World) -> None:
    """The handler relies on the answer's version, node, list of VMs, and whether the key can change power."""
    answer = execute(world, "ping", *SEVERAL, "--read-only").trailer
    node = os.uname().nodename.partition(".")[0]
    fields = {name: answer[name] for name in ("version", "node", "vms", "read_only", "quorum", "records")}
    assert fields == {
        "version": VERSION,
        "node": node,
        "vms": "102,110-119",
        "read_only": True,
        "quorum": True,
        "records": True,
    }


def test_one_session_serves_all_vms_and_keeps_their_records_apart(world: World) -> None:
    """The same id under two numbers is two jobs, so the second one attaches to nothing."""
    with Session(world, several(world)) as session:
        assert session.ask(f"status vm={VMID}")["state"] == "running"
        assert session.ask("status vm=110")["state"] == "stopped"
        assert session.ask(f"reset vm={VMID} id=same-id-0001")["outcome"] == "done"
        other = session.ask("reset vm=110 id=same-id-0001")
        assert (other["outcome"], other["attached"], other["verdict"]["code"]) == ("refused", False, "not-running")
        assert session.ask("status")["verdict"]["code"] == "wrong-vm"
        assert session.ask("status vm=120")["verdict"]["code"] == "wrong-vm"
        assert session.ask("ping")["vms"] == "102,110-119"


def test_what_changes_power_waits_for_no_read(world: World) -> None:
    """Although there is no room for a read, a reset behind three reads is done, and so is a ping."""
    set_constants(world, MOST_TASKS=0)
    with Session(world, several(world)) as session:
        lines = [f"status vm={VMID}", "status vm=110", f"history vm={VMID}", f"reset vm={VMID} id=ahead-0001", "ping"]
        tags = session.send_all(lines)
        assert session.result(tags[4])["outcome"] == "done"
        assert session.result(tags[3], 60)["outcome"] == "done"


def test_a_read_that_finds_no_place_is_told_so(world: World) -> None:
    """The queue is bounded, and requests beyond the bound are answered with a refusal."""
    set_constants(world, MOST_TASKS=0, MOST_WAITING=1)
    with Session(world, several(world)) as session:
        tags = session.send_all(["status vm=102", "status vm=102"])
        refused = session.result(tags[1])
        assert (refused["outcome"], refused["verdict"]["code"]) == ("failed", "agent-failed")
        assert refused["verdict"]["sentence"] == "too many requests already wait on this host; nothing was done"


@pytest.mark.all
def test_a_container_is_never_taken_for_a_vm(world: World) -> None:
    """The sentence names pct. No verb acts, and no state is reported, because a container has no QEMU."""
    guests(world, vm110="lxc")
    for verb in ("start", "stop", "reset", "cycle"):
        answer = execute(world, f"{verb} vm=110", *SEVERAL)
        verdict = answer.trailer["verdict"]
        assert (answer.code, verdict["code"], verdict["sentence"]) == (12, "container", CONTAINER_SENTENCE)
    for verb in ("status", "forensics"):
        trailer = execute(world, f"{verb} vm=110", *SEVERAL).trailer
        assert (trailer["verdict"]["code"], trailer["state"]) == ("container", "unknown")

"""When a host was last proven: what proves it, how that is stored, and that no verb waits for the disk."""

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from breakglass.agents.pve.grammar import Request
from breakglass.agents.pve.host.paths import Host
from breakglass.agents.pve.jobs.proven import with_proven
from breakglass.agents.pve.jobs.result import Result
from breakglass.demo.proxmox.world import VMID, World

from ..support.agent import Session, booted_an_hour_ago, execute, set_constants
from ..support.hung import unserved_fuse
from ..support.pve_host import lock, restore
from ..support.stages import await_agents, forget_proofs, lose_run, until

pytestmark = [pytest.mark.real("qemu"), pytest.mark.shared("world"), pytest.mark.usefixtures("never_proven")]
own_host = pytest.mark.shared()
DOCTOR = "status by=doc proves=doctor"
HERE, DISK = FILES = ("run/breakglass/proven.json", "var/lib/breakglass/proven.json")


@pytest.fixture
def never_proven(world: World) -> None:
    forget_proofs(world)


def on_disk(world: World) -> object:
    path = world.root / DISK
    return json.loads(path.read_text()) if path.exists() else None


def proven(world: World) -> object:
    """Return the proof in the host's next answers."""
    proven_field = execute(world, "status").trailer["proven"]
    assert execute(world, "ping").trailer["proven"] == proven_field
    return proven_field


def without_time(proven_field: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in proven_field.items() if name != "at"}


@pytest.mark.all
def test_a_host_that_was_never_proven_says_so(world: World) -> None:
    """Without `proves`, neither a status nor a cycle proves it, but the answer has the field."""
    assert proven(world) is None
    assert execute(world, "cycle by=op").trailer["proven"] is None
    assert proven(world) is None


def test_a_doctor_proves_the_host(world: World) -> None:
    """The status of doctor and each later answer have the proof, and the disk keeps it for the time after a boot."""
    proven_field = execute(world, DOCTOR).trailer["proven"]
    assert without_time(proven_field) == {"by": "doc", "how": "doctor", "vm": VMID}
    assert proven(world) == proven_field
    until(lambda: on_disk(world) == proven_field, "the copy on the disk")
    for path in map(world.root.joinpath, FILES):
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_drill_proves_the_host(world: World) -> None:
    """The newest proof counts. The job's result has it, even for a request that attaches."""
    execute(world, DOCTOR)
    drill = "cycle id=drill-0001 by=op proves=drill"
    answer = execute(world, drill)
    assert (answer.code, without_time(answer.trailer["proven"])) == (0, {"by": "op", "how": "drill", "vm": VMID})
    assert proven(world) == answer.trailer["proven"]
    assert execute(world, drill).trailer["proven"] == answer.trailer["proven"]
    until(lambda: on_disk(world) == answer.trailer["proven"], "the copy on the disk")


def test_what_did_not_work_proves_nothing(world: World) -> None:
    """A drill that is refused, because the VM is locked, is no proof."""
    lock(world, "backup")
    answer = execute(world, "cycle by=op proves=drill")
    assert (answer.code, answer.trailer["proven"]) == (12, None)
    restore(world)


@pytest.mark.parametrize(("exit_code", "state"), [(0, "unknown"), (13, "running"), (14, "stopped")])
def test_no_state_is_no_proof(world: World, exit_code: int, state: str) -> None:
    """If QEMU reports a state that QEMU does not have, that proves too little."""
    host, request = Host(VMID, str(world.root)), Request("status", by="doc", proves="doctor")
    assert with_proven(host, request, Result(exit_code, state)).extra == {"proven": None}


def test_a_read_only_key_proves_nothing(world: World) -> None:
    """Otherwise, it could make a broken connection look healthy."""
    answer = execute(world, DOCTOR, "--vms", str(VMID), "--read-only")
    assert (answer.code, answer.trailer["verdict"]["code"]) == (10, "agent-refused")
    assert proven(world) is None


def test_after_a_boot_ping_brings_it_back(world: World) -> None:
    """A handler pings when it connects. Then each answer has the disk's proof, unless there is a newer one."""
    proven_field = execute(world, DOCTOR).trailer["proven"]
    until(lambda: on_disk(world) == proven_field, "the copy on the disk")
    lose_run(world)
    assert execute(world, "status").trailer["proven"] is None
    with Session(world) as session:
        assert session.ask("ping")["proven"] == proven_field
        assert session.ask("status")["proven"] == proven_field
    newer = execute(world, "status by=two proves=doctor").trailer["proven"]
    assert execute(world, "ping").trailer["proven"] == newer != proven_field


def test_one_process_at_a_time_is_at_the_disk(world: World) -> None:
    """If one process hangs at the disk for days and no signal ends it, no second process starts."""
    execute(world, "ping")
    (world.root / DISK).parent.mkdir(parents=True, exist_ok=True)
    (world.root / DISK).write_text('{"at":"2026-11-27T03:12:09Z","by":"a","how":"drill","vm":102}')
    with (world.root / "run/breakglass/proven.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert execute(world, "ping").trailer["proven"] is None
        await_agents(world)
    assert execute(world, "ping").trailer["proven"]["by"] == "a"


@pytest.mark.parametrize(
    "damage", [*(pytest.param(each, marks=pytest.mark.all) for each in ("", "[]", "null")), '{"at":1}']
)
def test_a_damaged_file_is_no_proof_and_no_obstacle(world: World, damage: str) -> None:
    """The host counts as never proven, and the next doctor proves it."""
    execute(world, "ping")
    (world.root / HERE).write_text(damage)
    assert proven(world) is None
    assert execute(world, DOCTOR).trailer["proven"]["by"] == "doc"


WORTHLESS: dict[str, Callable[[Path], object]] = {
    "fifo": os.mkfifo,
    "directory": Path.mkdir,
    "loop": lambda path: path.symlink_to(path),
    "endless": lambda path: path.symlink_to("/dev/zero"),
    "huge": lambda path: path.write_text(json.dumps({"at": "", "by": "x" * 1_000_000, "how": "drill", "vm": 102})),
}


@pytest.mark.all
@pytest.mark.parametrize("kind", ["fifo", *(pytest.param(kind, marks=pytest.mark.all) for kind in list(WORTHLESS)[1:])])
def test_what_is_no_file_of_ours_holds_up_nothing(world: World, kind: str) -> None:
    """If a FIFO or an endless device is in the place of a file, answers come at once and have no proof."""
    for name in reversed(FILES):
        (world.root / name).parent.mkdir(exist_ok=True, parents=True)
        WORTHLESS[kind](world.root / name)
        assert execute(world, "ping").trailer["proven"] is None
    with Session(world) as session:
        answers = [session.ask("status"), session.ask("ping"), session.ask(f"start id=msg_{kind}_start by=op")]
    assert [(each["exit_code"], each.get("proven")) for each in answers] == [(0, None)] * 3, answers
    proven_field = execute(world, DOCTOR).trailer["proven"]
    assert (proven_field is None) == (kind == "directory")


@pytest.mark.all
@own_host
@pytest.mark.real("fuse")
def test_no_verb_waits_for_a_disk_that_hangs(world: World) -> None:
    """The answers come at once with the proof in tmpfs. Only one process is stuck, however often the host is proven."""
    booted_an_hour_ago(world)
    (world.root / "var/lib").mkdir(parents=True, exist_ok=True)
    with unserved_fuse(world.root / "var/lib"), Session(world) as session:
        assert session.ask("ping")["proven"] is None
        for number in range(3):
            assert session.ask(f"status by=doc{number} proves=doctor")["proven"]["by"] == f"doc{number}"
        answer = session.ask("cycle id=drill-0001 by=op proves=drill", 120)
        assert (answer["outcome"], answer["proven"]["how"]) == ("done", "drill")


@pytest.mark.all
@own_host
def test_where_run_is_full_the_verb_is_done_all_the_same(world: World) -> None:
    """The verb is done, and its result says that no proof is known."""
    set_constants(
        world, "def full(path, text):\n    raise OSError(28, 'No space left on device')\nreplace(_record_proven=full)"
    )
    answer = execute(world, "cycle id=drill-0001 by=op proves=drill")
    assert (answer.code, answer.trailer["proven"]) == (0, None)

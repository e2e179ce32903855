"""When a host was last proven: what proves it, how that is stored, and that no verb waits for the disk."""

import json

import pytest

from breakglass.demo.proxmox.world import VMID, World

from ..support.agent import Session, booted_an_hour_ago, execute
from ..support.hung import unserved_fuse
from ..support.pve_host import lock, restore
from ..support.stages import forget_proofs, lose_run, until

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
def test_a_doctor_proves_the_host(world: World) -> None:
    """The status of doctor and each later answer have the proof. After a boot, a ping brings it back from the disk.

    A handler pings when it connects. A newer proof counts more than the disk's.
    """
    assert proven(world) is None
    proven_field = execute(world, DOCTOR).trailer["proven"]
    assert without_time(proven_field) == {"by": "doc", "how": "doctor", "vm": VMID}
    assert proven(world) == proven_field
    until(lambda: on_disk(world) == proven_field, "the copy on the disk")
    for path in map(world.root.joinpath, FILES):
        assert path.stat().st_mode & 0o777 == 0o600
    lose_run(world)
    assert execute(world, "status").trailer["proven"] is None
    with Session(world) as session:
        assert session.ask("ping")["proven"] == proven_field
        assert session.ask("status")["proven"] == proven_field
    newer = execute(world, "status by=two proves=doctor").trailer["proven"]
    assert execute(world, "ping").trailer["proven"] == newer != proven_field


def test_a_drill_proves_the_host(world: World) -> None:
    """The newest proof counts. The job's result has it, even for a request that attaches. A refused drill is none."""
    execute(world, DOCTOR)
    lock(world, "backup")
    refused = execute(world, "cycle by=op proves=drill")
    assert (refused.code, refused.trailer["proven"]["how"]) == (12, "doctor")
    restore(world)
    assert execute(world, "cycle by=op").trailer["proven"]["how"] == "doctor"
    drill = "cycle id=drill-0001 by=op proves=drill"
    answer = execute(world, drill)
    assert (answer.code, without_time(answer.trailer["proven"])) == (0, {"by": "op", "how": "drill", "vm": VMID})
    assert proven(world) == answer.trailer["proven"]
    assert execute(world, drill).trailer["proven"] == answer.trailer["proven"]
    until(lambda: on_disk(world) == answer.trailer["proven"], "the copy on the disk")


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

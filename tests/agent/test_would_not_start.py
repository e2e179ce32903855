"""A VM that Proxmox could not start again is not stopped, because `qm showcmd` reports Proxmox's error before."""

import pytest

from breakglass.demo.proxmox.world import VMID, World

from ..support.agent import Answer, constants_set, execute
from ..support.failing_tools import misbehave
from ..support.pve_host import HOPELESS, conf, configure
from ..support.selection import sampled

pytestmark = [pytest.mark.shared("world"), pytest.mark.usefixtures("own_tasks")]
own_host = pytest.mark.shared()
EACH = sampled([*HOPELESS], "iso", "template")


def shown(answer: Answer) -> str:
    """Return the text of a verdict that a person reads."""
    verdict = answer.trailer["verdict"]
    return "\n".join([verdict["sentence"], *verdict["evidence"]])


def code_of(answer: Answer) -> tuple[int, str, str]:
    verdict = answer.trailer["verdict"]
    return answer.code, verdict["code"], verdict["advice"]


@pytest.mark.parametrize("fault", EACH)
def test_a_vm_that_would_not_start_is_not_stopped(world: World, fault: str) -> None:
    """The cycle is refused with Proxmox's reason, and says which word overrides that."""
    before = world.pid
    configure(world, HOPELESS[fault][0], "[PENDING]", "numa: 1", "delete: balloon")  # these may fix the cause
    answer = execute(world, "cycle")
    assert (*code_of(answer), answer.trailer["anyway"]) == (12, "would-not-start", "", "would-not-start")
    said = {"iso": "stat for '/var/lib/vz/template/iso/gone.iso' failed", "template": f"VM {VMID} is a template"}
    assert said.get(fault, HOPELESS[fault][1]) in shown(answer)
    cures = {"iso": {"code": "see-storages"}, "bridge": {"code": "see-bridges"}}
    assert answer.trailer["verdict"]["fix"] == cures.get(fault)
    pending = "does not see the pending options, which a start applies first: numa, balloon"
    assert (pending in shown(answer)) == (fault != "template")
    assert (world.pid, execute(world, "status").trailer["last"]) == (before, "none")


@pytest.mark.all
@own_host
def test_a_person_can_have_it_stopped_anyway(world: World) -> None:
    """The VM is then off, as the refusal said. No verb is advised that would fail until the cause is fixed."""
    sound, (line, reason) = conf(world).read_text(), HOPELESS["iso"]
    configure(world, line)
    answer = execute(world, "cycle by=anna anyway=would-not-start")
    assert code_of(answer) == (15, "stranded", "")
    assert (reason in shown(answer), "then start" in shown(answer)) == (True, True)
    assert "anna asked" in answer.trailer["warnings"][-1]
    assert (world.pid, "trying once more" in answer.stderr) == (None, False)
    answer = execute(world, "start")
    assert (*code_of(answer), reason in shown(answer)) == (13, "would-not-start", "", True)
    assert answer.trailer["verdict"]["fix"] == {"code": "see-volumes", "storage": "local"}
    conf(world).write_text(sound)
    assert execute(world, "start").trailer["state"] == "running"


# --- a qm that is broken, and one that is late ---

NO_MODULE = "Can't locate PVE/Storage.pm in @INC (you may need to install the PVE::Storage module)"


def test_a_qm_that_is_broken_is_told_from_a_vm_that_would_not_start(world: World) -> None:
    """The exit codes are the same. A command that loads no VM's volumes distinguishes them. A broken qm is final."""
    misbehave(world.root, fail={"showcmd": NO_MODULE, "config": NO_MODULE})
    for line in ("cycle", "cycle anyway=would-not-start"):
        answer = execute(world, line)
        assert (*code_of(answer), answer.trailer["anyway"]) == (12, "no-qm", "", None)
        assert NO_MODULE in shown(answer)
    misbehave(world.root, fail={"showcmd": NO_MODULE})
    assert code_of(execute(world, "cycle")) == (12, "would-not-start", "")


@own_host
def test_a_late_qm_is_a_warning_and_no_refusal(world: World) -> None:
    """A busy host is not broken, so the cycle continues, and says what it could not check. So if qm was killed."""
    before = world.pid
    misbehave(world.root, hang="showcmd")
    with constants_set(world, QM_SECONDS=0.5):
        answer = execute(world, "cycle")
    assert (answer.code, answer.trailer["state"]) == (0, "running")
    assert "qm showcmd gave" in answer.trailer["warnings"][0]
    assert world.pid not in (None, before)
    misbehave(world.root)
    qm = world.bin / "qm"
    qm.write_text(qm.read_text().replace("#!/bin/sh\n", '#!/bin/sh\n[ "$1" != showcmd ] || kill -9 $$\n'))
    answer = execute(world, "cycle")
    assert (answer.code, "was killed" in answer.trailer["warnings"][0]) == (0, True)

"""Nights in which HA's daemons die, before a verb and during one.

No VM that was on is off after a cycle because HA could not act on a request. A request without an answer is not done
later, when HA is back.
"""

from typing import Any

import pytest

from breakglass.agents.pve.words import DEADLINES
from breakglass.demo.proxmox.world import VMID, World

from ..support.agent import READS, Session, execute, set_constants
from ..support.ha_services import Ha
from ..support.pve_host import HA_UNITS, await_ha_rounds, ha_queue, ha_requested, hook, kill_ha, systemctl, under_ha
from ..support.stages import until

pytestmark = [pytest.mark.real("qemu"), pytest.mark.slow]
CRM, LRM = HA_UNITS


def shown(trailer: dict[str, Any]) -> str:
    return "\n".join([trailer["verdict"]["sentence"], *trailer["verdict"]["evidence"], *trailer["warnings"]])


@pytest.mark.all
def test_with_a_dead_ha_nothing_is_asked_of_it_until_a_person_starts_it(world: World) -> None:
    """Status, forensics and check report it, and the cycle is refused. After the command in the answer, it works."""
    set_constants(world, HA_TAKES_SECONDS=1.0)
    under_ha(world, dead=HA_UNITS, silent=324)
    before = world.pid
    dead = "pve-ha-crm seems dead"
    for verb, code in (("status", "qemu-running"), ("forensics", "ha-stuck")):
        trailer = execute(world, verb).trailer
        verdict = trailer["verdict"]
        assert (verdict["code"], dead in verdict["sentence"]) == (code, True), verdict
        assert "starts it again" not in shown(trailer)
    findings = execute(world, f"check vm={VMID}").trailer["findings"]
    assert [dead in found["sentence"] for found in findings if found["level"] == "error"] == [True]
    refused = execute(world, "cycle")
    assert (refused.code, refused.trailer["verdict"]["code"], world.pid) == (12, "ha-stuck", before)
    assert refused.trailer["verdict"]["fix"] == {"code": "start-ha"}
    assert (ha_queue(world), ha_requested(world)) == ("", "started")
    assert execute(world, "reset").trailer["outcome"] == "done"
    systemctl(world, "start", *HA_UNITS)
    await_ha_rounds(world)
    assert execute(world, "cycle").trailer["outcome"] == "done"
    assert world.pid not in (None, before)


@pytest.mark.all
def test_an_lrm_that_was_killed_or_stopped_a_moment_ago_is_asked_nothing(world: World) -> None:
    """Its last time is fresh, but systemd knows that it ended, so forensics says so, and no request waits for it."""
    set_constants(world, HA_TAKES_SECONDS=1.0)
    under_ha(world)
    kill_ha(world, LRM)
    before = world.pid
    assert all("because pve-ha-lrm" in shown(execute(world, verb).trailer) for verb in ("forensics", "status"))
    refused = execute(world, "cycle")
    assert (refused.code, refused.trailer["verdict"]["code"], world.pid) == (12, "ha-stuck", before)
    assert "does not run" in shown(refused.trailer)
    assert (ha_queue(world), ha_requested(world)) == ("", "started")
    systemctl(world, "start", LRM)
    ha = Ha(str(world.root))
    until(lambda: ha.read_status(ha.lrm)["state"] == "active", "the LRM's lock")
    assert execute(world, "cycle").trailer["outcome"] == "done"
    systemctl(world, "stop", LRM)  # HA's manager freezes its services, and the LRM's last status says that it stops
    before, refused = world.pid, execute(world, "cycle")
    assert (refused.code, refused.trailer["verdict"]["code"], world.pid) == (12, "ha-stuck", before)
    assert "(mode restart)" in shown(refused.trailer)
    systemctl(world, "start", LRM)
    until(lambda: ha.read_state(f"vm:{VMID}") == "started", "HA's work on it")


@pytest.mark.all
@pytest.mark.parametrize(("verb", "killed"), [("cycle", False), ("stop", False), ("cycle", True)])
def test_what_a_dead_manager_was_asked_does_not_happen_when_it_is_back(
    world: World, verb: str, *, killed: bool
) -> None:
    """It died a moment ago, so it got the request. Its queue keeps that until the verb removes it.

    So it does if the OOM killer has killed `qm` after its request to HA.
    """
    under_ha(world, dead=(CRM,))
    if killed:
        qm = world.bin / "qm"
        qm.write_text(qm.read_text().replace(" exec ", " ") + '[ "$1" != stop ] || kill -9 $$\n')
    before = world.pid
    answer = execute(world, verb)
    assert (answer.code, answer.trailer["verdict"]["code"], world.pid) == (14, "ha-holds", before)
    assert ha_queue(world) == ""
    systemctl(world, "start", CRM)
    await_ha_rounds(world)
    assert (world.pid, ha_requested(world)) == (before, "started")


@pytest.mark.all
def test_a_request_of_another_person_stays_in_the_queue(world: World) -> None:
    """The verb removes its own request, leaves earlier ones, and says what will happen."""
    under_ha(world, dead=(CRM,))
    others = f"stop vm:9{VMID} 0\nmigrate vm:9{VMID} pve2\nstop vm:{VMID} 0\n"
    (world.root / "etc/pve/ha/crm_commands").write_text(others)
    trailer = execute(world, "cycle").trailer
    assert trailer["verdict"]["code"] == "ha-holds"
    assert ha_queue(world) == others
    assert "may still stop" in shown(trailer)


@pytest.mark.all
def test_a_stop_of_has_own_that_hangs_is_named_and_ha_starts_the_vm_again(world: World) -> None:
    """A hook script holds HA's stop beyond the cycle's time. Both daemons continue to write, and the answer says so."""
    limits = DEADLINES | READS | {"cycle": 105.0}  # 17 s of that are left for the steps before the ladder
    set_constants(world, DEADLINES=limits, QM_START_SECONDS=30.0, LEAST_SECONDS=0.05)
    under_ha(world)
    hook(world, "pre-stop", 25 * world.scale)
    before = world.pid
    answer = execute(world, "cycle")
    assert (answer.code, answer.trailer["verdict"]["code"], world.pid) == (14, "ha-holds", before)
    assert "writes no status" not in shown(answer.trailer)
    assert [text for text in ("HA's own stop", "HA may stop") if text not in shown(answer.trailer)] == []
    until(lambda: world.pid not in (None, before), "HA's stop and its start")


@pytest.mark.all
@pytest.mark.parametrize(
    ("is_off", "code", "verdict", "says"),
    [(False, 14, "ha-holds", "HA may stop"), (True, 15, "stranded", "may still start")],
)
def test_an_lrm_that_dies_in_a_cycle_starts_the_vm_when_it_is_back(
    world: World, *, is_off: bool, code: int, verdict: str, says: str
) -> None:
    """While the manager has the stop, a cycle does not end QEMU. After HA's stop, the verdict is `stranded`.

    HA keeps the request to start the VM.
    """
    under_ha(world, round=40)
    before = world.pid
    with Session(world) as session:
        tag = session.send("cycle")
        until(lambda: world.pid is None if is_off else ha_requested(world) == "stopped", "HA's part of the stop")
        kill_ha(world, LRM)
        result = session.result(tag, 120)
    assert (result["exit_code"], result["verdict"]["code"]) == (code, verdict)
    assert (world.pid, ha_requested(world)) == (None if is_off else before, "started")
    assert says in shown(result)
    systemctl(world, "start", LRM)
    until(lambda: world.pid not in (None, before), "HA's start")

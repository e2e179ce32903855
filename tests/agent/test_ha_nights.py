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
    answer = execute(world, "forensics")
    dead = "HA does nothing now, because HA's manager pve-ha-crm seems dead, silent for 3"
    assert dead in answer.stdout
    for verb, code in (("status", "qemu-running"), ("forensics", "ha-stuck")):
        verdict = execute(world, verb).trailer["verdict"]
        clause = "but HA does nothing with the VM now, because HA's manager pve-ha-crm seems dead"
        assert (verdict["code"], clause in verdict["sentence"]) == (code, True), verdict
    assert dead in shown(answer.trailer)
    assert "HA starts it again" not in shown(answer.trailer)
    assert (
        f"error: VM {VMID}: HA manages it: requested started, now started; {dead}"
        in execute(world, f"check vm={VMID}").stdout
    )
    refused = execute(world, "cycle")
    assert (refused.code, refused.trailer["verdict"]["code"], world.pid) == (12, "ha-stuck", before)
    assert "by hand: systemctl start pve-ha-crm pve-ha-lrm" in shown(refused.trailer)
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
    assert "HA does nothing now, because pve-ha-lrm of node " in shown(execute(world, "forensics").trailer)
    assert "HA does nothing with the VM now, because pve-ha-lrm of" in shown(execute(world, "status").trailer)
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
    assert "is being stopped or restarted (mode restart)" in shown(refused.trailer)
    systemctl(world, "start", LRM)
    until(lambda: ha.read_state(f"vm:{VMID}") == "started", "HA's work on it")


@pytest.mark.all
@pytest.mark.parametrize("verb", ["cycle", "stop"])
def test_what_a_dead_manager_was_asked_does_not_happen_when_it_is_back(world: World, verb: str) -> None:
    """It died a moment ago, so it got the request. Its queue keeps that until the verb removes it."""
    under_ha(world, dead=(CRM,))
    before = world.pid
    answer = execute(world, verb)
    assert (answer.code, answer.trailer["verdict"]["code"], world.pid) == (14, "ha-holds", before)
    assert "the request to stop the VM was taken back before HA read it" in shown(answer.trailer)
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
    assert "HA may still stop the VM later; then the VM stays off until you start it" in shown(trailer)


@pytest.mark.all
def test_a_request_whose_qm_was_killed_is_taken_back(world: World) -> None:
    """The OOM killer kills `qm` after its request to HA.

    If a cycle leaves the VM on, it removes its request to stop.
    """
    under_ha(world, dead=(CRM,))
    qm, before = world.bin / "qm", world.pid
    qm.write_text(qm.read_text().replace(" exec ", " ") + '[ "$1" != stop ] || kill -9 $$\n')
    answer = execute(world, "cycle")
    assert (answer.trailer["verdict"]["code"], world.pid, ha_queue(world)) == ("ha-holds", before, "")
    systemctl(world, "start", CRM)
    await_ha_rounds(world)
    assert (world.pid, ha_requested(world)) == (before, "started")


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
    assert "HA's own stop of the VM still runs (process " in shown(answer.trailer)
    assert "writes no status" not in shown(answer.trailer)
    assert "HA may stop the VM once before that" in shown(answer.trailer)
    until(lambda: world.pid not in (None, before), "HA's stop and its start")


@pytest.mark.all
def test_a_cycle_does_not_end_qemu_beside_an_lrm_that_has_died(world: World) -> None:
    """The manager took the stop, and the LRM dies in the wait. The VM is on, and stays on when the LRM is back."""
    under_ha(world, round=40)
    before = world.pid
    with Session(world) as session:
        tag = session.send("cycle")
        until(lambda: ha_requested(world) == "stopped", "the request in HA's hands")
        kill_ha(world, LRM)
        result = session.result(tag, 120)
    assert (result["exit_code"], result["verdict"]["code"], world.pid) == (14, "ha-holds", before)
    assert "it was not killed, because HA could not start it again" in shown(result)
    assert "HA may stop the VM once before that" in shown(result)
    assert ha_requested(world) == "started"
    systemctl(world, "start", LRM)
    until(lambda: world.pid not in (None, before), "HA's stop and its start")


@pytest.mark.all
def test_a_cycle_whose_lrm_dies_between_stop_and_start_is_named_stranded(world: World) -> None:
    """HA has stopped the VM and has the request to start it. HA keeps that, and starts the VM when it is back."""
    under_ha(world, round=40)
    with Session(world) as session:
        tag = session.send("cycle")
        until(lambda: world.pid is None, "HA's stop")
        kill_ha(world, LRM)
        result = session.result(tag, 120)
    assert (result["exit_code"], result["verdict"]["code"], world.pid) == (15, "stranded", None)
    assert "HA took the request and may still start it" in shown(result)
    systemctl(world, "start", LRM)
    until(lambda: world.pid is not None, "HA's start")

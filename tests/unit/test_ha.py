"""The rules of HA: which VM it manages, what it does when QEMU ends, and what a person can do about it."""

from dataclasses import replace
from typing import Any

from breakglass.agents.pve.forensics.evidence import Evidence
from breakglass.agents.pve.forensics.ha_daemons import find_dead_ha
from breakglass.agents.pve.forensics.outlook import ha_by_hand, ha_line, ha_outlook
from breakglass.agents.pve.forensics.verdict import quick_verdict, verdict_of
from breakglass.agents.pve.host.cluster import Cluster, node_name
from breakglass.agents.pve.host.vm_config import ha_drops_stop, ha_manages, ha_restarts, ha_stuck

from ..support.rows import each_row


@each_row(
    ("requested", "seen", "manages", "restarts", "stuck"),
    [
        ("", "", False, False, False),
        ("ignored", "started", False, False, False),
        ("disarmed", "error", False, False, False),
        ("started", "started", True, True, False),
        ("started", "", True, True, False),
        ("started", "request_stop", True, True, False),
        ("started", "error", True, False, True),
        ("started", "freeze", True, True, True),
        ("started", "fence", True, True, True),
        ("started", "recovery", True, True, True),
        ("started", "migrate", True, True, True),
        ("stopped", "relocate", True, False, True),
        ("stopped", "stopped", True, False, False),
        ("disabled", "stopped", True, False, False),
    ],
)
def test_what_ha_does_with_a_vm(requested: str, seen: str, manages: bool, restarts: bool, stuck: bool) -> None:
    """It depends on the requested state and on the state that HA's manager sees."""
    assert ha_manages(requested) is manages
    assert ha_restarts(requested, seen) is restarts
    assert ha_stuck(requested, seen) is stuck


@each_row(
    ("requested", "seen", "words"),
    [
        ("", "", ""),
        ("ignored", "", "HA: ignored, so it leaves the VM alone"),
        ("disarmed", "", "HA is disarmed (ignore), so it leaves every VM alone"),
        ("started", "error", "now error; HA does nothing with the VM until"),
        ("started", "freeze", "now freeze; HA leaves the VM as it is until HA is armed again"),
        ("started", "recovery", "and then starts the VM on another node that its rules allow"),
        ("stopped", "fence", "and then gives the VM to another node and leaves it stopped"),
        ("started", "migrate", "HA is moving the VM to another node, and forgets any request"),
        ("started", "started", "when QEMU ends, HA starts it again here or on another node"),
        ("stopped", "", "requested stopped, now not known; HA stops the VM if it runs, and it stays off until"),
    ],
)
def test_ha_in_one_line(requested: str, seen: str, words: str) -> None:
    """There is no line if HA does not know the VM."""
    line = ha_line(requested, seen)
    assert words in line
    assert bool(line) == bool(words)


def test_what_a_person_can_do_about_ha() -> None:
    """The lines have the commands. There are none if HA leaves the VM alone."""
    assert ha_by_hand(102, "", "") == ha_by_hand(102, "ignored", "") == ()
    [error] = ha_by_hand(102, "started", "error")
    assert "ha-manager set vm:102 --state disabled, fix the cause" in error
    [stuck] = ha_by_hand(102, "started", "fence")
    assert "wait until HA has finished" in stuck
    [direct] = ha_by_hand(102, "stopped", "stopped")
    assert "ha-manager set vm:102 --state ignored, and afterwards --state stopped" in direct


def test_a_stop_that_ha_would_forget() -> None:
    """HA forgets it during a move, or in a state in which HA accepts no stop, if HA wants the VM to run."""
    assert all(ha_drops_stop(requested, "migrate") for requested in ("started", "stopped", "disabled"))
    assert all(ha_drops_stop("started", seen) for seen in ("request_stop", "stopped", "freeze", "fence", "recovery"))
    assert not any(ha_drops_stop("started", seen) for seen in ("", "started", "error"))
    assert not any(ha_drops_stop("stopped", seen) for seen in ("started", "request_stop", "freeze", "recovery"))
    assert not ha_drops_stop("disarmed", "migrate")


@each_row(
    ("quorate", "line"),
    [
        (True, "HA sees node pve2 as online, and keeps the VM running there unless a rule, a rebalancing or a person"),
        (False, "this node has no quorum, so it can't tell what HA does with the VM"),
        (None, "HA sees node pve2 as online"),
    ],
)
def test_a_status_says_what_ha_will_do_on_the_other_node(quorate: bool | None, line: str) -> None:
    """The line is in the evidence of `other-node`. Without a quorum HA's state is old, so there is no line."""
    verdict = quick_verdict(
        Evidence("stopped", node="pve2", ha="started", ha_seen="started", node_seen="online", quorate=quorate)
    )
    assert verdict.code == "other-node"
    assert [said for said in verdict.evidence if said.startswith(line)]


# --- HA's daemons ---

NOW = 1_800_000_000.0
WELL = {"timestamp": int(NOW) - 5, "state": "active", "mode": "active"}
CRM, LRM = "HA's manager pve-ha-crm", "pve-ha-lrm of node "


def look(manager: dict[str, object], lrm: dict[str, object], seen: str = "started", **more: Any) -> str:
    """Return the text about HA's daemons with this last status, for a VM that should run."""
    view = Cluster(quorate=True, ha="started", ha_seen=seen, manager=manager, lrm=lrm)
    return find_dead_ha(replace(view, **more), NOW)


@each_row(
    ("manager", "lrm", "words"),
    [
        ({}, {}, ()),
        ({"timestamp": NOW - 180}, {"timestamp": NOW - 180}, ()),
        ({"timestamp": NOW + 180}, {"timestamp": NOW + 180}, ()),
        ({"timestamp": NOW - 324}, {}, (CRM, "seems dead, silent for 324 s")),
        ({}, {"timestamp": NOW - 324}, (LRM, "seems dead, silent for 324 s")),
        ({"timestamp": NOW - 324}, {"timestamp": NOW - 999}, (CRM, "324 s", " and pve-ha-lrm of node ", "999 s")),
        ({"timestamp": NOW + 324}, {}, (CRM, "may be dead, with a status 324 s ahead of this node's clock")),
        ({"timestamp": None}, {}, (CRM, "seems dead and has no status")),
        ({}, {"timestamp": "now"}, (LRM, "seems dead and has no status")),
        ({}, {"mode": "restart"}, (LRM, "is being stopped or restarted (mode restart)")),
        ({}, {"mode": "shutdown"}, (LRM, "(mode shutdown)")),
        ({}, {"mode": "maintenance", "state": "maintenance"}, ()),
        ({}, {"mode": "disarm"}, ()),
        ({}, {"state": "lost_agent_lock"}, (LRM, "has no lock (state lost_agent_lock)")),
        ({}, {"state": "wait_for_agent_lock"}, (LRM, "has no lock (state wait_for_agent_lock)")),
    ],
)
def test_a_daemon_of_ha_that_does_not_act(
    manager: dict[str, object], lrm: dict[str, object], words: tuple[str, ...]
) -> None:
    """The text says which one, and since when.

    A clock that differs by less than 180 s does not change the result.
    """
    told = look({**WELL, **manager}, {**WELL, **lrm})
    assert [word for word in words if word not in told] == []
    assert bool(told) == bool(words)


def test_an_idle_lrm_is_well() -> None:
    """An LRM has no lock while its node has no active service, as when a VM is off or new to HA."""
    waits: dict[str, object] = {**WELL, "state": "wait_for_agent_lock"}
    assert [look(WELL, waits, seen) for seen in ("", "stopped", "request_start", "freeze", "error")] == [""] * 5
    assert look(WELL, waits, "request_stop")


def test_dead_daemons_where_they_do_not_count() -> None:
    """They don't count if HA does not manage the VM, without a quorum, and on a node that HA's manager does not see."""
    for requested in ("", "ignored", "disarmed"):
        assert look({}, {}, ha=requested) == ""
    assert look({}, {}, quorate=False) == ""
    assert look(WELL, {}, node="pve2", node_seen="unknown") == ""
    assert "pve-ha-lrm of node pve2 " in look(WELL, {}, node="pve2", node_seen="online")
    assert CRM in look({}, {}, node="pve2", node_seen="unknown")


def test_a_daemon_that_ended_on_this_node() -> None:
    """The LRM counts for a VM of this node, and the manager where this node is its master."""
    here, there = ({**WELL, "master_node": name} for name in (node_name(), "pve2"))
    for ended, manager, words in (
        (("pve-ha-lrm",), there, (LRM, "does not run")),
        (("pve-ha-crm",), here, (CRM, "does not run on this node, which is HA's master")),
        (("pve-ha-crm", "pve-ha-lrm"), here, (CRM, " and ", LRM)),
    ):
        assert [word for word in words if word not in look(manager, WELL, ended=ended)] == []
    assert look(there, WELL, ended=("pve-ha-crm",)) == ""
    assert look(there, WELL, ended=("pve-ha-lrm",), node="pve2", node_seen="online") == ""


def test_what_is_said_of_a_dead_ha() -> None:
    """The text says what HA does not do now, what it will do when it runs again, and both commands."""
    dead = look({**WELL, "timestamp": NOW - 324}, WELL)
    running = ha_line("started", "started", dead)
    assert f"HA does nothing now, because {dead}; once HA works again, HA starts the VM if it is off" in running
    assert "when QEMU ends, HA starts it again" not in running
    assert "HA stops the VM if it runs" in ha_line("stopped", "stopped", dead)
    assert ha_line("ignored", "", dead) == "HA: ignored, so it leaves the VM alone"
    [by_hand] = ha_by_hand(102, "started", "started", dead)
    assert "systemctl start pve-ha-crm pve-ha-lrm" in by_hand
    assert "ha-manager set vm:102 --state ignored, and afterwards --state started" in by_hand
    assert "the VM stays on node pve2 as it is" in ha_outlook("started", "started", "pve2", "unknown", "", dead)


def test_no_verb_is_advised_that_a_dead_ha_would_not_do() -> None:
    """This is so for a VM that is off, that needs a cycle or that is on another node. A reset does not need HA."""
    dead = look({**WELL, "timestamp": NOW - 324}, WELL)
    known = {"ha": "started", "ha_seen": "started", "ha_dead": dead, "quorate": True, "config": True}
    stopped = verdict_of(Evidence("stopped", **known))  # type: ignore[arg-type]
    assert (stopped.code, stopped.advice) == ("ha-stuck", "")
    assert "one of its daemons does not work: run systemctl start pve-ha-crm pve-ha-lrm first" in stopped.sentence
    wedged = verdict_of(Evidence("wedged", **known))  # type: ignore[arg-type]
    assert wedged.advice == ""
    assert wedged.sentence.endswith("HA does nothing now: run systemctl start pve-ha-crm pve-ha-lrm first")
    assert all(any(dead in line for line in verdict.evidence) for verdict in (stopped, wedged))
    assert verdict_of(Evidence("guest-panicked", **known)).advice == "reset"  # type: ignore[arg-type]
    well = verdict_of(Evidence("running", agent="answers", **known))  # type: ignore[arg-type]
    clause = f", but HA does nothing with the VM now, because {dead}; run systemctl start pve-ha-crm pve-ha-lrm"
    assert (well.code, well.advice, well.sentence.endswith(clause)) == ("ha-stuck", "", True)
    quick = quick_verdict(Evidence("running", **known))  # type: ignore[arg-type]
    assert (quick.code, quick.advice, quick.sentence.endswith(clause)) == ("qemu-running", "", True)
    elsewhere = quick_verdict(Evidence("stopped", node="pve2", node_seen="unknown", **known))  # type: ignore[arg-type]
    assert [line for line in elsewhere.evidence if line.startswith(f"HA does nothing now, because {dead}")]

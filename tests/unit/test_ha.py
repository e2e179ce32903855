"""The rules of HA: which VM it manages, what it does when QEMU ends, and what a person can do about it."""

from dataclasses import replace
from typing import Any

from breakglass.agents.pve.forensics.ha_daemons import find_dead_ha
from breakglass.agents.pve.host.cluster import Cluster, node_name
from breakglass.agents.pve.host.vm_config import ha_drops_stop

from ..support.rows import each_row


def test_a_stop_that_ha_would_forget() -> None:
    """HA forgets it during a move, or in a state in which HA accepts no stop, if HA wants the VM to run."""
    assert all(ha_drops_stop(requested, "migrate") for requested in ("started", "stopped", "disabled"))
    assert all(ha_drops_stop("started", seen) for seen in ("request_stop", "stopped", "freeze", "fence", "recovery"))
    assert not any(ha_drops_stop("started", seen) for seen in ("", "started", "error"))
    assert not any(ha_drops_stop("stopped", seen) for seen in ("started", "request_stop", "freeze", "recovery"))
    assert not ha_drops_stop("disarmed", "migrate")


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

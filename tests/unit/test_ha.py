"""The rules of HA: which VM it manages, what it does when QEMU ends, and what a person can do about it."""

import pytest

from breakglass.agents.pve.forensics.evidence import Evidence
from breakglass.agents.pve.forensics.outlook import ha_by_hand, ha_line
from breakglass.agents.pve.forensics.verdict import quick_verdict
from breakglass.agents.pve.host.ha import ha_drops_stop, ha_manages, ha_restarts, ha_stuck


@pytest.mark.parametrize(
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
    """By the requested state and the one that its manager sees."""
    assert ha_manages(requested) is manages
    assert ha_restarts(requested, seen) is restarts
    assert ha_stuck(requested, seen) is stuck


@pytest.mark.parametrize(
    ("requested", "seen", "words"),
    [
        ("", "", ""),
        ("ignored", "", "HA: ignored, so it leaves the VM alone"),
        ("disarmed", "", "HA is disarmed (ignore): it leaves every VM alone"),
        ("started", "error", "now error; HA does nothing with the VM until"),
        ("started", "freeze", "now freeze; HA leaves the VM as it is until HA is armed again"),
        ("started", "recovery", "and then starts the VM on another node that its rules allow"),
        ("stopped", "fence", "and then gives the VM to another node and leaves it stopped"),
        ("started", "migrate", "HA is moving the VM to another node, and forgets a request"),
        ("started", "started", "when QEMU ends, HA starts it again here or on another node"),
        ("stopped", "", "requested stopped, now not known; HA stops the VM if it runs, and it stays off until"),
    ],
)
def test_ha_in_one_line(requested: str, seen: str, words: str) -> None:
    """Nothing where HA does not know the VM."""
    line = ha_line(requested, seen)
    assert words in line
    assert bool(line) == bool(words)


def test_what_a_person_can_do_about_ha() -> None:
    """Lines with the commands; none where HA leaves the VM alone."""
    assert ha_by_hand(102, "", "") == ha_by_hand(102, "ignored", "") == ()
    [error] = ha_by_hand(102, "started", "error")
    assert "ha-manager set vm:102 --state disabled, mend the cause" in error
    [stuck] = ha_by_hand(102, "started", "fence")
    assert "wait until HA has finished" in stuck
    [direct] = ha_by_hand(102, "stopped", "stopped")
    assert "ha-manager set vm:102 --state ignored, and afterwards --state stopped" in direct


def test_a_stop_that_ha_would_forget() -> None:
    """During a move, and, for a VM that HA wants to run, in each state in which HA takes no request to stop."""
    assert all(ha_drops_stop(requested, "migrate") for requested in ("started", "stopped", "disabled"))
    assert all(ha_drops_stop("started", seen) for seen in ("request_stop", "stopped", "freeze", "fence", "recovery"))
    assert not any(ha_drops_stop("started", seen) for seen in ("", "started", "error"))
    assert not any(ha_drops_stop("stopped", seen) for seen in ("started", "request_stop", "freeze", "recovery"))
    assert not ha_drops_stop("disarmed", "migrate")


@pytest.mark.parametrize(
    ("quorate", "line"),
    [
        (True, "HA sees node pve2 as online, and keeps the VM running there unless a rule, a rebalancing or a person"),
        (False, "this node has no quorum, so it can't tell what HA does with the VM"),
        (None, "HA sees node pve2 as online"),
    ],
)
def test_a_status_says_what_ha_will_do_on_the_other_node(quorate: bool | None, line: str) -> None:
    """The line is among the evidence of `other-node`; without a quorum HA's state is old, and nothing is foretold."""
    verdict = quick_verdict(
        Evidence("stopped", node="pve2", ha="started", ha_seen="started", node_seen="online", quorate=quorate)
    )
    assert verdict.code == "other-node"
    assert [said for said in verdict.evidence if said.startswith(line)]

"""The rules of HA: which VM it manages, what it does when QEMU ends, and what a person can do about it."""

import pytest

from breakglass.agents.pve.host.ha import ha_by_hand, ha_line, ha_manages, ha_restarts, ha_stuck


@pytest.mark.parametrize(
    ("requested", "seen", "manages", "restarts", "stuck"),
    [
        ("", "", False, False, False),
        ("ignored", "started", False, False, False),
        ("disarmed", "error", False, False, False),
        ("started", "started", True, True, False),
        ("started", "", True, True, False),
        ("started", "request_stop", True, False, False),
        ("started", "error", True, False, True),
        ("started", "freeze", True, True, True),
        ("started", "fence", True, True, True),
        ("started", "recovery", True, True, True),
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
        ("started", "freeze", "now freeze; HA does nothing with the VM in this state"),
        ("started", "started", "when QEMU ends, HA starts it again here or on another node"),
        ("stopped", "", "requested stopped, now not known; the VM stays off until"),
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
    assert "wait until HA has finished with the node" in stuck
    [direct] = ha_by_hand(102, "stopped", "stopped")
    assert "ha-manager set vm:102 --state ignored, and afterwards --state stopped" in direct

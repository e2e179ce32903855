"""A host's why and its cure, as the handler passes them on: what an attacker on the host can make of them."""

from typing import Any

import pytest

from breakglass.base.cures import read_verdicts


def read(**verdict: object) -> dict[str, Any]:
    """Return what the handler makes of these fields of a host's verdict on VM 102, which host pve1 sent."""
    found: Any = read_verdicts({"verdict": verdict}, 102, "pve1")["verdict"]
    return dict(found)


def cure(code: str, command: str) -> dict[str, str]:
    return {"code": code, "place": "pve1", "command": command}


@pytest.mark.parametrize(
    ("fix", "answer"),
    [
        ({"code": "continue-qemu", "pid": 147212}, cure("continue-qemu", "kill -CONT 147212")),
        ({"code": "unlock", "vmid": 101, "command": "rm -rf /", "place": "x"}, cure("unlock", "qm unlock 102")),
        ({"code": "thaw", "pid": "; reboot"}, cure("thaw", "qm guest cmd 102 fsfreeze-thaw")),
        *(
            ({"code": "continue-qemu", "pid": pid}, None)
            for pid in (None, "1; reboot", "147212", True, 1, 0, -1, 2**22 + 1, 5.0, [5], {"pid": 5})
        ),
        ({"code": "see-volumes", "storage": "local-lvm"}, cure("see-volumes", "pvesm list local-lvm")),
        *(
            ({"code": "see-volumes", "storage": name}, None)
            for name in (None, "", "-h", "a b", "a;reboot", "a\n", "$(reboot)", "x" * 101, 5, ["local"])
        ),
        ({"code": "later-than-this"}, None),
        ({"code": ["unlock"]}, None),
        ("unlock", None),
        (None, None),
    ],
)
def test_a_command_is_made_from_a_code_alone(fix: object, answer: object) -> None:
    """The request names the VM, the place is the host that answered, and free text is never in it."""
    assert read(fix=fix)["fix"] == answer


@pytest.mark.parametrize(
    ("why", "shown"),
    [
        ("a disk request\nhung\x1b[2J", "a disk request hung [2J"),
        ("\u202eevil", "evil"),
        ("x" * 100_000, "x" * 110),
        (5, ""),
        (None, ""),
    ],
)
def test_a_why_is_one_short_line(why: object, shown: str) -> None:
    """Nothing that a terminal obeys or that reorders what is read."""
    assert read(why=why)["why"] == shown


def test_each_job_of_a_history_is_read_the_same() -> None:
    """A history has verdicts as well; what is no object stays as it is."""
    job = {"id": "msg_1", "verdict": {"fix": {"code": "unlock", "command": "reboot"}}}
    found: Any = read_verdicts({"verdict": None, "jobs": [job, 5], "whole_job": job}, 102, "pve1")
    assert found["jobs"][0]["verdict"]["fix"] == found["whole_job"]["verdict"]["fix"] == cure("unlock", "qm unlock 102")
    assert (found["jobs"][1], found["verdict"]) == (5, None)

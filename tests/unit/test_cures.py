"""The reason and the fix in a host's verdict, as the handler passes them on, even if an attacker wrote them."""

from typing import Any

from breakglass.base.cures import read_verdicts

from ..support.rows import each_row


def read(**verdict: object) -> dict[str, Any]:
    """Return the handler's verdict on VM 102 from these fields, which host pve1 sent."""
    found: Any = read_verdicts({"verdict": verdict}, 102, "pve1")["verdict"]
    return dict(found)


def cure(code: str, command: str) -> dict[str, str]:
    return {"code": code, "place": "pve1", "command": command}


@each_row(
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
    """The command has the request's VM and the answering host, and never free text of the host."""
    assert read(fix=fix)["fix"] == answer


@each_row(
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
    """It has no control characters of terminals, and none that reorder text."""
    assert read(why=why)["why"] == shown


@each_row(
    ("told", "named"),
    [
        *((name, name) for name in ("devvm", "a", "DB.example.org", "x" * 253, "")),
        *((name, None) for name in (None, 5, ["a"], "a b", "<b>", "-a", "a-", "a\n", "a\u202e", "é", "x" * 254)),
    ],
)
def test_a_name_is_one_that_proxmox_allows(told: object, named: object) -> None:
    """Any other text of a host is no name. If another name is wanted, it is another VM all the same."""
    assert read_verdicts({"proxmox_name": told}, 102, "pve1")["proxmox_name"] == named
    seen: Any = read_verdicts({"proxmox_name": told, "verdict": {}, "outcome": "done"}, 102, "pve1", "other")
    assert seen.get("warnings") if not isinstance(told, str) else seen["verdict"]["code"] == "wrong-vm"


def test_each_job_of_a_history_is_read_the_same() -> None:
    """The jobs' verdicts in a history are read in the same way. A value that is not an object is left unchanged."""
    job = {"id": "msg_1", "verdict": {"fix": {"code": "unlock", "command": "reboot"}}}
    found: Any = read_verdicts({"verdict": None, "jobs": [job, 5], "whole_job": job}, 102, "pve1")
    assert found["jobs"][0]["verdict"]["fix"] == found["whole_job"]["verdict"]["fix"] == cure("unlock", "qm unlock 102")
    assert (found["jobs"][1], found["verdict"]) == (5, None)

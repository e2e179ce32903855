"""The short reason for each verdict of a host, the command that fixes the problem, and the VM's name there. Pure.

A host sends a fix as a code with a number or the name of a storage, and the command is built here, because text from a
compromised host must never become a command that a person copies into root's shell.
"""

import re
from collections.abc import Mapping

from ..agents.pve.words import WRONG_NAME
from .text import plain_line, shown

_WHY_CHARS = 110
# the names that Proxmox allows for a VM, which may also have none
PROXMOX_NAME = re.compile("(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?)?")
_MOST_PID = 2**22
_OF_STATE = ("state", "last", "holder", "verdict", "heartbeat", "proxmox_name")
_OF_GUEST = {"heartbeat", "screen_png", "screen_text", "guest"}  # fields of a result that describe a guest
_STORAGE = re.compile("[A-Za-z][A-Za-z0-9._-]{0,99}")  # the names that Proxmox allows
COMMANDS = {
    "continue-qemu": "kill -CONT {pid}",
    "end-leftover": "kill {pid}",
    "thaw": "qm guest cmd {vmid} fsfreeze-thaw",
    "unlock": "qm unlock {vmid}",
    "restart-pmxcfs": "systemctl restart pve-cluster",
    "start-ha": "systemctl start pve-ha-crm pve-ha-lrm",
    "see-ha": "ha-manager status",
    "see-quorum": "pvecm status",
    "see-volumes": "pvesm list {storage}",
    "see-storages": "pvesm status",
    "see-bridges": "ip -br link show type bridge",
}


def read_verdicts(result: Mapping[str, object], vmid: int, place: str, wanted: str = "") -> dict[str, object]:
    """Return a host's result with the VM's name, and the `why` and `fix` of each verdict as docs/openapi.yaml has them.

    Args:
        result: the result as the host sent it. It has a verdict and may have jobs with verdicts.
        vmid: the number of the requested VM, which the host does not choose.
        place: the name of the host that answered.
        wanted: the name that the VM must have on Proxmox, if any.
    """
    found = _read_own(result, vmid, place)
    jobs, job = found.get("jobs"), found.get("whole_job")
    if isinstance(jobs, list):
        found["jobs"] = [_read_own(each, vmid, place) if isinstance(each, dict) else each for each in jobs]
    if isinstance(job, dict):
        found["whole_job"] = _read_own(job, vmid, place)
    return _check_name(found, vmid, wanted)


def _check_name(result: Mapping[str, object], vmid: int, wanted: str) -> dict[str, object]:
    """Return a host's result with the VM's name as docs/openapi.yaml has it: None if the host did not tell a valid one.

    If another name is wanted, a result that describes the VM becomes the verdict `wrong-vm`. A power verb needs no
    change here, because the host agent has refused it. A result without a verdict gets a warning. If the name is not
    known, a warning says that it was not compared.
    """
    told = result.get("proxmox_name")
    found = {**result, "proxmox_name": told if isinstance(told, str) and PROXMOX_NAME.fullmatch(told) else None}
    if wanted in ("", told):
        return found
    known = warnings if isinstance(warnings := result.get("warnings"), list) else []
    if not isinstance(told, str):
        said = f'the host did not tell the name of VM {vmid} on Proxmox, so it was not compared with "{wanted}"'
        return {**found, "warnings": [*known, said]} if result.get("outcome") in ("done", "failed") else found
    sentence = WRONG_NAME.format(vmid, shown(told), wanted)
    if not isinstance(result.get("verdict"), dict) and "screen_png" not in result:
        return {**found, "warnings": [*known, sentence]}
    verdict = {"code": "wrong-vm", "sentence": sentence, "advice": "", "evidence": []}
    return {**found, "verdict": verdict, "state": "unknown", **dict.fromkeys(_OF_GUEST & found.keys())}


def read_states(result: Mapping[str, object], names: Mapping[int, Mapping[str, str]], place: str) -> object:
    """Return the states that a host told of these VMs, each with its VM's name; None if the host told none.

    `names` has by number each VM's name and the name that it must have on Proxmox, if any. A host that repeats a number
    is not believed twice.
    """
    states, left = result.get("states"), dict(names)
    if not isinstance(states, list):
        return None
    found: list[dict[str, object]] = []
    for state in (each for each in states if isinstance(each, dict) and type(each.get("vm")) is int):
        own = _read_own(state, state["vm"], place)
        for name, wanted in left.pop(state["vm"], {}).items():
            told = _check_name(own, state["vm"], wanted)
            found.append({"vm": name, **{field: told.get(field) for field in _OF_STATE}})
    return found


def _read_own(fields: Mapping[str, object], vmid: int, place: str) -> dict[str, object]:
    verdict = fields.get("verdict")
    if not isinstance(verdict, dict):
        return dict(fields)
    why = verdict.get("why")
    short = plain_line(why[: 4 * _WHY_CHARS])[:_WHY_CHARS] if isinstance(why, str) else ""
    return {**fields, "verdict": {**verdict, "why": short, "fix": _read_fix(verdict.get("fix"), vmid, place)}}


def _read_fix(fix: object, vmid: int, place: str) -> dict[str, object] | None:
    """Return the code, the host and the command; None for a code that is not known or lacks what it needs."""
    code = fix.get("code") if isinstance(fix, dict) else None
    if not isinstance(fix, dict) or not isinstance(code, str) or code not in COMMANDS:
        return None
    pid, storage, command = fix.get("pid"), fix.get("storage"), COMMANDS[code]
    if "{pid}" in command and not (type(pid) is int and 1 < pid <= _MOST_PID):
        return None
    if "{storage}" in command and not (isinstance(storage, str) and _STORAGE.fullmatch(storage)):
        return None
    return {"code": code, "place": place, "command": command.format(pid=pid, storage=storage, vmid=vmid)}

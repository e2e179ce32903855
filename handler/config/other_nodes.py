"""Adds a VM's other nodes to an answer, if the VM's node is down or a stale copy runs elsewhere.

A stale copy is a QEMU process of the VM on a node that does not have the VM. In that case, proxmox/places.py decides
which host gets a verb, and which verb is refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..agents.pve.words import FAILED, OUTCOMES, STALE_COPY
from .model import Host, kill_by_hand

_WOULD_DOUBLE = ("start", "cycle")  # verbs that are refused while a copy runs
_LOST = " (which has no quorum, or no /etc/pve)"


class HasHost(Protocol):
    """Something that belongs to a host, such as its connection."""

    @property
    def host(self) -> Host:
        """That host."""


class Place(Protocol):
    """What a host says about where a VM is."""

    @property
    def host(self) -> HasHost:
        """The host's connection."""

    @property
    def sure(self) -> bool:
        """Whether the host's node is in contact with its cluster."""


@dataclass(frozen=True)
class OtherNodes:
    """What is known about the nodes of a VM.

    Attributes:
        vmid: the VM's number.
        home: the node that has the VM, according to a node with quorum; otherwise empty.
        copies: the answers of the hosts with a stale copy.
        running: the answers of all hosts with a QEMU process of the VM.
    """

    vmid: int = 0
    home: str = ""
    copies: Sequence[Place] = ()
    running: Sequence[Place] = ()

    @property
    def double(self) -> str:
        """The problem if there are copies, otherwise an empty text."""
        names = " and on ".join(_name(one) + ("" if one.sure else _LOST) for one in self.copies)
        where = f"a QEMU of VM {self.vmid} still runs on {names}, but the VM's configuration is on node {self.home}"
        return where if names else ""

    @property
    def refusal(self) -> tuple[str, str, str]:
        """The cause, reason and hint for refusing a verb that could make the VM run twice."""
        hint = "run the command in by_hand" if self._own else "send stop, which acts on that node, or use by_hand"
        return STALE_COPY, f"{self.double}; {self._do_first}", f"{hint}; then send the verb again"

    @property
    def _own(self) -> str:
        """The host of the VM's own node if the VM runs there too, because `stop` would end that QEMU."""
        return next((_name(one) for one in self.running if one not in self.copies), "")

    @property
    def _do_first(self) -> str:
        if self._own:
            return f"end that QEMU by hand, because a stop would end the one on {self._own} first"
        return "send stop first"

    @property
    def by_hand(self) -> list[str]:
        """The commands that end the copies."""
        return [kill_by_hand(one.host.host, self.vmid) for one in self.copies]

    def add_by_hand(self, body: Mapping[str, object]) -> Mapping[str, object]:
        """Return an answer for a request that was not sent, with the commands that end the copies."""
        return {**body, "by_hand": self.by_hand} if self.copies else body

    def add_to(self, body: Mapping[str, object], trouble: str) -> Mapping[str, object]:
        """Return an answer with the problems on other nodes. `trouble` is why the VM's own host did not answer."""
        if trouble:
            body = _with_trouble(body, trouble)
        if not self.copies:
            return body
        if body["verb"] in ("status", "forensics") and not trouble:
            return self._with_verdict(body)
        warned = {**body, "warnings": [*_items(body["warnings"]), self.double]}
        verdict = body["verdict"]
        if isinstance(verdict, dict) and verdict.get("advice") in _WOULD_DOUBLE:
            warned["verdict"] = {**verdict, "advice": ""}
        return warned

    def _with_verdict(self, body: Mapping[str, object]) -> Mapping[str, object]:
        """Return the answer to a read of the VM, with the copies as its verdict.

        If the VM's own node has no QEMU process, the state and the last job there do not describe the running copy.
        """
        found = body["verdict"] if isinstance(body["verdict"], dict) else {}
        evidence: list[object] = [f"by hand, to end it: {line}" for line in self.by_hand]
        evidence += [f"on node {self.home}: {found['sentence']}"] if found.get("sentence") else []
        evidence += _items(found.get("evidence"))
        unsaid = {"state": "unknown", "last": None} if body["state"] == "stopped" else {}
        verdict = {
            "code": STALE_COPY,
            "sentence": f"{self.double}; {self._do_first}",
            "advice": "",
            "evidence": evidence,
        }
        return {**body, **unsaid, "verdict": verdict}

    def prove_stop(self, trailer: Mapping[str, object], host: str) -> dict[str, object]:
        """Return the result of a `stop` on one host. It is `failed` if another host has a QEMU process of the VM."""
        others = [_name(one) for one in self.running if _name(one) != host]
        if not others:
            return dict(trailer)
        names = " and on ".join(others)
        what = f"the VM was stopped on {host}, but another QEMU of it runs on {names}"
        sentence = f"{what}; send stop again under a new id"
        verdict = {"code": STALE_COPY, "sentence": sentence, "advice": "stop", "evidence": []}
        return {**trailer, "outcome": OUTCOMES[FAILED], "exit_code": FAILED, "state": "unknown", "verdict": verdict}


def explain_claim(claims: Sequence[Place]) -> tuple[str, str]:
    """Return the reason and the hint if hosts claim to know an id that they can't know."""
    who = ", ".join(map(_name, claims))
    hint = f'if you sent this id before, send it with "again": true; if not, {who} may be in an attacker\'s hands'
    return f"{who} says that it knows this id, but is not known to have the VM", hint


def _name(place: Place) -> str:
    return place.host.host.name


def _with_trouble(body: Mapping[str, object], trouble: str) -> Mapping[str, object]:
    """Return an answer whose verdict also says why the VM's own host did not answer."""
    verdict = body["verdict"]
    if not isinstance(verdict, dict):
        return body
    lead = f"{trouble.split()[0]} is unreachable" if " since " in trouble else trouble
    evidence = [*_items(verdict["evidence"]), trouble]
    changed = {"sentence": f"{lead}; {verdict['sentence']}", "evidence": evidence, "why": ""}
    return {**body, "verdict": {**verdict, **changed}}


def _items(value: object) -> list[object]:
    return value if isinstance(value, list) else []

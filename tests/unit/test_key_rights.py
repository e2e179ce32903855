"""What a key may send: the host agent's checks of one line, before anything is read or started for it."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from breakglass.agents.pve.grammar import parse_line
from breakglass.agents.pve.host.paths import Host, Key, boottime
from breakglass.agents.pve.jobs.store import JobStore
from breakglass.agents.pve.reading.reads import Message
from breakglass.agents.pve.serving import serve
from breakglass.agents.pve.serving.serve import check_request, complete_request, name_vm
from breakglass.agents.pve.serving.session import Session, opens_session
from breakglass.agents.pve.vm_list import parse_vm_list

from ..support.rows import each_row
from ..support.stages import until

POWER = Key(parse_vm_list("102,104"), root="/nowhere")
READING = replace(POWER, read_only=True)
ONE = replace(POWER, vms=parse_vm_list("102"))
LINES = {
    "reset vm=102": ("", "read-only-key"),
    "status vm=102": ("", ""),
    "status vm=103": ("wrong-vm", "wrong-vm"),
    "status": ("wrong-vm", "wrong-vm"),
    "stop": ("wrong-vm", "wrong-vm"),
    "status vm=102 by=anna": ("", "agent-refused"),
    "forensics vm=102 id=msg_12345678": ("", "agent-refused"),
    "job vm=102 id=msg_12345678": ("", ""),
    "where vm=102 id=msg_12345678": ("", ""),
    "screen vm=102": ("", "agent-refused"),
    "check vm=105": ("wrong-vm", "wrong-vm"),
    "check": ("", "agent-refused"),
    "ping": ("", ""),
    "states": ("", "agent-refused"),
    "session": ("agent-refused", "agent-refused"),
}


def refusal(key: Key, line: str) -> tuple[str, str, str]:
    """Return the code of the verdict, the stream of the line that says why, and that line."""
    messages = list(check_request(key, name_vm(key, parse_line(line))) or [])
    if not messages:
        return "", "", ""
    said, result = messages
    verdict = result["verdict"]
    assert isinstance(verdict, dict)
    return verdict["code"], str(said["stream"]), str(said["text"])


@each_row("line", LINES)
def test_each_line_is_for_the_keys_that_may_send_it(line: str) -> None:
    """A reading key changes no power and has no words of the handler. A key serves its own VMs only."""
    assert (refusal(POWER, line)[0], refusal(READING, line)[0]) == LINES[line]


def test_a_refused_power_verb_asks_for_an_approval() -> None:
    """The terminal of claude reads that line of stdout. Any other refusal is a sentence on stderr."""
    assert refusal(READING, "reset vm=102")[1:] == ("stdout", "approval-required: reset\n")
    code, stream, text = refusal(POWER, "reset vm=103")
    assert (code, stream, "102,104" in text, "103" in text) == ("wrong-vm", "stderr", True, True)


def test_a_line_may_omit_the_only_vm() -> None:
    """A `check` without a number is about the host."""
    assert [name_vm(ONE, parse_line(line)).vm for line in ("reset", "check", "check vm=102")] == [102, None, 102]
    assert name_vm(POWER, parse_line("reset")).vm is None


def test_a_request_is_completed() -> None:
    """It gets an id and a caller. A reading key may not take a capture each second."""
    by_hand = complete_request(POWER, parse_line("forensics vm=102 fresh=5"), "0123abcd")
    assert (by_hand.id, by_hand.by, by_hand.fresh) == ("forensics-0123abcd", "by-hand", 5)
    named = replace(READING, name="claude")
    read = [complete_request(key, parse_line("forensics vm=102"), "0123abcd") for key in (READING, named)]
    assert [(each.by, each.fresh) for each in read] == [("read-only", 60), ("claude", 60)]
    full = complete_request(named, parse_line("forensics vm=102 id=msg_12345678 by=anna fresh=90"), "0123abcd")
    assert (full.id, full.by, full.fresh) == ("msg_12345678", "anna", 90)


def test_the_agent_needs_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a check and a ping work without root, because they say so. A root of the tests needs no root."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    real = replace(POWER, root="")
    lines = ("status vm=102", "reset vm=102", "ping", "check vm=102")
    assert [refusal(real, line)[0] for line in lines] == ["agent-failed", "agent-failed", "", ""]
    assert refusal(POWER, "status vm=102")[0] == ""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert refusal(real, "status vm=102")[0] == ""


def test_the_first_stage_names_the_deadline() -> None:
    message: Message = {"stage": "stop", "deadline": 240.0}
    lines = [serve.format_stage(message, first=first) for first in (True, False)]
    assert (lines[0].startswith("stage: stop, "), "240 s" in lines[0], lines[1]) == (True, True, "stage: stop")


# --- a session ---


@each_row(
    ("line", "opens"),
    [("session", True), ("session vm=102", True), ("session vm=103", False), ("status vm=102", False), ("x", False)],
)
def test_a_session_is_opened_by_its_word(line: str, opens: bool) -> None:
    """`vm=` may name one of the key's VMs."""
    assert opens_session(POWER, line) is opens


def test_a_session_has_few_urgent_requests_and_more_reads() -> None:
    """A request beyond these numbers is refused at once, and power verbs do not wait behind reads."""
    session = Session(POWER, "")
    os.set_blocking(1, True)  # pytest writes to it, too
    for number in range(2001, 2258):
        session._queue(f"{number} reset vm=102")
    for number in range(1, 1026):
        session._queue(f"{number} status vm=102")
    said = [json.loads(line) for line in bytes(session._unsent).splitlines()]
    assert [(each["tag"], each["exit_code"]) for each in said if each["type"] == "result"] == [
        ("2257", 13),
        ("1025", 13),
    ]
    assert (len(session._reads), len(session._urgent)) == (1024, 256)
    for unsent, is_open in ((2**25 - 100, True), (2**25, False)):
        session._unsent = bytearray(unsent)
        session._send("1", {})
        assert session._open is is_open


def test_a_new_id_starts_a_job_and_a_known_one_follows_it(tmp_path: Path) -> None:
    """A refused or late line starts nothing, and neither does a host whose /run can't be written."""
    said: list[tuple[str, object, object]] = []

    def send(tag: str, message: Message) -> None:
        if message["type"] == "result":
            said.append((tag, message["exit_code"], message.get("attached")))

    for root, tag, line, waited in (
        (tmp_path, "new", "reset vm=102 id=msg_12345678", 19),
        (tmp_path, "known", "reset vm=102 id=msg_12345678", 21),
        (tmp_path, "late", "reset vm=102 id=msg_87654321", 21),
        (tmp_path, "wrong", "reset vm=103 id=msg_87654321", 0),
        (Path("/dev/null"), "failed", "reset vm=102 id=msg_87654321", 0),
    ):
        agent = serve.Agent(replace(POWER, root=str(root)), "", send)
        agent.submit(tag, line, boottime() - waited)
        while agent.tasks:
            agent.poll(set())
    assert said == [
        ("new", 12, False),
        ("known", 12, True),
        *((tag, 12, None) for tag in ("late", "wrong")),
        ("failed", 13, None),
    ]
    [record] = (store := JobStore(Host(102, str(tmp_path)))).records()
    until(lambda: not store.processes(record), "the end of the job")

"""Proposals and their approval, and conversations that continue in the terminal.

A script stands in for claude; sshd, the host agent and QEMU are real.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from breakglass.cli.conversation import CHECK
from breakglass.cli.terminal_text import CHECK_PROMPT

from ..support.chat_terminal import typed
from ..support.model import Model
from ..support.scripted_claude import ScriptedClaude
from ..support.sshd import Sshd
from ..support.talk import PATIENT, Talker, bash, fake

pytestmark = [pytest.mark.real("sshd"), pytest.mark.slow]

APPROVED = r"reset: operator approved .*: done"
WHY = "Its disk hangs."
PROPOSES = fake({"text": WHY, **bash("pve reset")}, {"text": "It needs your approval."})


@pytest.fixture(scope="module")
def talker(claude: ScriptedClaude, model: Model, shared_sshd: Sshd, directory: Path) -> Iterator[Talker]:
    with Talker(directory, model, chat=claude.chat, host=shared_sshd, patched=PATIENT) as talker:
        talker.answering()
        yield talker


def jobs(talker: Talker) -> list[str]:
    """Return the ids of the jobs that the host knows, newest first."""
    return [job["id"] for job in talker.pve("history").json["jobs"]]


def test_a_proposal_is_approved_by_a_signed_verb(talker: Talker) -> None:
    """The read-only key may not reset. The operator may, once, under the proposal's id. claude then gets the outcome.

    If two proposals are for the same state, only the first approved one acts.
    """
    before = jobs(talker)
    asks = {"text": WHY, **bash("pve reset")}
    first = talker.chat(fake(asks, bash("pve reset"), {"text": "It needs a yes."}))
    approval, older = [event for event in first if event["type"] == "approval"]
    assert (approval["verb"], approval["vm"], approval["why"]) == ("reset", "devvm", WHY)
    assert jobs(talker) == before

    second = talker.chat("Wait.", session=first[0]["session"])
    assert "not approved" in talker.calls[-1][0]
    for _ in range(2):
        assert talker.pve("reset", msg_id=approval["job"], if_last=approval["last"]).json["outcome"] == "done"
    spent = talker.pve("reset", msg_id=older["job"], if_last=older["last"]).json
    assert (spent["outcome"], spent["verdict"]["code"]) == ("refused", "last-differs")
    assert spent["verdict"]["sentence"].startswith("operator sent reset ")
    done = [job["id"] for job in talker.pve("history").json["jobs"] if job["outcome"] == "done"]
    assert [job for job in done if job not in before] == [approval["job"]]

    talker.chat("And now?", session=second[0]["session"])
    assert re.search(APPROVED, talker.calls[-1][0])


@pytest.mark.all
def test_a_proposal_is_asked_about_until_it_is_approved(talker: Talker) -> None:
    """It is asked about again after its terminal has gone, until the host knows its job.

    Then claude checks once, with the outcome that the handler looked up, under an id that is made from the job's id.
    """
    before = jobs(talker)
    typed(talker, PROPOSES)
    turns = len(talker.calls)
    code, seen = typed(talker, "y", options=("--resume",))
    assert code == 0
    assert (f"{WHY}\n$ pve reset\n\n(" in seen, f": {WHY})\n" in seen) == (True, True)
    assert "run reset on devvm? y/N" in seen
    assert "only read)\ndone\n" in seen
    [job] = [job for job in jobs(talker) if job not in before]
    [[prompt, *_]] = talker.calls[turns:]
    assert re.search(APPROVED, prompt)
    assert prompt.endswith(CHECK_PROMPT)
    [newest, *_] = talker.ask(list=True).json["sessions"]
    with talker.open(session=newest["session"], replay=True) as stream:
        stream.until("turn", turn=f"{CHECK}{job}", tools="host")
    _, seen = typed(talker, options=("--resume",))
    assert (f"\n> {CHECK_PROMPT}\ndone\n" in seen, "y/N" in seen) == (True, False)

    typed(talker, PROPOSES)
    [newest, *_] = talker.ask(list=True).json["sessions"]
    with talker.open(session=newest["session"], replay=True) as stream:
        approval = stream.until("approval")
    sent = talker.pve("reset", caller="operator2", msg_id=approval["job"], if_last=approval["last"])
    assert sent.json["outcome"] == "done"
    _, seen = typed(talker, options=("--resume",))
    assert ("approved by operator2" in seen, "y/N" in seen) == (True, False)


@pytest.mark.all
def test_conversations_are_listed_and_continued_by_number(talker: Talker) -> None:
    """The list is of this caller only, newest first. A wrong number is a usage error with the command for the list."""
    talker.chat("Of another caller.", caller="operator2")
    typed(talker, "Is it\tsafe?")
    typed(talker, "What happened before?")
    code, seen = typed(talker, options=("--list",))
    first, second, *_ = [line.split(maxsplit=4) for line in seen.splitlines()]
    assert (code, first[0], first[3:]) == (0, "1", ["devvm", "What happened before?"])
    assert (second[0], second[3:]) == ("2", ["devvm", "Is it safe?"])
    assert "another caller" not in seen
    code, seen = typed(talker, "And now?", options=("--resume", "2"))
    assert "\n> Is it\tsafe?\ndone\n" in seen
    assert typed(talker, options=("--list",))[1].splitlines()[0].endswith("Is it safe?")  # now the newest
    for wrong in ("0", "101", "x"):
        code, seen = typed(talker, options=("--resume", wrong))
        assert (code, f'no conversation "{wrong}"' in seen, "chat --list" in seen) == (2, True, True)


def test_only_the_hosts_refusal_is_a_proposal(talker: Talker) -> None:
    """Another command with the same output is no proposal, and each proposal has its own id."""
    liar = bash("echo approval-required: reset")
    events = talker.chat(fake(liar, bash("pve reset"), bash("pve reset"), {"text": "fin"}))
    assert len({event["job"] for event in events if event["type"] == "approval"}) == 2
    assert [event["ok"] for event in events if event["type"] == "tool_result"] == [True, False, False]

"""Conversations that continue in the terminal: by claude after an approved verb, and by the operator another time.

A turn gets the host's verbs and makes proposals.

A script stands in for claude; sshd, the host agent and QEMU are real.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from breakglass.cli.conversation import CHECK
from breakglass.cli.terminal_text import CHECK_PROMPT

from ..support.chat_terminal import seen_until, terminal
from ..support.chat_terminal import typed_here as typed
from ..support.model import Model
from ..support.scripted_claude import ScriptedClaude
from ..support.service import READ
from ..support.sshd import Sshd
from ..support.talk import PATIENT, Talker, bash, fake

pytestmark = [pytest.mark.real("sshd"), pytest.mark.slow]

PROPOSES = fake({"text": "Its disk hangs.", **bash("pve reset")}, {"text": "It needs your approval."})


@pytest.fixture(scope="module")
def claude(directory: Path) -> ScriptedClaude:
    return ScriptedClaude(directory)


@pytest.fixture(scope="module")
def talker(claude: ScriptedClaude, model: Model, shared_sshd: Sshd, directory: Path) -> Iterator[Talker]:
    with Talker(directory, model, chat=claude.chat, host=shared_sshd, patched=PATIENT) as talker:
        talker.answering()
        yield talker


@pytest.fixture(autouse=True)
def _plays_prompts(claude: ScriptedClaude) -> None:
    claude.play_prompts()


def jobs(talker: Talker) -> list[str]:
    """Return the ids of the jobs that the host knows, newest first."""
    return [job["id"] for job in talker.pve("history").json["jobs"]]


@pytest.mark.all
def test_after_an_approved_verb_claude_checks(talker: Talker, claude: ScriptedClaude) -> None:
    """It checks once, without being asked, with the outcome that the handler looked up.

    The id of the check is made from the id of the job.
    """
    before, turns = jobs(talker), len(talker.calls)
    code, seen = typed(talker, PROPOSES, "y")
    assert code == 0
    assert "$ pve reset\n\n(claude proposes reset on devvm: Its disk hangs.)\n" in seen  # and no failed command
    assert "(claude checks the VM, and can only read)\ndone\n" in seen
    [job] = [job for job in jobs(talker) if job not in before]
    assert job.startswith("job_")
    [_, [prompt, *_]] = talker.calls[turns:]
    assert "You proposed reset: operator approved it, and it ended: done" in prompt
    assert prompt.endswith(CHECK_PROMPT)
    [newest, *_] = talker.ask(list=True).json["sessions"]
    with talker.open(session=newest["session"], replay=True) as stream:
        stream.until("turn", turn=f"{CHECK}{job}", tools="host")


@pytest.mark.all
def test_an_open_proposal_is_asked_about_again(talker: Talker) -> None:
    """The proposal is asked about again after its terminal has gone, until the host knows its job."""
    before = jobs(talker)
    typed(talker, PROPOSES)
    _, seen = typed(talker, options=("--resume",))
    assert "Its disk hangs.\n$ pve reset\n\n(claude proposes reset on devvm: Its disk hangs.)\n" in seen
    assert "run reset on devvm? y/N" in seen
    _, seen = typed(talker, "y", options=("--resume",))
    assert "(claude checks the VM, and can only read)\ndone\n" in seen
    [job] = [job for job in jobs(talker) if job not in before]
    _, seen = typed(talker, options=("--resume",))
    assert f"\n> {CHECK_PROMPT}\ndone\n" in seen
    assert "y/N" not in seen

    typed(talker, PROPOSES)
    [newest, *_] = talker.ask(list=True).json["sessions"]
    with talker.open(session=newest["session"], replay=True) as stream:
        approval = stream.until("approval")
    assert (
        talker.pve("reset", caller="operator2", msg_id=approval["job"], if_last=approval["last"]).json["outcome"]
        == "done"
    )
    _, seen = typed(talker, options=("--resume",))
    assert "(reset on devvm: approved by operator2, and done)" in seen
    assert "y/N" not in seen
    assert jobs(talker)[1:] == [job, *before]


@pytest.mark.all
def test_conversations_are_listed_and_continued_by_number(talker: Talker) -> None:
    """The list is of this caller only, newest first. A wrong number is a usage error with the command for the list."""
    talker.chat("Of another caller.", caller="operator2")
    typed(talker, "Is it\tsafe to cycle?")
    typed(talker, "What happened before?")
    code, seen = typed(talker, options=("--list",))
    first, second, *more = [line.split(maxsplit=4) for line in seen.splitlines()]
    assert (code, first[0], first[3:]) == (0, "1", ["devvm", "What happened before?"])
    assert (second[0], second[3:]) == ("2", ["devvm", "Is it safe to cycle?"])
    assert more[-1][0] == "to"
    assert "another caller" not in seen
    listed = json.loads(typed(talker, options=("--list", "--json"))[1])
    assert [(each["number"], each["words"], "session" in each) for each in listed[:1]] == [
        (1, "What happened before?", False)
    ]
    assert typed(talker, options=("--list", "--vm", "other"))[1] == "there are no conversations about other\n"

    code, seen = typed(talker, "And now?", options=("--resume", "2"))
    assert "(1 turn about devvm; " in seen
    assert "\n> Is it\tsafe to cycle?\ndone\n" in seen
    assert typed(talker, options=("--list",))[1].splitlines()[0].endswith("Is it safe to cycle?")  # now the newest
    for wrong in ("0", "101", "x"):
        code, seen = typed(talker, options=("--resume", wrong))
        assert (code, f'there is no conversation "{wrong}"' in seen, "chat --list" in seen) == (2, True, True)


@pytest.mark.all
def test_a_turn_under_way_is_followed(talker: Talker, claude: ScriptedClaude) -> None:
    """A second terminal shows the text so far, and the rest as it comes."""
    prompt = fake({"text": "It is the first part, and then comes the last.", "wait": "second-terminal"})
    with terminal(talker) as left:
        assert left.stdin is not None
        left.stdin.write(f"{prompt}\n".encode())
        left.stdin.flush()
        seen_until(left, "It is the first")
    with terminal(talker, "--resume") as process:
        seen = seen_until(process, "\nIt is the first")
        assert talker.ask(list=True).json["sessions"][0]["turn"] is not None
        claude.release("second-terminal")
        rest, _ = process.communicate(timeout=60)
    seen += rest.decode()
    assert f"> {prompt}\nIt is the first part, and then comes the last.\n(" in seen
    assert seen.count("It is the first") == 2  # in the question and in the answer


# --- what claude has of the host ---


def test_only_the_hosts_refusal_is_a_proposal(talker: Talker) -> None:
    """Another command with the same output is no proposal, and each proposal has its own id."""
    liar = bash("echo approval-required: reset")
    events = talker.chat(fake(liar, bash("pve reset"), bash("pve reset"), {"text": "fin"}))
    assert len({event["job"] for event in events if event["type"] == "approval"}) == 2
    assert [event["ok"] for event in events if event["type"] == "tool_result"] == [True, False, False]


def test_a_turn_with_the_hosts_tools_only_reads(talker: Talker, claude: ScriptedClaude) -> None:
    """`pve` has only three verbs there, so the turn proposes nothing. It has no guest, and its id differs."""
    lines = ("pve status", "pve reset", "pve job id=x", "pve history", "ls $(dirname $(command -v pve))")
    prompt = fake(*map(bash, lines), {"text": "It runs."})
    events = talker.chat(prompt, tools="host", msg_id="msg_after_12345678")
    results = [event for event in events if event["type"] == "tool_result"]
    assert [event["ok"] for event in results] == [True, False, False, True, True]
    assert "usage: pve status | forensics | history" in results[1]["text"]
    assert results[4]["text"] == "pve"
    assert "approval" not in {event["type"] for event in events}
    [allowed] = [each for each in talker.calls[-1] if each.startswith("--allowedTools=")]
    assert allowed == "--allowedTools=" + ",".join(f"Bash(pve {verb})" for verb in READ)
    same = talker.ask(prompt=prompt, msg_id="msg_after_12345678")
    assert (same.status, same.json["error"]["code"]) == (422, "id-reused")
    with talker.open(session=events[0]["session"], replay=True) as stream:
        assert stream.until("turn")["tools"] == "host"

"""The `[[notify]]` entries, and what a message says to whom."""

import json
from dataclasses import replace
from typing import Any

from breakglass.config.load import parse
from breakglass.config.notify import Recipient
from breakglass.notify.messages import OPINION, outcome_message, request_for, verdict_message

from ..support.rows import each_row, read_rows
from .test_config import GOOD, problems, read

KEY = "whsec_" + "A" * 43 + "="
NTFY = '[[notify]]\nto = "ntfy"\nurl = "https://ntfy.example.org"\ntopic = "night"\n'
HOOK = f'[[notify]]\nto = "webhook"\nurl = "https://hook.example.org/x"\nsecret = "{KEY}"\n'
FAULTS = read_rows("wrong_settings.yaml", ntfy=NTFY)["notify"]


@each_row(("entry", "words"), FAULTS.values())
def test_a_mistake_disables_its_entry(entry: str, words: str) -> None:
    """It has its place and a fix, and no secret; the other entries work."""
    [problem] = problems(GOOD + entry + HOOK)
    assert f"{problem.place}: {problem.sentence}".startswith(words)
    assert problem.fix
    assert KEY not in problem.sentence
    assert [each.to for each in read(GOOD + entry + HOOK).notify] == ["webhook"]


def test_an_entry_is_read() -> None:
    """Each setting, a secret from a file, and what is there by default; no secret is in its repr."""
    text = f'{GOOD}{NTFY}token_file = "/t"\nvms = "devvm"\nquiet = "22:30-06:00"\nguest_text = true\non = "failed"\n'
    config = parse(text + HOOK, {"/t": "tk_0"}.__getitem__)
    ntfy, hook = config.notify
    assert (config.problems, ntfy.secret, ntfy.quiet, ntfy.guest_text) == ((), "tk_0", (1350, 360), True)
    assert [ntfy.wants(event, "devvm") for event in ("failed", "verdict")] == [True, False]
    assert not ntfy.wants("failed", "other")
    assert hook.wants("drill", "other")
    assert [word for word in ("tk_0", KEY, "example.org", "night") if word in repr(config.notify)] == []


@each_row(
    ("quiet", "minutes", "expected"),
    [
        (None, (0, 720), [False, False]),
        ((1320, 420), (1319, 1320, 1439, 0, 419, 420), [False, True, True, True, True, False]),
        ((60, 120), (59, 60, 119, 120), [False, True, True, False]),
    ],
)
def test_quiet_hours_may_begin_before_midnight(
    quiet: tuple[int, int] | None, minutes: tuple[int, ...], expected: list[bool]
) -> None:
    assert [Recipient("n", "ntfy", "u", quiet=quiet).is_quiet(minute) for minute in minutes] == expected


WORDS = "Out of memory: Killed process 1 (pin 1234)"
JOB: dict[str, Any] = {
    "started": "2026-12-01T02:58:09Z",
    "verdict": {"code": "guest-hung", "sentence": f"its kernel hangs; its last words: {WORDS}", "advice": "reset"},
    "last_words": ["[1] fine", f"[2] {WORDS}"],
}


@each_row("to", ["ntfy", "webhook"])
def test_no_word_of_the_guest_leaves_unless_the_entry_says_so(to: str) -> None:
    """Without guest_text, the message ends with what helps; with it, the last words follow."""
    message = verdict_message("devvm", "alert-1", JOB, ("https://r.example.org/",))
    without, whole = (
        request_for(message, Recipient("n", to, "https://x", "t", KEY, guest_text=flag), 0.0, False)[1].decode()
        for flag in (False, True)
    )
    assert ("devvm at 02:58 UTC" in without, "kernel hangs. Reset" in without) == (True, True)
    assert "Killed" not in without
    assert f"Last words: {WORDS}" in whole.partition("Reset ")[2]
    others = {**JOB, "verdict": {**JOB["verdict"], "sentence": "its kernel hangs"}}  # the verdict chose no line
    assert verdict_message("devvm", "alert-1", others, ()).guest == f"Last words: [1] fine / [2] {WORDS}"


def test_an_opinion_is_told_as_the_guests_words_are() -> None:
    """Its message is for receivers of guests' words alone; there it follows the last words, cut and on one line."""
    job = JOB | {"opinion": {"at": "2026-12-01T03:02:40Z", "text": "reset,\x1b\n because " + "x" * 999}}
    message = replace(verdict_message("devvm", "alert-1", job, ()), stage=OPINION)
    plain, words = (Recipient("n", "ntfy", "https://x", "t", guest_text=flag) for flag in (False, True))
    assert [message.wanted_by(each) for each in (plain, words)] == [False, True]
    assert "Claude" not in message.text_for(plain)
    assert message.text_for(words).endswith(f"{WORDS} Claude, 03:02: reset, because {'x' * 285}")


def test_a_hosts_text_is_one_line_and_cut() -> None:
    """A host that an attacker holds sends no control character and no novel, and names no verb that there is not."""
    hostile = {"code": "x\n" * 99, "sentence": "a\x1b[31m\n" * 999, "advice": "rm -rf"}
    job = {"verdict": hostile, "started": "x" * 99, "last_words": None}
    message = verdict_message("devvm", "alert-1", job, ())
    assert all(text.isprintable() for text in (message.text, message.title, message.code))
    assert len(message.text) < 400
    assert "rm" not in message.text.lower()


@each_row(
    ("outcome", "is_drill", "events", "priority"),
    [
        ("done", False, ("outcome",), 3),
        ("failed", False, ("outcome", "failed"), 4),
        ("unknown", True, ("outcome", "failed", "drill"), 4),
    ],
)
def test_an_outcome_says_who_why_and_how(outcome: str, is_drill: bool, events: tuple[str, ...], priority: int) -> None:
    """It replaces the message of the alert, whose key it has."""
    answer = {"verb": "reset", "outcome": outcome, "by": "anna", "id": "msg_00000001", "state": "running"}
    message = outcome_message("devvm", answer, "it hangs", "alert-1", is_drill, ())
    assert (message.key, message.events) == ("alert-1", events)
    assert [word in message.text for word in ("anna (it hangs)", f"reset {outcome}.", "is running")] == [True] * 3
    body = json.loads(request_for(message, Recipient("n", "ntfy", "https://x", "t"), 0.0, False)[1])
    assert (body["priority"], body["sequence_id"]) == (priority, "alert-1")

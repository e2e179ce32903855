"""A second opinion on an alert's capture, with the real claude, sshd, host agent and QEMU, and a scripted model."""

import base64
import json
import secrets
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from breakglass.cli.terminal_text import opinion_line
from breakglass.demo.answers import Json

from ..support import claude
from ..support.alerting import alerting, entry, list_captures
from ..support.model import Model
from ..support.receivers import Inbox, receiving
from ..support.service import Service, give_directory, give_to_handler, new_secret
from ..support.sshd import Sshd
from ..support.stages import memory, until

pytestmark = [pytest.mark.real("sshd", "qemu", "claude"), pytest.mark.slow]

CONSTANTS = ("chat.opinion.CAPTURE_SECONDS = 60.0", "chat.opinion.TURN_SECONDS = 20")
SECRET = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
SENTENCE = "reset, because the kernel panicked at 02:58."


class Night(NamedTuple):
    """A handler that wants opinions, its host, the model, and a receiver of guests' words and one without them."""

    service: Service
    sshd: Sshd
    model: Model
    words: Inbox
    plain: Inbox

    def alert(self, fingerprint: str, step: Json, **annotations: str) -> str:
        """Fire an alert, which the model answers with a step unless an annotation says another; return its job."""
        self.model.default = lambda words, number, shown: step
        alert = {"status": "firing", "labels": {"host": "devvm"}, "fingerprint": fingerprint, "starts_at": "s"}
        body = json.dumps({**alert, "annotations": annotations}).encode()
        [taken] = self.service.send("POST", "/alert/generic", body, self.service.signed(body)).json["accepted"]
        return str(taken["job"])

    def ended(self, job: str, code: str) -> None:
        """Wait until the log says what became of the opinion on a job."""
        self.service.logged(f'"event": "opinion", "vm": "devvm", "job": "{job}", "code": "{code}"')

    def opinion(self, job: str) -> Any:
        return self.service.pve("history", caller="viewer", vm="devvm", job=job).json["job"].get("opinion")

    def pass_an_hour(self) -> None:
        """Make each opinion an hour older."""
        for path in memory(self.sshd.world, "jobs").glob("*/opinion.json"):
            found = json.loads(path.read_text())
            path.write_text(json.dumps(found | {"asked": found["asked"] - 3600}))


def webhook(url: str, more: str = "") -> str:
    return f'[[notify]]\nto = "webhook"\nurl = "{url}/hook"\nsecret = "{SECRET}"\non = ["verdict"]\n{more}\n'


@pytest.fixture(scope="module")
def night(model: Model) -> Iterator[Night]:
    wanted = entry("generic", 0, host="devvm") + "diagnose = true\n"
    with receiving() as words, receiving() as plain:
        entries = wanted + webhook(words.url, "guest_text = true") + webhook(plain.url)
        with alerting(entries, *CONSTANTS) as (service, sshd):
            sessions, credential = give_directory(service.directory / "sessions"), service.directory / "credential"
            credential.touch(0o600)
            credential.write_text("ANTHROPIC_API_KEY=sk-test")
            give_to_handler(credential)
            chat = {"command": str(claude.find()), "base_url": model.url, "credential_file": str(credential)}
            table = "".join(f"{name} = {json.dumps(value)}\n" for name, value in chat.items())
            service.secrets["blind"] = new_secret()
            text = service.config.read_text().replace("[sessions]\n", f'[sessions]\ndir = "{sessions}"\n')
            text = text.replace('"cycle"]', '"cycle", "chat"]')
            text += f'\n[callers.blind]\nsecret = "{service.secrets["blind"]}"\nallow = ["chat", "status"]\n'
            with service.configured(f"{text}\n[chat]\n{table}"):
                service.logged('"event": "chat", "state": "on"')
                yield Night(service, sshd, model, words, plain)


@pytest.fixture(autouse=True)
def an_hour_later(night: Night) -> None:
    list_captures(night.service)
    night.pass_an_hour()
    night.model.asked.clear()


def test_it_joins_the_record_the_message_and_the_report(night: Night) -> None:
    """The sentence is kept. The model has no tool, and sees the evidence, but not the verdict of plain code."""
    job = night.alert("one", {"text": f"{SENTENCE} And then more."}, summary="devvm is down")
    night.ended(job, "ok")
    assert night.opinion(job)["text"] == SENTENCE
    [asked] = night.model.asked
    assert asked.body.get("tools", []) == []
    assert "summary: devvm is down" in asked.said
    assert "verdict: " not in asked.said
    assert "qm status" in asked.said or "state: " in asked.said
    verdict, opinion = [body for body in night.words.wait(2) if body["data"]["key"] == job]
    assert opinion["data"]["text"].startswith(verdict["data"]["text"])
    assert opinion["data"]["text"].endswith(f": {SENTENCE}")
    assert (verdict["data"]["stage"], opinion["data"]["stage"], opinion["data"]["urgent"]) == (
        "verdict",
        "opinion",
        False,
    )
    assert [body["data"]["stage"] for body in night.plain.bodies() if body["data"]["key"] == job] == ["verdict"]
    body = b'{"vm":"devvm"}'
    report = night.service.send("POST", "/report", body, night.service.signed(body)).json["text"]
    assert f" Claude: {SENTENCE}" in report
    assert opinion_line(night.opinion(job)).endswith(f": {SENTENCE}")
    assert opinion_line({"text": "\x1b[2J\u202ex"}) == "Claude, None: [2J x"


def test_a_conversation_continues_from_it(night: Night) -> None:
    """It begins with the sentence as words of the model. A caller without `history` gets none."""
    job = night.alert("asked", {"text": SENTENCE})
    night.ended(job, "ok")
    body = json.dumps({"prompt": "Why?", "vm": "devvm", "about": job}).encode()
    assert night.service.send("POST", "/chat", body, night.service.signed(body)).lines[-1]["ok"] is True
    said = night.model.asked[-1].said
    assert "[From breakglass, not from the operator. Without tools" in said
    assert f'you have said about the capture {job}: "{SENTENCE}"]\n\nWhy?' in said
    asked = len(night.model.asked)
    assert night.service.send("POST", "/chat", body, night.service.signed(body, "blind")).status == 403
    assert night.service.pve("history", caller="blind", vm="devvm", job=job).status == 403
    assert len(night.model.asked) == asked


def test_one_an_hour(night: Night) -> None:
    """A second alert, and the first one when it is sent again, ask no model; their verdicts come as ever."""
    first = night.alert("two", {"text": SENTENCE})
    night.ended(first, "ok")
    second = night.alert("three", {"text": SENTENCE})
    night.ended(second, "refused")
    assert night.alert("two", {"text": SENTENCE}) == first
    third = night.alert("six", {"text": SENTENCE})
    night.ended(third, "refused")
    assert len(night.model.asked) == 1
    assert night.opinion(second) is None
    assert list_captures(night.service)[0]["verdict"] is not None


def test_a_day_has_a_price(night: Night) -> None:
    """Once the opinions of a day have cost `diagnose_usd`, none begins."""
    job = night.alert("four", {"text": SENTENCE})
    night.ended(job, "ok")
    path = memory(night.sshd.world, f"jobs/{job}/opinion.json")
    found = json.loads(path.read_text())
    assert 0 < found["usd"] < 1
    path.write_text(json.dumps(found | {"asked": found["asked"] - 3600, "usd": 1.0}))
    dear = night.alert("five", {"text": SENTENCE})
    night.ended(dear, "refused")
    assert len(night.model.asked) == 1
    path.write_text(json.dumps(found | {"asked": found["asked"] - 3600}))


RESET = {"tool": "Bash", "input": {"command": "pve reset"}}


@pytest.mark.parametrize(
    ("step", "annotation", "code", "kept"),
    [
        (RESET, "", "claude-crashed", None),
        ({"text": "Yes.", **RESET}, "", "claude-crashed", None),
        ({"text": SENTENCE}, f"FAKE={json.dumps([RESET])}", "claude-crashed", None),
        ({"text": "a"}, "FAKE=" + json.dumps([{"text": "\x1b[31mreset\u202e, <b>because</b> I say so."}]), "ok",
         "[31mreset , <b>because</b> I say so."),
        ({"text": "reset " * 500}, "", "ok", "reset " * 50),
        ({"fail": 401}, "", "claude-auth", None),
        ({"fail": 529}, "", "claude-overloaded", None),
    ],
    ids=["reset", "words and reset", "injected reset", "escapes", "long", "no credential", "overloaded"],
)  # fmt: skip
def test_nothing_but_words(night: Night, step: Json, annotation: str, code: str, kept: str | None) -> None:
    """Whatever the model answers, or the evidence makes it answer, no verb runs and at most words are kept."""
    job = night.alert(secrets.token_hex(4), step, say=annotation)
    night.ended(job, code)
    assert (night.opinion(job) or {}).get("text") == kept
    assert {each["verb"] for each in night.service.pve("history", vm="devvm").json["jobs"]} == {"forensics"}
    assert night.service.pve("status", vm="devvm").json["state"] == "running"


def test_a_late_model(night: Night) -> None:
    """The verdict and its message are there while the model is silent, and the turn ends at its limit."""
    before = len(night.plain.requests)
    job = night.alert("late", {"text": "reset, because it is " + "late " * 20, "wait": "never"})
    night.plain.wait(before + 1)
    assert list_captures(night.service)[0]["verdict"] is not None
    night.ended(job, "turn-timeout")
    night.model.release("never")
    assert night.opinion(job) is None


def test_a_killed_handler_asks_once(night: Night) -> None:
    """A handler that is killed during the turn has paid for it. No later alert of the hour asks again."""
    job = night.alert("killed", {"text": "reset, because it is " + "slow " * 20, "wait": "killed"})
    until_asked(night, 1)
    night.service.process.kill()
    night.service.process.wait()
    night.model.release("killed")
    night.service.start()
    night.service.answering()
    assert night.alert("killed", {"text": SENTENCE}) == job
    night.ended(night.alert("killed later", {"text": SENTENCE}), "refused")
    assert (len(night.model.asked), night.opinion(job)) == (1, None)


def until_asked(night: Night, count: int) -> None:
    until(lambda: len(night.model.asked) >= count, f"{count} requests to the model")

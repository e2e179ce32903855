"""An alert's verdict and a verb's outcome reach people's receivers once, whatever happens on the way."""

import asyncio
import base64
import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from socket import socket
from typing import Any

import pytest
from standardwebhooks import Webhook

from breakglass.config.notify import Recipient
from breakglass.notify import send as sending
from breakglass.notify.messages import Message
from breakglass.notify.send import NotSent, send

from ..support.alerting import alerting, entry, list_captures, send_with_token
from ..support.forked import run_command
from ..support.ports import reserve_port
from ..support.receivers import Inbox, flood, misbehaving, receiving, replying, trickle
from ..support.rows import each_row
from ..support.service import Service, with_constants
from ..support.sshd import Sshd
from ..support.stages import until
from .conftest import handler

pytestmark = pytest.mark.real("sshd", "qemu")

SECRET = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
QUICK = (
    *("notify.notifier.LOOK_AFTER = 0.5", "notify.notifier.READY_SECONDS = 0.5", "notify.notifier.ROUND_SECONDS = 0.5"),
    *("notify.notifier.ENDED_SECONDS = 0.5", "notify.outbox.TRY_AFTER = (0.0, 0.1, 0.2)"),
    *("notify.notifier.CAPTURE_SECONDS = 60.0", "notify.send.SECONDS = 2.0"),
)
PAGE = "https://rescue.example.org/bg/#vm=devvm&job="


def webhook(url: str) -> str:
    return f'[[notify]]\nto = "webhook"\nurl = "{url}/hook"\nsecret = "{SECRET}"\non = ["verdict", "outcome"]\n'


def ntfy(url: str) -> str:
    entry = f'[[notify]]\nto = "ntfy"\nurl = "{url}"\ntopic = "night"\ntoken = "tk_0"\n'
    return f'{entry}on = ["verdict", "outcome"]\n'


def begin(service: Service, fingerprint: str) -> str:
    """Fire an alert of devvm; return the job of its capture."""
    alert = {"status": "firing", "labels": {"host": "devvm"}, "fingerprint": fingerprint, "starts_at": "s"}
    body = json.dumps(alert).encode()
    [taken] = service.send("POST", "/alert/generic", body, service.signed(body)).json["accepted"]
    return str(taken["job"])


def settings_of(service: Service) -> dict[str, str]:
    """Return the environment of a command that signs as the operator."""
    return {"BREAKGLASS_URL": f"http://127.0.0.1:{service.port}", "BREAKGLASS_SECRET": service.secrets["operator"]}


def marks(service: Service, job: str) -> tuple[object, object]:
    found: dict[str, Any] = service.pve("history", caller="viewer", vm="devvm", job=job).json["job"]
    return found.get("told"), [each["by"] for each in found.get("seen", [])]


@contextmanager
def notifying(*entries: str) -> Iterator[Service]:
    with alerting(entry("generic", 0, host="devvm") + "".join(entries), *QUICK) as (service, _):
        yield service


@pytest.fixture(scope="module")
def receiver() -> Iterator[Inbox]:
    with receiving() as running:
        yield running


@pytest.fixture(scope="module")
def told(receiver: Inbox) -> Iterator[Service]:
    with notifying(webhook(receiver.url), ntfy(receiver.url)) as service:
        service.config.write_text(service.config.read_text().replace('["forensics", "status"]', '["history"]'))
        service.reload()
        yield service


def test_an_alert_becomes_one_message(told: Service, receiver: Inbox) -> None:
    """The webhook passes the published check, ntfy's line has the job's id, and the host has the mark.

    The first look of each person is noted, once. A verb's outcome has the key of the alert's message, so a phone shows
    one line with who, why and how it ended. ntfy then clears the line, because nothing is left to do. No secret and no
    receiver's URL is in the log.
    """
    job = begin(told, "one")
    told.logged(f'"key": "{job}", "stage": "verdict"', times=2)
    list_captures(told)
    by_path = {path: (headers, body) for path, headers, body in receiver.requests if job.encode() in body}
    headers, body = by_path["/hook"]
    assert Webhook(SECRET).verify(body, headers)["data"] == {
        "key": job,
        "stage": "verdict",
        "vm": "devvm",
        "url": PAGE + job,
        "quiet": False,
        **{name: json.loads(body)["data"][name] for name in ("title", "text", "code", "urgent")},
    }
    assert headers["webhook-id"] == f"{job}_verdict"
    headers, body = by_path["/"]
    line = json.loads(body)
    assert headers["authorization"] == "Bearer tk_0"
    assert (line["topic"], line["sequence_id"], line["click"]) == ("night", job, PAGE + job)
    assert [action["action"] for action in line["actions"]] == ["view"]
    assert send_with_token(told, "/pve", {"verb": "history", "vm": "devvm", "job": job}).status == 200

    def seen() -> list[str]:
        return [each["by"] for each in told.pve("status", vm="devvm").json["seen"]]

    assert [marks(told, job)[0] for _ in range(2)] == ["told"] * 2
    until(lambda: seen() == ["viewer"])
    told.pve("history", vm="devvm", job=job)
    until(lambda: seen() == ["viewer", "operator"])
    assert marks(told, job)[1] == ["viewer", "operator"]
    listed = {each["id"]: each for each in told.pve("history", vm="devvm").json["jobs"]}
    assert [each["by"] for each in listed[job]["seen"]] == ["viewer", "operator"]
    assert "seen by viewer, 20" in run_command("call", "status", "--vm", "devvm", **settings_of(told)).stdout

    done = told.pve("reset", vm="devvm", reason="it hangs").json
    told.logged(f'"key": "{job}", "stage": "{done["id"][-24:]}-done"', times=2)
    line = receiver.lines()[job]
    assert (line["title"], line["priority"], line["click"]) == ("devvm: reset done", 3, PAGE + done["id"])
    assert [word in line["message"] for word in ("operator (it hangs)", "reset done", "running")] == [True] * 3
    until(lambda: job in receiver.cleared)
    assert {word for word in (SECRET, "tk_0", "/hook", '"night"') if word in told.log()} == set()


# --- what goes wrong on the way ---


@each_row(
    ("answer", "why"),
    [
        (trickle, "no answer within 0.5 s"),
        (lambda taken: taken.sendall(b"x" * 100_000), "it does not speak HTTP"),
        (replying(b"HTTP/1.1 302 No\r\nlocation: /x\r\n\r\n"), "it answered HTTP 302, and no redirect is followed"),
        (flood, ""),
    ],
)
def test_a_bad_receiver_has_its_message_alone(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[[socket], object], why: str
) -> None:
    """It ends in a bounded time with a reason that names no URL; no byte behind the first line is read."""
    monkeypatch.setattr(sending, "SECONDS", 0.5 if "0.5" in why else 60.0)
    with misbehaving(answer) as url:
        receiver = Recipient("notify[0]", "ntfy", url, "t")
        message = Message("key", "verdict", ("verdict",), "devvm", "title", "text")
        assert asyncio.run(try_once(message, receiver)) == why


async def try_once(message: Message, receiver: Recipient) -> str:
    try:
        await send(message, receiver)
    except NotSent as error:
        return str(error)
    return ""


@pytest.mark.all
def test_a_dead_receiver_delays_nothing(receiver: Inbox) -> None:
    """The other receiver has the verdict, the capture is `not-told`, and a later look sends it.

    Until then, /ready and doctor say why.
    """
    with receiving() as dead, notifying(ntfy(receiver.url), webhook(dead.url)) as service:
        before = len(receiver.requests)
        dead.statuses = [500] * 1000
        job = begin(service, "dead")
        receiver.wait(before + 1)
        service.logged('"event": "notify-failed"')
        assert service.health()["notify"] == "failed"
        assert not service.send("GET", "/ready").json["ready"]
        said = json.loads(run_command("doctor", "--json", **settings_of(service)).stdout)
        assert "notify-failed" in [finding["code"] for finding in said["findings"]]
        dead.statuses = []
        until(lambda: marks(service, job)[0] == "told")
        assert (service.health()["notify"], len(dead.requests)) == ("on", 1)
        assert len(receiver.requests) == before + 1


@pytest.mark.all
@pytest.mark.shared("world", "sshd")
def test_ready_is_lost_and_back(receiver: Inbox, sshd: Sshd, short_dir: Path) -> None:
    """The second message replaces the first, and ntfy clears it. The reason is a mistake in the configuration."""
    mistake = "[unknown]\nx = 1\n"
    extra = ntfy(receiver.url).replace('["verdict", "outcome"]', '["ready"]') + mistake

    def lost() -> list[str]:
        return [body["sequence_id"] for body in receiver.bodies() if "The configuration has" in body.get("message", "")]

    with handler(short_dir, sshd, extra=extra, program=with_constants(*QUICK)) as service:
        until(lambda: len(lost()) == 1)
        [key] = lost()
        with service.configured(service.config.read_text().replace(mistake, "")):
            until(lambda: receiver.lines()[key]["title"] == "Breakglass is ready again" and key in receiver.cleared)


@pytest.mark.all
def test_a_killed_handler_loses_no_message(receiver: Inbox) -> None:
    """Whenever it is killed, it sends the message after its next start, and never sends one that is marked."""
    with notifying(ntfy(receiver.url)) as service:
        for step in ("accepted", "sent", "marked"):
            receiver.statuses = [503] * 3 if step == "accepted" else []  # as long as it lives, no message arrives
            job = begin(service, f"kill-{step}")
            if step != "accepted":
                until(lambda job=job: job in receiver.lines())  # type: ignore[misc]
            if step == "marked":
                until(lambda job=job: marks(service, job)[0] == "told")  # type: ignore[misc]
            sent = len(receiver.requests)
            service.process.kill()
            service.process.wait()
            receiver.statuses = []
            service.start()
            service.answering()
            until(lambda job=job: marks(service, job)[0] == "told")  # type: ignore[misc]
            assert job in receiver.lines()
            assert step != "marked" or len(receiver.requests) == sent


class Twin(Service):
    """Another handler with the configuration of the first, and its session secret."""

    def __init__(self, first: Service) -> None:
        self.directory, self.program, self.errors = first.directory, first.program, None
        self.port, self.secrets, self.config = reserve_port(), first.secrets, first.config
        self.start()


@pytest.mark.all
def test_two_handlers_show_one_line(receiver: Inbox) -> None:
    """Both get the alert, as from two Alertmanagers, and both have one key for its message. VERIFY.md names this.

    If one of them is killed before its message has arrived, and never starts again, the other one sends it.
    """
    with notifying(ntfy(receiver.url)) as service:
        other = Twin(service)
        try:
            other.answering()
            [job] = {begin(each, "twice") for each in (service, other)}
            until(lambda: marks(service, job)[0] == "told")
            assert [key for key in receiver.lines() if key == job] == [job]
            list_captures(service)
            receiver.statuses = [503] * 3
            left = begin(service, "left")
            service.process.kill()
            service.process.wait()
            receiver.statuses = []
            until(lambda: marks(other, left)[0] == "told")
            assert [key for key in receiver.lines() if key == left] == [left]
        finally:
            other.stop()


@pytest.mark.all
def test_an_answer_can_wait_for_the_message(told: Service, receiver: Inbox) -> None:
    """Where a platform freezes a handler after its answer, the answer to an alert comes after the message."""
    before = len(receiver.requests)
    with told.configured(told.config.read_text().replace('topic = "night"', 'topic = "night"\nbefore_answer = true')):
        begin(told, "waits")
        assert len(receiver.requests) > before


# --- other programs ---


def test_apprise_itself_takes_a_message(receiver: Inbox, caplog: pytest.LogCaptureFixture) -> None:
    """By its service `json`; a URL that it does not know is a reason, and quiet hours keep what is not urgent.

    Apprise's own log would have the URL.
    """
    url = receiver.url.replace("http:", "json:")
    message = Message("key", "verdict", ("verdict",), "devvm", "devvm at 02:58 UTC", "It hangs.", PAGE, guest="panic")
    before = len(receiver.requests)
    for quiet in (None, (0, 1440)):
        recipient = Recipient("notify[0]", "apprise", url, quiet=quiet)
        assert asyncio.run(try_once(replace(message, is_urgent=quiet is None), recipient)) == ""
    [found] = receiver.bodies()[before:]
    assert (found["title"], found["message"]) == (message.title, f"It hangs.\n{PAGE}")
    assert asyncio.run(try_once(message, Recipient("n", "apprise", "x://y"))) != ""
    assert "x://y" not in caplog.text


def test_a_test_message_needs_no_handler(told: Service, receiver: Inbox) -> None:
    """`breakglass notify test` sends one to each receiver, and ends with 1 if one has not taken it."""
    before = len(receiver.requests)
    ran = run_command("notify", "test", BREAKGLASS_CONFIG=str(told.config))
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == "notify[0] (webhook): sent\nnotify[1] (ntfy): sent\n"
    assert len(receiver.requests) == before + 2
    receiver.statuses = [500]
    ran = run_command("notify", "test", BREAKGLASS_CONFIG=str(told.config))
    assert (ran.returncode, "notify[0] (webhook): not sent: " in ran.stderr) == (1, True)

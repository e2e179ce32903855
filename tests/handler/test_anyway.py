"""Stages and deadlines of a running job, and `anyway`, which only the host offers and only a person says."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import breakglass.proxmox.patience
from breakglass.auth.signing import Caller
from breakglass.base.errors import Lost
from breakglass.chat.brief import list_tool_rules
from breakglass.config.model import Address, Host, Vm
from breakglass.demo.proxmox.world import VMID, World
from breakglass.proxmox.host import HostConnection
from breakglass.proxmox.outcome import Message
from breakglass.proxmox.request import SentIds, VerbRequest
from breakglass.proxmox.run import Run

from ..conftest import connected
from ..support.cluster import always
from ..support.scripted import (
    REFUSED,
    Scripted,
    output,
    result,
    scripted_host,
    stage,
)
from ..support.service import Reply, Service
from ..support.sshd import Sshd
from ..support.stages import until

ROOT = Path(__file__).parent.parent.parent
real = pytest.mark.real("sshd")
HOST = Host("pve1", Address("breakglass", "127.0.0.1", 22), "")
VM = Vm("devvm", VMID, (HOST,))
OPERATOR = Caller("operator", (b"x" * 32,), frozenset({"reset", "stop"}))


@pytest.fixture(scope="module")
def server(directory: Path) -> Iterator[tuple[World, Sshd]]:
    with scripted_host(directory) as server:
        yield server


@pytest.fixture(scope="module")
def handler_in_front(server: tuple[World, Sshd]) -> Iterator[Service]:
    world, sshd = server
    with connected(world.directory, sshd) as service:
        yield service


@pytest.fixture
def script(server: tuple[World, Sshd]) -> Scripted:
    """A host on which the storage of the VM hangs."""
    return Scripted(server[0])


@pytest.fixture
def service(handler_in_front: Service, script: Scripted) -> Service:
    handler_in_front.answering()  # an earlier test may have broken its connection
    return handler_in_front


@pytest.fixture
def vm(server: tuple[World, Sshd]) -> Vm:
    sshd = server[1]
    address = Address("breakglass", "127.0.0.1", sshd.port)
    return Vm("devvm", VMID, (Host("pve1", address, sshd.power_key, host_keys=(sshd.host_key,)),))


def call(service: Service, *words: str) -> "subprocess.CompletedProcess[str]":
    url, secret = f"http://127.0.0.1:{service.port}", service.secrets["operator"]
    environment = os.environ | {"BREAKGLASS_URL": url, "BREAKGLASS_SECRET": secret, "TZ": "UTC"}
    command = [sys.executable, "-m", "breakglass", "call", *words]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=100)


# --- offered by the host, said by a person ---


@real
@pytest.mark.parametrize("verb", ["reset", "cycle"])
def test_a_refusal_says_what_would_lift_it(service: Service, verb: str) -> None:
    """The host refuses and offers an override. The answer has the code that a person may say."""
    reply = service.pve(verb)
    assert (reply.status, reply.json["outcome"], reply.json["anyway"]) == (412, "refused", "storage-hung")
    assert reply.json["verdict"]["code"] == "storage-hung"


@real
def test_anyway_reaches_the_host_as_a_word_of_the_grammar(service: Service, script: Scripted) -> None:
    """The word comes between `last=` and `note=`, and the host obeys it."""
    more: dict[str, Any] = {"if_state": "running", "if_last": "none", "reason": "known", "anyway": "storage-hung"}
    answer = service.pve("reset", msg_id="msg_12345678", **more).json
    assert (answer["outcome"], answer["anyway"]) == ("done", None)
    words = "reset vm=102 id=msg_12345678 by=operator if=running last=none anyway=storage-hung note=a25vd24"
    assert script.asked("reset") == [words]


@real
@pytest.mark.parametrize(
    "sent", [{"verb": "stop"}, {"verb": "reset", "msg_id": "job_0123456789ab"}], ids=["another verb", "an approval"]
)
def test_anyway_elsewhere_is_a_bad_request(service: Service, script: Scripted, sent: dict[str, Any]) -> None:
    """The answer is 400, and nothing is sent to the host."""
    reply = service.pve(anyway="storage-hung", **sent)
    error = reply.json["error"]
    assert (reply.status, error["code"], error["reached"]) == (400, "bad-request", False)
    assert script.asked(sent["verb"]) == []


def test_claude_gets_neither_the_word_nor_a_rule_for_anyway() -> None:
    """The word is neither in the brief nor in the commands that claude may run without asking."""
    assert "anyway" not in (ROOT / "agents/breakglass.md").read_text(encoding="utf-8")
    allowed = list_tool_rules(replace(VM, guest=HOST.ssh))
    assert "Bash(pve reset)" in allowed
    assert not any("anyway" in rule for rule in allowed)


# --- the stages and the deadline ---


@real
def test_the_stream_passes_stages_on(service: Service, script: Scripted) -> None:
    """Each stage comes with the deadline and the start of its job. Unknown stages are left out."""
    stages = [stage(name) for name in ("preflight", "stop")]
    odd: list[dict[str, Any]] = [{"type": "mood", "text": "fine"}, stage("x", -1), {"type": "stage", "stage": "y"}]
    script.say([("reset", [stages[0], output("a\n"), *odd, stages[1], result(deadline=420.0)]), ("", [result()])])
    first, *middle, last = service.pve("reset", stream=True).lines
    assert first["type"] == "accepted"
    assert middle == [stages[0], output("a\n"), stages[1]]
    assert (last["outcome"], last["deadline"]) == ("done", 420.0)


@real
def test_a_busy_answer_has_the_holders_deadline(service: Service, script: Scripted) -> None:
    """The answer has the holder's deadline, in seconds from its `since`."""
    holder: dict[str, Any] = {
        "job": "msg_other000",
        "verb": "cycle",
        "by": "operator2",
        "since": "2026-11-24T03:12:44Z",
    }
    holder |= {"stage": "stop", "deadline": 420.0}
    script.say([("reset", [result(11, "busy", holder=holder)]), ("", [result()])])
    assert service.pve("reset").json["holder"] == holder


@real
async def test_a_running_answer_has_the_jobs_deadline(script: Scripted, vm: Vm) -> None:
    """The answer for a client that can't wait has the stage, the deadline and the start, as the host reports them."""
    message = stage("stop")
    script.say([("stop", [message, {"wait": "go-1"}, result(deadline=420.0)]), ("", [result()])])
    host = HostConnection(vm.host)
    run = Run(always(host), VerbRequest("stop", vm, "running-1", OPERATOR, 0.0), SentIds(), 0.0)
    stream = run.stream(asyncio.Event())
    assert [(await anext(stream))["type"] for _ in range(2)] == ["accepted", "stage"]
    early = await run.finished(asyncio.Event(), seconds=0)
    assert (early.outcome, early.body["stage"], early.body["deadline"]) == ("running", "stop", 420.0)
    assert early.body["started"] == message["started"]
    script.let_go("go-1")
    assert (await run.finished(asyncio.Event(), seconds=60)).outcome == "done"
    await host.close()


@pytest.mark.all
@real
@pytest.mark.slow
async def test_a_host_that_falls_silent_is_lost_after_its_own_deadline(
    script: Scripted, vm: Vm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the job's deadline and the grace, the same line is sent again over a new connection.

    The messages that were passed on are not repeated.
    """
    monkeypatch.setattr(breakglass.proxmox.patience, "GRACE_SECONDS", 0.3)
    told = stage("stop", 0.2)
    script.say([("stop", [told, output("a\n"), {"wait": "never"}]), ("", [result()])])
    host = HostConnection(vm.host)
    host.retry_seconds = 0.2
    heard: list[Message] = []

    async def listen() -> None:
        async for message in host.run("stop vm=102 id=silent-01 by=operator"):
            heard.append(message)  # noqa: PERF401  # what came before the loss is looked at

    with pytest.raises(Lost, match=r"no answer in 0\.5 s"):
        await listen()
    assert heard == [told, output("a\n")]
    assert len(script.asked("stop")) >= 2
    assert set(script.asked("stop")) == {"stop vm=102 id=silent-01 by=operator"}
    await host.close()


@real
def test_an_attached_stream_repeats_no_line(service: Service, script: Scripted, server: Any) -> None:
    """If the connection breaks in the middle, the stream continues at the same line, including stages."""
    stages = [stage(name) for name in ("preflight", "stop", "start")]
    before = [stages[0], output("a\n"), stages[1], {"wait": "never"}]
    script.say([("cycle", before), ("", [result()])])
    replies: list[Reply] = []
    posting = threading.Thread(target=lambda: replies.append(service.pve("cycle", stream=True)))
    posting.start()
    until(lambda: script.asked("cycle") != [], "the cycle")
    script.say([("cycle", [*before[:3], output("b\n"), stages[2], result()]), ("", [result()])])
    server[1].drop_connections()
    posting.join(60)
    assert replies[0].lines[1:-1] == [stages[0], output("a\n"), stages[1], output("b\n"), stages[2]]


# --- breakglass call ---


@real
def test_call_shows_the_stages_and_the_offer(service: Service, script: Scripted) -> None:
    """Stderr has each stage once with the time by which the verb ends, the refusal, and the command that overrides it.

    The command has no id, because the refused request has used its id.
    """
    message = stage("preflight", started="2026-11-24T03:07:20Z")
    script.say([("reset", [message, {**message, "stage": "forensics"}, REFUSED[-1]]), ("", [result()])])
    ran = call(service, "reset", "--vm", "devvm")
    assert ran.returncode == 1
    assert "stage: preflight (the job ends by 03:14:20)\nstage: forensics (the job ends by 03:14" in ran.stderr
    assert "stage:" not in ran.stdout
    assert (
        "to do it anyway, run the command below. Presses the reset button. Unsaved work in the VM is lost."
        in ran.stderr
    )
    assert "QEMU may be unable to end until its storage answers" in ran.stderr
    last = "    breakglass call reset --vm devvm --anyway storage-hung\n    what to do: breakglass docs storage-hung\n"
    assert ran.stderr.endswith(last)


@pytest.mark.all
@real
def test_call_sends_anyway_under_a_new_id(service: Service, script: Scripted) -> None:
    """--anyway sends the word under a new id. Another code is not an option, and another verb is refused."""
    ran = call(service, "cycle", "--anyway", "storage-hung")
    assert (ran.returncode, "cycle done" in ran.stdout) == (0, True)
    assert [line.split(" by=operator")[1] for line in script.asked("cycle")] == [" anyway=storage-hung"]
    assert call(service, "reset", "--anyway", "locked").returncode == 2
    ran = call(service, "stop", "--anyway", "storage-hung")
    assert (ran.returncode, 'does not go with "stop"' in ran.stderr) == (1, True)

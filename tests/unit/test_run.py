"""One request's verb, from what its host sends or fails to send: the answer, and the stream of a client."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from breakglass.auth.signing import Caller
from breakglass.base.errors import Lost, Unreached
from breakglass.config.model import Vm
from breakglass.proxmox import run
from breakglass.proxmox.host import HostConnection
from breakglass.proxmox.outcome import Message
from breakglass.proxmox.places import Destination
from breakglass.proxmox.request import SentIds, VerbRequest
from breakglass.proxmox.run import Run
from breakglass.service import Service

from ..support.rows import each_row
from .test_places import HOSTS, VM

STAGE: Message = {"type": "stage", "stage": "stop", "deadline": 240.0, "started": "2026-11-24T03:12:44Z"}
SAID: list[Message] = [
    STAGE,
    {"type": "output", "stream": "stdout", "text": "stdout\n"},
    {"type": "output", "stream": "stderr", "text": "stderr\n"},
    {"type": "result", "outcome": "done", "exit_code": 0, "state": "stopped"},
]


class Sender(HostConnection):
    """A host that sends these messages, and then waits or fails."""

    def __init__(self, said: list[Message], end: Exception | None = None) -> None:
        super().__init__(HOSTS[0])
        self.said, self.end = said, end

    async def run(self, line: str, ping_first: bool = True, asked: Vm | None = None) -> AsyncIterator[Message]:
        for message in self.said:
            yield message
        if self.end is not None:
            raise self.end
        if not self.said or self.said[-1]["type"] != "result":
            await asyncio.sleep(3600)


def begin(
    host: Sender,
    verb: str = "stop",
    again: bool = False,
    sent: int = 0,
    job: str = "",
    asked: list[tuple[str, bool, bool]] | None = None,
    **found: Any,
) -> Run:
    """Begin a verb whose id was already sent `sent` times. `asked` gets what is asked about the VM's place."""
    ids = SentIds()
    for _ in range(sent):
        ids.add("msg_12345678")

    async def find(msg_id: str, changes: bool, is_repeated: bool) -> Destination:
        if asked is not None:
            asked.append((msg_id, changes, is_repeated))
        return Destination(host, **{"is_only": True} | found)

    caller = Caller("anna", (), frozenset({verb}))
    return Run(find, VerbRequest(verb, VM, "msg_12345678", caller, 0.0, again=again, job=job), ids, 0.0)


async def test_the_answer_and_the_stream_have_what_the_host_sent() -> None:
    begun = begin(Sender(SAID))
    async with asyncio.timeout(10):
        streamed = [message async for message in begun.stream(asyncio.Event())]
        answer = await begun.finished(asyncio.Event())
    assert streamed[0] == {"type": "accepted", "id": "msg_12345678", "verb": "stop", "vm": "devvm"}
    assert streamed[1:-1] == SAID[:-1]
    assert (streamed[-1]["type"], streamed[-1]["outcome"]) == ("result", "done")
    assert (answer.outcome, answer.body["stdout"], answer.body["stderr"]) == ("done", "stdout\n", "stderr\n")
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


NOT_SENT, LOST = Unreached("tcp", "no way there", "look"), Lost("it is silent", "")
FAILURES: dict[str, tuple[Exception, dict[str, Any], tuple[str, bool | None]]] = {
    "not sent": (NOT_SENT, {}, ("unreached", False)),
    "not sent, of several hosts": (NOT_SENT, {"is_only": False}, ("unreached", False)),
    "not sent, a read": (NOT_SENT, {"verb": "forensics", "is_only": False}, ("unreached", False)),
    "not sent now, but earlier": (NOT_SENT, {"sent": 1}, ("unknown", None)),
    "not sent, a repeated id": (NOT_SENT, {"again": True}, ("unreached", False)),
    "not sent, an id that another host may have": (NOT_SENT, {"again": True, "is_only": False}, ("unknown", None)),
    "not sent, an id that the host has": (NOT_SENT, {"has_id": True}, ("unknown", None)),
    "lost": (LOST, {}, ("unknown", None)),
    "lost, a read": (LOST, {"verb": "forensics"}, ("unknown", None)),
    "no time left": (TimeoutError(), {}, ("unknown", None)),
}


@each_row("name", FAILURES)
def test_each_failure_says_whether_anything_was_sent(name: str) -> None:
    """`unreached` promises that this id has done nothing, on any host."""
    error, more, wanted = FAILURES[name]

    async def end() -> tuple[object, object]:
        answer = await begin(Sender([], error), **more).finished(asyncio.Event())
        return answer.outcome, answer.body["reached"]

    assert asyncio.run(end()) == wanted


async def test_a_silent_node_is_named() -> None:
    """The request went to another host, because the VM's own node did not answer."""
    begun = begin(Sender([], NOT_SENT), away=HostConnection(HOSTS[1]))
    verdict = (await begun.finished(asyncio.Event())).body["verdict"]
    assert isinstance(verdict, dict)
    assert (verdict["code"], verdict["sentence"].startswith("the VM is on node b: no way there")) == ("tcp", True)
    healthy = {**SAID[-1], "verdict": {"code": "healthy", "sentence": "it works", "advice": "", "evidence": []}}
    for is_it in (False, True):
        host, other = Sender([healthy]), HostConnection(HOSTS[1])
        other.trouble = host.trouble = NOT_SENT
        other.since = host.since = 1.0
        answer = await begin(host, verb="forensics", away=host if is_it else other).finished(asyncio.Event())
        assert ("no way there" in str(answer.body["verdict"])) is not is_it


async def test_an_answer_before_the_end_says_what_is_known() -> None:
    """After the host's first message, it is `running`. Before that, only the end of the handler ends the wait."""
    runs = begin(Sender(SAID[:2])), begin(Sender([]))
    running = await runs[0].finished(asyncio.Event(), seconds=0.05)
    assert (running.status, running.outcome, running.body["stage"]) == (202, "running", "stop")
    assert running.body["stdout"] == "stdout\n"
    stopping = asyncio.Event()
    early = asyncio.create_task(runs[1].finished(stopping, seconds=0.0))
    await asyncio.wait([early], timeout=0.05)
    assert not early.done()
    stopping.set()
    assert (await early).outcome == "unknown"
    assert [each["type"] async for each in runs[0].stream(stopping)][:3] == ["accepted", "stage", "output"]
    for each in runs:
        each.task.cancel()


async def test_a_stream_says_which_host_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only until the host's first message. After that, a ping says that the verb continues."""
    monkeypatch.setattr(run, "TRYING_SECONDS", 0.01)
    monkeypatch.setattr(run, "PING_SECONDS", 0.01)
    for said, trying in (([], {"trying": "a: not-checked; trying"}), ([STAGE], {})):
        begun, stopping = begin(Sender(said)), asyncio.Event()
        stream = begun.stream(stopping)
        sent = [await asyncio.wait_for(anext(stream), 10) for _ in range(2 + len(said))]
        assert sent[1:] == [*said, {"type": "ping", **trying}]
        stopping.set()
        assert [message["type"] async for message in stream] == ["result"]
        begun.task.cancel()


async def test_a_history_has_the_job_that_was_asked_for() -> None:
    host = Sender([*SAID[1:-1], {**SAID[-1], "jobs": [], "whole_job": None}])
    body = (await begin(host, "history", job="msg_87654321").finished(asyncio.Event())).body
    assert (body["jobs"], body["job"]) == ([], None)


async def test_a_replaced_connection_carries_requests_only_while_it_alone_can() -> None:
    """The start applies the configuration to chat, too."""
    followed: list[object] = []

    async def follow(config: object) -> None:
        followed.append(config)

    config: Any = SimpleNamespace(hosts={}, vms={})
    service = Service(config, lambda: config, follow, asyncio.Event().wait)  # type: ignore[arg-type]
    service.start()
    vm, new = replace(VM, hosts=HOSTS[:1]), HostConnection(HOSTS[0])
    service.hosts = {"a": new}
    assert service._hosts_of(vm) == [new]
    service._before["a"] = HostConnection(HOSTS[0])
    assert service._hosts_of(vm) == [new]
    await asyncio.sleep(0)
    assert (followed, service._before) == ([config], {})
    for task in service._tasks:
        task.cancel()


async def test_after_a_stop_the_hosts_are_asked_for_other_processes_of_the_vm() -> None:
    """That look changes nothing and concerns no id. The only host of a VM is not asked again."""
    for is_only, looks in ((True, []), (False, [("", False, False)])):
        asked: list[tuple[str, bool, bool]] = []
        begun = begin(Sender(SAID), asked=asked, is_only=is_only)
        assert (await begun.finished(asyncio.Event())).outcome == "done"
        assert asked == [("msg_12345678", True, False), *looks]

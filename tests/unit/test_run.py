"""One request's verb, from what a simulated host sends or fails to send: the answer, and the stream of a client."""

import asyncio
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from breakglass.auth.signing import Caller
from breakglass.base.errors import Unreached
from breakglass.proxmox.host import HostConnection
from breakglass.proxmox.outcome import Message
from breakglass.proxmox.places import Destination
from breakglass.proxmox.request import SentIds, VerbRequest
from breakglass.proxmox.run import Run
from breakglass.service import Service

from ..support.rows import each_row
from .test_host_connection import Listener, live
from .test_places import HOSTS, VM

STAGE: Message = {"type": "stage", "stage": "stop", "deadline": 240.0, "started": "2026-11-24T03:12:44Z"}
SAID: list[Message] = [
    STAGE,
    {"type": "output", "stream": "stdout", "text": "stdout\n"},
    {"type": "output", "stream": "stderr", "text": "stderr\n"},
    {"type": "result", "outcome": "done", "exit_code": 0, "state": "stopped"},
]


def begin(
    host: HostConnection,
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


def test_the_answer_and_the_stream_have_what_the_host_sent() -> None:
    async def act(node: Listener, host: HostConnection) -> None:
        node.tells = SAID
        begun = begin(host)
        streamed = [message async for message in begun.stream(asyncio.Event())]
        answer = await begun.finished(asyncio.Event())
        await asyncio.sleep(0)
        assert "Event.wait" not in str(asyncio.all_tasks())
        assert streamed[0] == {"type": "accepted", "id": "msg_12345678", "verb": "stop", "vm": "devvm"}
        assert streamed[1:-1] == SAID[:-1]
        assert (streamed[-1]["type"], streamed[-1]["outcome"]) == ("result", "done")
        assert (answer.outcome, answer.body["stdout"], answer.body["stderr"]) == ("done", "stdout\n", "stderr\n")

    live(act)


REFUSED, LOST = "no login", "no login once it was sent"
FAILURES: dict[str, tuple[str, dict[str, Any], tuple[str, bool | None]]] = {
    "not sent": (REFUSED, {}, ("unreached", False)),
    "not sent, of several hosts": (REFUSED, {"is_only": False}, ("unreached", False)),
    "not sent, a read": (REFUSED, {"verb": "forensics", "is_only": False}, ("unreached", False)),
    "not sent now, but earlier": (REFUSED, {"sent": 1}, ("unknown", None)),
    "not sent, a repeated id": (REFUSED, {"again": True}, ("unreached", False)),
    "not sent, an id that another host may have": (REFUSED, {"again": True, "is_only": False}, ("unknown", None)),
    "not sent, an id that the host has": (REFUSED, {"has_id": True}, ("unknown", None)),
    "lost": (LOST, {}, ("unknown", None)),
    "lost, a read": (LOST, {"verb": "forensics"}, ("unknown", None)),
    "no time left": ("", {"verb": "forensics"}, ("unknown", None)),
}


@each_row("name", FAILURES)
def test_each_failure_says_whether_anything_was_sent(name: str) -> None:
    """At once. `unreached` promises that this id has done nothing, on any host."""
    fails, more, wanted = FAILURES[name]
    ends: list[float] = []

    async def end(node: Listener, host: HostConnection) -> tuple[object, object]:
        node.tells, refusal = [], ConnectionRefusedError()
        if fails == REFUSED:
            node.refusal = refusal
        else:
            await host.connected()
        begun = begin(host, **more)
        begun.task.add_done_callback(lambda _: ends.append(time.monotonic()))
        await asyncio.sleep(1)
        if fails == LOST:
            node.refusal = refusal
            next(iter(node.connections)).abort()
        answer, answered = await begun.finished(asyncio.Event(), 3600.0), time.monotonic()
        await begun.task
        await asyncio.sleep(0)
        assert answered - ends[0] <= 1
        return answer.outcome, answer.body["reached"]

    assert live(end) == wanted


def test_a_silent_node_is_named() -> None:
    """The request went to another host, because the VM's own node did not answer."""
    healthy = {**SAID[-1], "verdict": {"code": "healthy", "sentence": "it works", "advice": "", "evidence": []}}

    async def act(node: Listener, host: HostConnection) -> None:
        node.tells = [healthy]
        await host.connected()
        for is_it in (False, True):
            other = HostConnection(HOSTS[1])
            other.trouble = host.trouble = Unreached("tcp", "no way there", "look")
            other.since = host.since = 1.0
            begun = begin(host, verb="forensics", away=host if is_it else other)
            answer = await begun.finished(asyncio.Event())
            assert ("no way there" in str(answer.body["verdict"])) is not is_it
        node.refusal = ConnectionRefusedError()
        next(iter(node.connections)).abort()
        begun = begin(host, away=HostConnection(HOSTS[1]))
        verdict = (await begun.finished(asyncio.Event(), 600.0)).body["verdict"]
        assert isinstance(verdict, dict)
        assert "node b: " in str(verdict["sentence"])

    live(act)


def test_an_answer_before_the_end_says_what_is_known() -> None:
    """After the host's first message, it is `running`. Before that, only the end of the handler ends the wait."""

    async def act(node: Listener, host: HostConnection) -> None:
        node.tells = SAID[:2]
        begun = begin(host)
        running = await begun.finished(asyncio.Event(), seconds=3.0)
        assert (running.status, running.outcome, running.body["stage"]) == (202, "running", "stop")
        assert running.body["stdout"] == "stdout\n"
        node.tells, stopping = [], asyncio.Event()
        silent = begin(host)
        early = asyncio.create_task(silent.finished(stopping, seconds=0.0))
        await asyncio.wait([early], timeout=40.0)
        assert not early.done()
        stopping.set()
        assert (await early).outcome == "unknown"
        assert [each["type"] async for each in begun.stream(stopping)][:3] == ["accepted", "stage", "output"]
        for each in (begun, silent):
            each.task.cancel()

    live(act)


def test_a_stream_says_which_host_is_tried() -> None:
    """Only until the host's first message. After that, a ping says that the verb continues."""

    async def act(node: Listener, host: HostConnection) -> None:
        for said in ([], [STAGE]):
            node.is_silent, node.tells = not said, said
            begun, stopping = begin(host), asyncio.Event()
            stream = begun.stream(stopping)
            sent = [await anext(stream) for _ in range(2 + len(said))]
            trying = {} if said else {"trying": "host0: not-checked; trying"}
            assert sent[1:] == [*said, {"type": "ping", **trying}]
            stopping.set()
            assert [message["type"] async for message in stream] == ["result"]
            begun.task.cancel()
        await asyncio.sleep(60)

    live(act)


def test_a_history_has_the_job_that_was_asked_for() -> None:
    async def act(node: Listener, host: HostConnection) -> None:
        node.tells = [*SAID[1:-1], {**SAID[-1], "jobs": [], "whole_job": None}]
        body = (await begin(host, "history", job="msg_87654321").finished(asyncio.Event())).body
        assert (body["jobs"], body["job"]) == ([], None)
        assert node.lines[-1] == "job vm=102 id=msg_87654321"

    live(act)


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


def test_after_a_stop_the_hosts_are_asked_for_other_processes_of_the_vm() -> None:
    """That look changes nothing and concerns no id. The only host of a VM is not asked again."""

    async def act(node: Listener, host: HostConnection) -> None:
        node.tells = SAID
        for is_only, looks in ((True, []), (False, [("", False, False)])):
            asked: list[tuple[str, bool, bool]] = []
            begun = begin(host, asked=asked, is_only=is_only)
            assert (await begun.finished(asyncio.Event())).outcome == "done"
            assert asked == [("msg_12345678", True, False), *looks]

    live(act)

"""Runs the handler's own code in a simulated world, in which the promises of the API must hold. A seed makes a history.

Real are the modules of handler/proxmox, from the request to the bytes on a channel. Simulated are the clock, SSH
connections that lose and delay bytes, and two hosts that keep the promises of the host agent. Clients send an id twice
and another id once; connections die, handlers and hosts restart, a host loses the cluster, a job is killed, the VM
moves. `python -m tests.model.simulation FIRST COUNT` runs many seeds, and says what each one broke.
"""

import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

from breakglass.agents.pve.jobs.result import Result, Verdict
from breakglass.agents.pve.words import BUSY, DONE, FAILED, ID_REUSED, REFUSED, STRANDED
from breakglass.auth.signing import Caller
from breakglass.config.model import Address, Host, Vm
from breakglass.proxmox.host import HostConnection
from breakglass.proxmox.places import Places
from breakglass.proxmox.request import SentIds, VerbRequest
from breakglass.proxmox.run import Run

HOSTS, VMID = (0, 1), 102
MOST_SECONDS = 400.0  # in which each request must have its answer


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only while it would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        vars(self)["_selector"].select = self._skip

    def time(self) -> float:
        return self.now

    def _skip(self, timeout: float | None) -> list[object]:
        assert timeout is not None, "nothing can happen any more"
        self.now += max(timeout, 0.0) + 1e-9
        return []


class Job:
    """A job of an id at a host."""

    def __init__(self, msg_id: str, verb: str) -> None:
        self.id, self.verb = msg_id, verb
        self.is_checked = False  # it has looked where the VM is, and acts or has ended
        self.ended: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[None] | None = None


class Node:
    """A host as its agent serves it. It claims an id once, runs one job at a time, and remembers ids over a boot."""

    def __init__(self, world: "World", number: int) -> None:
        self.world, self.number = world, number
        self.is_up = self.sees = True
        self.jobs: dict[str, Job] = {}
        self.archive: set[str] = set()
        self.lock = ""
        self.connections: dict[Connection, None] = {}  # in the order of their logins

    def take(self, connection: "Connection", line: str) -> None:
        """Read one line of a session."""
        tag, verb, *words = line.split()
        fields = dict(word.split("=", 1) for word in words if "=" in word)
        if verb in ("ping", "where"):
            connection.answer(tag, self.say(Result(DONE, stage=verb, extra=self.about(verb, fields.get("id", "")))))
            return
        job, is_new = self.jobs.get(fields["id"]), fields["id"] not in self.jobs
        if job is None:
            job = self.jobs[fields["id"]] = Job(fields["id"], verb)
            job.task = self.world.spawn(self.run(job))
        connection.answer(tag, {"type": "stage", "stage": "preflight", "started": "now", "deadline": 150})

        def tell(ended: asyncio.Future[Result]) -> None:
            if not ended.cancelled():
                connection.answer(tag, self.say(ended.result()) | {"attached": not is_new})

        job.ended.add_done_callback(tell)

    def say(self, result: Result) -> dict[str, object]:
        return {"type": "result", **result.as_json()}

    def about(self, verb: str, msg_id: str) -> dict[str, object]:
        """Return the fields of a `ping` or a `where`."""
        name, has_process = f"node{self.number}", self.world.place == self.number and self.world.is_on
        if verb == "ping":
            return {"version": "1", "node": name, "vms": str(VMID), "cluster": "c", "proven": None}
        place = f"node{self.world.place}" if self.sees else name if has_process else ""
        known = msg_id in self.jobs or msg_id in self.archive
        where = {"here": name, "node": place, "sure": self.sees, "process": has_process, "migrating": False}
        return where | {"cluster": "c", "known": known if msg_id else None}

    async def run(self, job: Job) -> None:
        """Do what a job does, in the host agent's order."""
        world, took_lock = self.world, False
        await world.pause(0.3)
        if self.lock:
            busy, old = Verdict("vm-held", "another job has the VM"), Verdict("id-taken", "used before the boot")
            result = Result(ID_REUSED, verdict=old) if job.id in self.archive else Result(BUSY, verdict=busy)
        else:
            self.lock, took_lock = job.id, True
            await world.pause(0.5)
            result = await self.act(job)
        job.is_checked = True
        if took_lock:
            self.lock = ""
        job.ended.set_result(result)

    async def act(self, job: Job) -> Result:
        """Check, then change the power."""
        world, is_here = self.world, self.world.place == self.number
        job.is_checked = True
        if job.id in self.archive:
            return Result(ID_REUSED, verdict=Verdict("id-taken", "used before the boot"))
        if not self.sees or not is_here:
            return Result(REFUSED, verdict=Verdict("other-node", "the VM is elsewhere"))
        self.archive.add(job.id)
        world.acts.append((job.id, self.number))
        world.is_on = False
        await world.pause(6.0)
        if job.verb == "stop":
            return Result(DONE, "stopped")
        if world.place != self.number or not self.sees:
            return Result(STRANDED, "stopped", verdict=Verdict("stranded", "it could not be started"))
        world.is_on = True
        return Result(DONE, "running")

    def kill_job(self) -> None:
        """Kill a job before it acts; later, its standby process would continue it."""
        for job in self.jobs.values():
            if not job.is_checked and job.task is not None:
                job.task.cancel()
                job.is_checked = True
                self.lock = "" if self.lock == job.id else self.lock
                job.ended.set_result(Result(FAILED, verdict=Verdict("job-killed", "the job was killed")))

    def crash(self) -> None:
        """Lose power: the connections are dead, and /run is empty at the next boot."""
        self.is_up = False
        for connection in list(self.connections):
            connection.die()
        for job in self.jobs.values():
            if job.task is not None:
                job.task.cancel()
            if not job.ended.done():
                job.ended.cancel()
            elif job.ended.result().exit_code in (REFUSED, BUSY):
                self.world.excused.add(job.id)  # its refusal is forgotten: README.md, "forgotten"
        self.jobs, self.lock = {}, ""
        if self.world.place == self.number:
            self.world.is_on = False


class Connection:
    """An SSH connection with one channel. Each direction keeps its order. A dead one may still deliver a line late."""

    def __init__(self, world: "World", node: Node, user: str) -> None:
        self.world, self.node, self.user = world, node, user
        self.is_dead = self.is_over = False
        self._ends = asyncio.get_running_loop().create_future()
        self._last = {"down": 0.0, "up": 0.0}
        self.session: Any = None
        node.connections[self] = None

    async def create_session(self, factory: Callable[[], Any], line: str, encoding: None) -> None:
        await self.world.pause(0.1)
        if self.is_dead:
            await asyncio.sleep(3600)
        self.session = factory()
        self.session.connection_made(self)

    def _later(self, way: str, most: float, work: Callable[[], object]) -> None:
        loop = asyncio.get_running_loop()
        self._last[way] = max(self._last[way], loop.time() + self.world.chance.uniform(0.001, most)) + 1e-6
        loop.call_at(self._last[way], work)

    def write(self, data: bytes) -> None:
        for line in data.decode().splitlines():
            msg_id = next((word[3:] for word in line.split() if word.startswith("id=")), "")
            is_verb = line.split()[1] in ("cycle", "stop")
            if is_verb:
                self.world.sent[self.user, msg_id] += 1
                self.world.on_the_way[msg_id] += 1
            if not self.is_dead:
                self._later("up", 0.2, partial(self._deliver, line, msg_id if is_verb else ""))
            elif is_verb and self.world.chance.random() < 0.5:
                self._later("up", 14.0, partial(self._deliver, line, msg_id))

    def _deliver(self, line: str, msg_id: str) -> None:
        if msg_id:
            self.world.on_the_way[msg_id] -= 1
        if self.node.is_up:
            self.node.take(self, line)

    def answer(self, tag: str, message: dict[str, object]) -> None:
        """Send a message to the handler, unless the connection is dead by the time it would arrive."""
        if not self.is_dead:
            data = json.dumps({"tag": tag, **message}).encode() + b"\n"
            self._later("down", 0.2, lambda: self.is_dead or self.is_over or self.session.data_received(data, None))

    def die(self) -> None:
        """Lose all bytes from now on; SSH's keep-alive notices that after a while."""
        self.is_dead = True
        self.node.connections.pop(self, None)
        asyncio.get_running_loop().call_later(self.world.chance.uniform(5, 20), self.abort)

    def abort(self) -> None:
        if not self.is_over:
            self.is_over = True
            self.node.connections.pop(self, None)
            self._ends.set_result(None)
            if self.session is not None:
                asyncio.get_running_loop().call_soon(self.session.connection_lost, None)

    close = abort

    def is_closed(self) -> bool:
        return self.is_over

    async def wait_closed(self) -> None:
        await asyncio.shield(self._ends)

    def pause_reading(self) -> None:
        """Do nothing, because the messages are small."""

    resume_reading = pause_reading


class Handler:
    """One process of the handler: what `Service` does for a verb."""

    def __init__(self, world: "World") -> None:
        world.handlers_begun += 1
        self.user = f"handler{world.handlers_begun}"
        names = HOSTS[:1] if world.is_alone else HOSTS
        hosts = [Host(f"host{n}", Address(self.user, f"node{n}"), cluster="c", key="k") for n in names]
        self.vm = Vm("devvm", VMID, tuple(hosts))
        self.hosts = [HostConnection(host) for host in hosts]
        self.places, self.sent = Places(), SentIds()
        self.runs: list[Run] = []
        for host in self.hosts:
            host.chance = world.chance.random
            host.start()

    def send(self, verb: str, msg_id: str, again: bool) -> Run:
        request = VerbRequest(verb, self.vm, msg_id, Caller("anna", (), frozenset()), 0, again=again)
        run = Run(partial(self.places.find, self.vm, self.hosts), request, self.sent, time.monotonic())
        self.runs.append(run)
        return run

    async def end(self) -> None:
        """Die: the kernel closes the connections."""
        for run in self.runs:
            run.task.cancel()
        for host in self.hosts:
            await host.close()


class World:
    """Everything of one seed."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.is_alone = self.chance.random() < 0.25  # the VM has one host
        self.place, self.is_on = 0 if self.is_alone else self.chance.randrange(2), True
        self.acts: list[tuple[str, int]] = []
        self.excused: set[str] = set()  # ids in a gap that README.md describes
        self.sent, self.on_the_way = Counter[tuple[str, str]](), Counter[str]()  # lines of an id: all, and not read yet
        self.handlers_begun = 0
        self.said: list[str] = []
        self.asked: list[tuple[str, Run]] = []
        self.broken: list[str] = []
        self.tasks: set[asyncio.Task[None]] = set()

    async def pause(self, most: float) -> None:
        await asyncio.sleep(self.chance.uniform(0.0, most))

    def spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def say(self, what: str) -> None:
        self.said.append(f"{asyncio.get_running_loop().time() - 1000:8.3f} {what}")

    def move(self) -> None:
        """Move the VM. An id whose line is on its way, or whose job has not checked yet, is in a documented gap."""
        target = 1 - self.place
        if self.is_alone or not self.nodes[target].is_up or not self.nodes[target].sees:
            return
        unchecked = {job.id for node in self.nodes for job in node.jobs.values() if not job.is_checked}
        open_ids = {run._request.id for handler in self.handlers for run in handler.runs if run.answer is None}
        waiting = {msg_id for msg_id in open_ids if not any(job == msg_id for node in self.nodes for job in node.jobs)}
        self.excused |= unchecked | waiting | {msg_id for msg_id, count in self.on_the_way.items() if count}
        self.say(f"the VM moves to node {target}")
        self.place = target
        if not self.nodes[1 - target].is_up:
            self.is_on = True

    async def connect(self, host: Host) -> Connection:
        node = self.nodes[int(host.ssh.host[-1])]
        await self.pause(0.3)
        if not node.is_up:
            if self.chance.random() < 0.5:
                raise ConnectionRefusedError
            await asyncio.sleep(3600)
        return Connection(self, node, host.ssh.user)

    # --- one history ---

    async def live(self) -> list[str]:
        """Let one history happen; return the promises that it broke."""
        chance = self.chance
        self.nodes = [Node(self, number) for number in HOSTS]
        self.handlers = [Handler(self) for _ in range(2)]
        first = chance.uniform(0.0, 3.0)
        later = sorted(first + chance.expovariate(0.15) for _ in range(chance.randint(1, 3)))
        sendings = [("cycle", "A", False, first), *(("cycle", "A", True, at) for at in later)]
        if chance.random() < 0.5:
            sendings.append(("stop", "B", False, chance.uniform(0.0, 20.0)))
        for verb, msg_id, again, at in sendings:
            self.spawn(self._send(at, verb, msg_id, again))
        for _ in range(chance.randint(0, 4)):
            self.spawn(self._fail(first + chance.expovariate(0.2)))
        for _ in range(chance.choice((0, 1, 1, 2))):
            self.spawn(self._after(first + chance.expovariate(0.25), self.move))
        await asyncio.sleep(MOST_SECONDS)
        broken = list(self._broken())
        for handler in self.handlers:
            await handler.end()
        for task in list(self.tasks):
            task.cancel()
        return broken

    async def _after(self, seconds: float, work: Callable[[], object]) -> None:
        await asyncio.sleep(seconds)
        work()

    async def _send(self, at: float, verb: str, msg_id: str, again: bool) -> None:
        await asyncio.sleep(at)
        number = self.chance.randrange(2)
        self.say(f"a client sends {msg_id}{' again' if again else ''} ({verb}) to handler {number}")
        handler = self.handlers[number]
        run = handler.send(verb, msg_id, again)
        self.asked.append((msg_id, run))
        await asyncio.wait([run.task])
        if run.answer and run.answer.outcome == "unreached" and self.sent[handler.user, msg_id]:
            self.broken.append(f"{msg_id} is unreached, and a line was sent")
        self.say(f"{msg_id} at handler {number}: {run.answer.outcome if run.answer else 'no answer, it died'}")

    async def _fail(self, at: float) -> None:
        await asyncio.sleep(at)
        chance = self.chance
        node = self.nodes[chance.randrange(2)]
        kind = chance.choice(("link", "link", "crash", "restart", "kill", "cluster"))
        self.say(f"{kind}, node {node.number}")
        if kind == "link" and node.connections:
            chance.choice(list(node.connections)).die()
        elif kind == "crash" and node.is_up:
            node.crash()
            await self.pause(60.0)
            node.is_up = True
            self.say(f"node {node.number} is up")
        elif kind == "restart":
            number = chance.randrange(2)
            await self.handlers[number].end()
            self.handlers[number] = Handler(self)
        elif kind == "kill":
            node.kill_job()
        elif kind == "cluster":
            node.sees = False
            await self.pause(40.0)
            node.sees = True

    def _broken(self) -> Iterator[str]:
        yield from self.broken
        acts = Counter(msg_id for msg_id, _ in self.acts)
        for msg_id, count in acts.items():
            if count > 1 and msg_id not in self.excused:
                yield f"{msg_id} has acted {count} times"
        for msg_id, run in self.asked:
            if run.answer is None:
                if not run.task.cancelled():
                    yield f"{msg_id} has no answer"
                continue
            outcome = run.answer.outcome
            if "Breakglass itself failed" in str(run.answer.body["verdict"]):
                yield f"{msg_id}: the handler failed: {run.answer.body['verdict']}"
            if outcome in ("refused", "busy") and acts[msg_id] and msg_id not in self.excused:
                yield f"{msg_id} is {outcome}, and has acted"
            if outcome == "done" and not acts[msg_id]:
                yield f"{msg_id} is done, and has not acted"


@contextmanager
def simulated(world: World) -> Iterator[VirtualLoop]:
    """An event loop with its own time, which the handler's modules see, and with the world's connections."""
    loop = VirtualLoop()
    try:
        with patch("time.monotonic", loop.time), patch("breakglass.proxmox.link.connect", world.connect):
            yield loop
    finally:
        loop.close()


def history(seed: int) -> tuple[list[str], World]:
    """Return the promises that a seed breaks, and its world."""
    world = World(seed)
    with simulated(world) as loop:
        return loop.run_until_complete(world.live()), world


def main(first: int, count: int) -> int:
    """Run seeds; print the history of each that breaks a promise, and the counts."""
    began, counts = time.monotonic(), Counter[str]()
    for seed in range(first, first + count):
        broken, world = history(seed)
        counts.update(["in a gap"] * bool(world.excused) + ["broken"] * bool(broken))
        counts.update(str(run.answer.outcome if run.answer else "died") for _, run in world.asked)
        if broken:
            print(f"seed {seed}:", *broken, *world.said, sep="\n    ", flush=True)
    print(f"{count} seeds from {first} in {time.monotonic() - began:.0f} s: {dict(counts)}")
    return int(counts["broken"] > 0)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:3])))

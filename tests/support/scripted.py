"""A host agent that gives scripted answers, behind the real sshd and in front of the real handler.

It replaces hosts that can't be made here, and host agents that are older or newer than ours.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from breakglass.demo.proxmox.world import World

from .service import Service
from .sshd import Sshd

# The first rule whose words are all in a line answers the line. A message `{"wait": FILE}` waits for a file.
AGENT = """
import json, os, sys, threading, time
from pathlib import Path

HERE = Path(__file__).parent
LOCK = threading.Lock()

def answers(line):
    with LOCK, (HERE / "asked").open("a") as file:
        file.write(line + "\\n")
    rules = json.loads((HERE / "rules.json").read_text())
    return next(messages for words, messages in rules if set(words.split()) <= set(line.split()))

def said(line):
    for message in answers(line):
        if "wait" in message:
            while not (HERE / message["wait"]).exists():
                time.sleep(0.02)
        else:
            yield message

def serve(tag, line):
    for message in said(line):
        with LOCK:
            print(json.dumps({"tag": tag, **message}), flush=True)

def session():
    for line in sys.stdin:
        tag, _, command = line.rstrip("\\n").partition(" ")
        threading.Thread(target=serve, args=(tag, command), daemon=True).start()
    os._exit(0)

session()
"""

Rules = list[tuple[str, list[dict[str, Any]]]]


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def stage(name: str, deadline: float = 420.0, **more: object) -> dict[str, Any]:
    """Return the message of a job that enters a stage."""
    return {"type": "stage", "stage": name, "deadline": deadline, "started": now(), **more}


def output(text: str) -> dict[str, Any]:
    return {"type": "output", "stream": "stdout", "text": text}


def result(exit_code: int = 0, outcome: str = "done", **more: object) -> dict[str, Any]:
    """Return a trailer."""
    told: dict[str, Any] = {
        "state": "running",
        "last": "none",
        "stage": "verify",
        "verdict": None,
        "warnings": [],
        "holder": None,
        "vms": "all",  # of a ping
    }
    return {"type": "result", "exit_code": exit_code, "outcome": outcome, **told, "seconds": 1.0, **more}


HUNG = {
    "code": "storage-hung",
    "sentence": "the storage of this VM does not answer; nothing was changed",
    "advice": "",
    "evidence": ["CPU 0/KVM: 2.1 s in D, in nfs_wait_bit_killable"],
}
REFUSED = [stage("preflight"), result(12, "refused", verdict=HUNG, stage="forensics", anyway="storage-hung")]
DONE = [stage("preflight"), output("reset: QEMU accepted the reset\n"), result(deadline=420.0)]
STORAGE_HUNG: Rules = [("anyway=storage-hung", DONE), ("reset", REFUSED), ("cycle", REFUSED), ("", [result(jobs=[])])]


class Scripted:
    """A script in the place of the host agent. `rules` may be changed while a handler is connected."""

    def __init__(self, world: World, rules: Rules = STORAGE_HUNG) -> None:
        self.place = world.agent.parent
        world.agent.write_text(AGENT)
        self.say(rules)

    def say(self, rules: Rules) -> None:
        """Answer by these rules from now on, and forget earlier requests."""
        new = self.place / "rules.new"
        new.write_text(json.dumps(rules))
        new.rename(self.place / "rules.json")
        (self.place / "asked").write_text("")

    def asked(self, verb: str) -> list[str]:
        """Return the lines that began with this verb."""
        lines = (self.place / "asked").read_text().splitlines()
        return [line for line in lines if line.split(" ")[0] == verb]

    def let_go(self, file: str) -> None:
        """End the wait for a file."""
        (self.place / file).touch()


@contextmanager
def scripted_host(directory: Path) -> Iterator[tuple[World, Sshd]]:
    """Run a host without a VM and with a script as its agent."""
    world = World(directory)
    Scripted(world)
    with Sshd(world) as sshd:
        yield world, sshd


@contextmanager
def scripted(world: World, sshd: Sshd, service: Service) -> Iterator[Scripted]:
    """Replace the host agent by a script until the block ends."""
    real = world.agent.read_text()
    script = Scripted(world)
    try:
        reconnect(sshd, service)
        yield script
    finally:
        world.agent.write_text(real)
        reconnect(sshd, service)


def reconnect(sshd: Sshd, service: Service) -> None:
    """Make the handler open a new session."""
    sshd.stop()
    service.not_answering()
    sshd.start()
    service.answering()

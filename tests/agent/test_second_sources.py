"""Second sources, for when the first one can't tell: the guest agent, and the word of `qm status`."""

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from pathlib import Path

import pytest

from breakglass.agents.pve.forensics.guest_agent import (
    ask_guest_agent,
    is_agent_port_open,
)
from breakglass.agents.pve.forensics.on_qemu import name_agent_state
from breakglass.demo.proxmox.world import CONF, VMID, World

from ..support.agent import constants_set, execute, set_constants
from ..support.pve_host import conf, dead_upid, task, task_index


def qga(world: World) -> Path:
    """Return the path of the guest agent's socket."""
    return world.root / f"run/qemu-server/{VMID}.qga"


@contextmanager
def listening(path: Path, talk: Callable[[socket.SocketIO], None]) -> Iterator[None]:
    """Serve a socket in the place of the one that is there, one client after the other."""

    def serve() -> None:
        with suppress(OSError):  # the end of the block
            while True:
                client = listener.accept()[0]
                with suppress(OSError), client, client.makefile("rwb", buffering=0) as stream:
                    talk(stream)

    with socket.socket(socket.AF_UNIX) as listener:
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        listener.listen()
        serving = threading.Thread(target=serve)
        serving.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            serving.join()


def agent_port(path: Path, answers: bool, freeze: dict[str, object] | None = None) -> AbstractContextManager[None]:
    """Serve the guest agent's socket as an agent would, or as the port of a guest without an agent.

    `freeze` is its answer to guest-fsfreeze-status. With None, it never answers that.
    """

    def talk(stream: socket.SocketIO) -> None:
        stream.write(b'{"return": "the late answer to another client"}\n{"return": "frozen"}\n')
        for line in stream:
            request = json.loads(line.lstrip(b"\xff"))
            is_sync = request["execute"] == "guest-sync"
            answer = {"return": request["arguments"]["id"]} if is_sync else freeze
            if answers and answer is not None:
                stream.write(json.dumps(answer).encode() + b"\n")

    return listening(path, talk)


def lying_monitor(world: World, word: str) -> AbstractContextManager[None]:
    """Replace QEMU on its monitor, as a QEMU that was taken over can, and report `word` as the state.

    As QEMU does, it sends the answer for a client that has left to the next one.
    """

    def talk(stream: socket.SocketIO) -> None:
        stream.write(b'{"QMP": {}}\n{"return": {"status": "paused"}, "id": "of a client that has left"}\n')
        for line in stream:
            request = json.loads(line)
            state = {"status": word} if request["execute"] == "query-status" else {}
            stream.write(json.dumps({"return": state, "id": request["id"]}).encode() + b"\n")

    return listening(world.root / f"run/qemu-server/{VMID}.qmp", talk)


def test_a_monitor_that_lies(world: World) -> None:
    """The answer to another client is skipped. Otherwise, each answer would be that of the previous command.

    A word that is no state of QEMU is not passed on. The page would send it back as `if_state`, and each button would
    fail.
    """
    with lying_monitor(world, "running"):
        assert execute(world, "status").trailer["state"] == "running"
    for word in ("RUNNING!", "running\n", "stopped", "elsewhere", "unknown"):
        with lying_monitor(world, word):
            answer = execute(world, "status")
        assert (answer.code, answer.trailer["state"]) == (0, "unknown")
        assert answer.stdout.startswith(f"unknown: pid {world.pid}; QMP says")


def test_the_guest_agent_is_reported_and_not_required(world: World) -> None:
    """The output and the trailer say whether it answers. The reset is done without it, and without its port."""
    with constants_set(world, AGENT_PING_SECONDS=10.0), agent_port(qga(world), answers=True):
        answer = execute(world, "reset")
    assert (answer.code, answer.trailer["agent"]) == (0, "answers")
    assert "guest agent answers\n" in answer.stdout
    with agent_port(qga(world), answers=False):
        answer = execute(world, "reset")
    assert (answer.code, answer.trailer["outcome"], answer.trailer["agent"]) == (0, "done", "silent")
    assert "agent does not" in answer.stdout
    os.unlink(qga(world))
    without = execute(world, "reset")
    assert (without.code, "agent" in without.trailer) == (0, False)


# As qemu-ga 10.0.13 says it; with a frozen guest, the command is one of the few that it still answers.
FREEZE: dict[str, tuple[dict[str, object] | None, str]] = {
    "frozen": ({"return": "frozen"}, "frozen"),
    "forbidden": ({"error": {"class": "CommandNotFound", "desc": "the command is not allowed"}}, "answers"),
    "late": (None, "answers"),
}


def test_the_guest_agent_is_asked_whether_the_file_systems_are_frozen(short_dir: Path) -> None:
    """An agent that refuses the question or is late counts as answering. Another client's answer is skipped."""
    path = short_dir / "qga"
    for name, (answer, state) in FREEZE.items():
        with agent_port(path, answers=True, freeze=answer):
            found = ask_guest_agent(str(path), 0.3 if name == "late" else 30.0, "guest-fsfreeze-status")
            assert name_agent_state(found) == state, name
    with agent_port(path, answers=False):
        assert ask_guest_agent(str(path), 0.1, "guest-fsfreeze-status") is None


@contextmanager
def with_devices(directory: Path, *words: str) -> Iterator[World]:
    """Run a VM whose QEMU has more devices."""
    with closing(World(directory)) as world:
        command = world.root / "vm.json"
        more = [word.format(qga=qga(world)) for word in words]
        command.write_text(json.dumps(json.loads(command.read_text()) + more))
        started = world.qm("start", str(VMID))
        assert started.returncode == 0, started.stderr
        yield world


# The guest has opened the agent's port, as QEMU says. A test itself serves the socket.
OPEN_PORT = ("-chardev", "null,id=qga0", "-device", "isa-serial,chardev=qga0")


@pytest.mark.real("qemu")
@pytest.mark.usefixtures("own_tasks")
def test_a_frozen_guest_is_not_called_healthy(short_dir: Path) -> None:
    """The agent answers, but every service that writes waits. The verdict names the backup that froze the guest."""
    frozen: dict[str, object] = {"return": "frozen"}
    with with_devices(short_dir, *OPEN_PORT) as world, task(f"vzdump:{VMID}") as upid:
        set_constants(world, SAMPLES_APART=0.3)
        ended = f"{dead_upid(f'vzdump:{VMID}')} 1 6743E100 job errors"
        for index, says, whose in (
            (upid, "a backup runs", "works on it"),
            (ended, "no backup works on the VM now", "has ended: job errors"),
        ):
            conf(world).write_text(f"lock: backup\n{CONF}" if index == upid else CONF)
            task_index(world, index)
            with agent_port(qga(world), answers=True, freeze=frozen):
                verdict = execute(world, "forensics").trailer["verdict"]
            assert (verdict["code"], verdict["advice"]) == ("guest-frozen", "")
            thaw, *lines = verdict["evidence"]
            assert thaw.endswith(f": qm guest cmd {VMID} fsfreeze-thaw")
            assert says in verdict["sentence"]
            owner = f"vzdump of VM {VMID} by root@pam, process"
            assert [line for line in lines[:2] if owner in line and line.endswith(whose)]


def test_an_agents_port_is_open_or_not() -> None:
    """query-chardev distinguishes them, and a VM without the port is a third case."""
    monitor: dict[str, object] = {"label": "charmonitor", "frontend-open": True}
    assert is_agent_port_open([monitor, {"label": "qga0", "frontend-open": True}]) is True
    assert is_agent_port_open([monitor, {"label": "qga0", "frontend-open": False}]) is False
    assert is_agent_port_open([monitor]) is None
    assert is_agent_port_open(None) is None

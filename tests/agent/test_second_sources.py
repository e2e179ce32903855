"""Second sources, for when the first one can't tell: the guest agent, and the word of `qm status`."""

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from breakglass.agents.pve.forensics.guest_agent import (
    ask_guest_agent,
    guest_agent_state,
    is_agent_port_open,
    ping_guest_agent,
)
from breakglass.agents.pve.forensics.on_qemu import name_agent_state
from breakglass.agents.pve.host.paths import Host
from breakglass.demo.proxmox.world import VMID, World

from ..support.agent import execute, set_constants
from ..support.pve_host import dead_upid, lock, task, task_index
from ..support.selection import sampled


def qga(world: World) -> Path:
    """Return the path of the guest agent's socket."""
    return world.root / f"run/qemu-server/{VMID}.qga"


@contextmanager
def agent_port(path: Path, answers: bool, freeze: dict[str, object] | None = None) -> Iterator[None]:
    """Serve the guest agent's socket as an agent would, or as the port of a guest without an agent.

    `freeze` is its answer to guest-fsfreeze-status. With None, it never answers that.
    """
    with socket.socket(socket.AF_UNIX) as listener:
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        listener.listen()
        serving = threading.Thread(target=_serve, args=(listener, answers, freeze))
        serving.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            serving.join()


def _serve(listener: socket.socket, answers: bool, freeze: dict[str, object] | None) -> None:
    while True:
        try:
            client = listener.accept()[0]
        except OSError:
            return
        with client:
            client.sendall(b'{"return": "the late answer to another client"}\n{"return": "frozen"}\n')
            with client.makefile("rb") as stream:
                for line in stream:
                    request = json.loads(line.lstrip(b"\xff"))
                    is_sync = request["execute"] == "guest-sync"
                    answer = {"return": request["arguments"]["id"]} if is_sync else freeze
                    if answers and answer is not None:
                        client.sendall(json.dumps(answer).encode() + b"\n")


@contextmanager
def lying_monitor(world: World, word: str) -> Iterator[None]:
    """Replace QEMU on its monitor, as a QEMU that was taken over can, and report `word` as the state.

    As QEMU does, it sends the answer for a client that has left to the next one.
    """
    path = world.root / f"run/qemu-server/{VMID}.qmp"
    with socket.socket(socket.AF_UNIX) as listener:
        path.unlink()
        listener.bind(str(path))
        listener.listen()
        serving = threading.Thread(target=_lie, args=(listener, word))
        serving.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            serving.join()


def _lie(listener: socket.socket, word: str) -> None:
    while True:
        try:
            client = listener.accept()[0]
        except OSError:
            return
        with client, client.makefile("rwb") as stream:
            stream.write(b'{"QMP": {}}\n{"return": {"status": "paused"}, "id": "of a client that has left"}\n')
            stream.flush()
            for line in stream:
                request = json.loads(line)
                state = {"status": word} if request["execute"] == "query-status" else {}
                stream.write(json.dumps({"return": state, "id": request["id"]}).encode() + b"\n")
                stream.flush()


def test_the_answer_to_another_client_is_not_ours(world: World) -> None:
    """It is skipped. Otherwise, each answer would be that of the previous command."""
    with lying_monitor(world, "running"):
        assert execute(world, "status").trailer["state"] == "running"


@pytest.mark.parametrize("word", sampled(["RUNNING!", "running\n", "stopped", "elsewhere", "unknown"], "RUNNING!"))
def test_a_word_that_is_no_state_of_qemus_is_not_passed_on(world: World, word: str) -> None:
    """A QEMU that was taken over can send it. The page would send it back as `if_state`, so each button would fail."""
    with lying_monitor(world, word):
        answer = execute(world, "status")
    assert (answer.code, answer.trailer["state"]) == (0, "unknown")
    assert answer.stdout.splitlines()[0] == f"unknown: pid {world.pid}; QMP says a state that QEMU does not have"


def test_the_guest_agent_is_reported(world: World) -> None:
    """If it answers, the output and the trailer say so."""
    set_constants(world, AGENT_PING_SECONDS=10.0)
    with agent_port(qga(world), answers=True):
        answer = execute(world, "reset")
    assert (answer.code, answer.trailer["agent"]) == (0, "answers")
    assert "verify: the guest agent answers" in answer.stdout.splitlines()


@pytest.mark.all
def test_the_guest_agent_is_not_required(world: World) -> None:
    """If it is silent, the output says so, and the reset is still done. Without a port, the output says nothing."""
    with agent_port(qga(world), answers=False):
        answer = execute(world, "reset")
    assert (answer.code, answer.trailer["outcome"], answer.trailer["agent"]) == (0, "done", "silent")
    assert "verify: the guest agent does not answer yet" in answer.stdout.splitlines()
    os.unlink(world.root / f"run/qemu-server/{VMID}.qga")
    without = execute(world, "reset")
    assert (without.code, "agent" in without.trailer) == (0, False)


# As qemu-ga 10.0.13 says it; with a frozen guest, the command is one of the few that it still answers.
FREEZE: dict[str, tuple[dict[str, object] | None, str]] = {
    "thawed": ({"return": "thawed"}, "answers"),
    "frozen": ({"return": "frozen"}, "frozen"),
    "forbidden": (
        {
            "error": {
                "class": "CommandNotFound",
                "desc": "Command guest-fsfreeze-status has been disabled: the command is not allowed",
            }
        },
        "answers",
    ),
    "late": (None, "answers"),
}


@pytest.mark.parametrize("name", FREEZE)
def test_the_guest_agent_is_asked_whether_the_file_systems_are_frozen(short_dir: Path, name: str) -> None:
    """An agent that refuses the question or is late counts as answering. Another client's answer is skipped."""
    answer, state = FREEZE[name]
    path = short_dir / "qga"
    with agent_port(path, answers=True, freeze=answer):
        assert (
            name_agent_state(ask_guest_agent(str(path), 0.3 if name == "late" else 30.0, "guest-fsfreeze-status"))
            == state
        )
    with agent_port(path, answers=False):
        assert ask_guest_agent(str(path), 0.1, "guest-fsfreeze-status") is None


@pytest.fixture
def with_open_port(short_dir: Path) -> Iterator[World]:
    """A VM whose QEMU says that the guest has opened the agent's port. A test itself serves the socket."""
    with closing(World(short_dir)) as world:
        command = world.root / "vm.json"
        words = ["-chardev", "null,id=qga0", "-device", "isa-serial,chardev=qga0"]
        command.write_text(json.dumps(json.loads(command.read_text()) + words))
        started = world.qm("start", str(VMID))
        assert started.returncode == 0, started.stderr
        yield world


@pytest.mark.real("qemu")
@pytest.mark.parametrize("runs", [True, pytest.param(False, marks=pytest.mark.all)], ids=["runs", "has ended"])
def test_a_frozen_guest_is_not_called_healthy(with_open_port: World, runs: bool) -> None:
    """The agent answers, but every service that writes waits. The verdict names the backup that froze the guest."""
    world = with_open_port
    set_constants(world, SAMPLES_APART=1.5)
    with task(f"vzdump:{VMID}") as upid, agent_port(qga(world), answers=True, freeze={"return": "frozen"}):
        if runs:
            lock(world, "backup")
        task_index(world, upid if runs else f"{dead_upid(f'vzdump:{VMID}')} 1 6743E100 job errors")
        verdict = execute(world, "forensics").trailer["verdict"]
    assert (verdict["code"], verdict["advice"]) == ("guest-frozen", "")
    thaw, *lines = verdict["evidence"]
    assert thaw == f"by hand: qm guest cmd {VMID} fsfreeze-thaw"
    says, whose = (
        ("a backup runs", "works on it") if runs else ("no backup works on the VM now", "has ended: job errors")
    )
    assert says in verdict["sentence"]
    assert [line for line in lines[:2] if f"vzdump of VM {VMID} by root@pam, process" in line and line.endswith(whose)]


@pytest.mark.real("qemu")
@pytest.mark.all
def test_a_backup_that_starves_the_guest_is_named(short_dir: Path) -> None:
    """Its disks look frozen. The advised command ends the backup's task, and no cycle is advised."""
    world = World(short_dir, scenario="disk-frozen")
    try:
        world.begin()
        lock(world, "backup")
        with task(f"vzdump:{VMID}") as upid:
            task_index(world, upid)
            verdict = execute(world, "forensics").trailer["verdict"]
    finally:
        world.close()
    assert (verdict["code"], verdict["advice"]) == ("backup-starves", "")
    assert verdict["evidence"][0] == f"by hand: wait, or pvesh delete /nodes/demo/tasks/{upid}"


@pytest.fixture
def with_agent_port(short_dir: Path) -> Iterator[World]:
    """A VM whose QEMU has the guest agent's port, as `agent: 1` makes it, and whose guest never opens it."""
    with closing(World(short_dir)) as world:
        command = world.root / "vm.json"
        port = f"socket,path={world.root}/run/qemu-server/{VMID}.qga,server=on,wait=off,id=qga0"
        devices = ("virtio-serial-pci,id=qga0", "virtserialport,chardev=qga0,name=org.qemu.guest_agent.0")
        words = ["-chardev", port, *(word for device in devices for word in ("-device", device))]
        command.write_text(json.dumps(json.loads(command.read_text()) + words))
        started = world.qm("start", str(VMID))
        assert started.returncode == 0, started.stderr
        yield world


@pytest.mark.all
@pytest.mark.slow
@pytest.mark.real("qemu")
def test_nothing_is_said_of_an_agent_that_was_never_installed(with_agent_port: World) -> None:
    """QEMU knows that no program in the guest has opened the port, so no reset or capture calls the agent silent."""
    set_constants(with_agent_port, SAMPLES_APART=0.3, SHORT_APART=0.1)
    host = Host(VMID, str(with_agent_port.root))
    assert ping_guest_agent(host, 0.3) == "silent"
    assert guest_agent_state(host) == ""
    reset = execute(with_agent_port, "reset")
    assert (reset.code, "agent" in reset.trailer, "guest agent does" in reset.stdout) == (0, False, False)
    assert "the guest has not opened its port" in execute(with_agent_port, "forensics").stdout


def test_an_agents_port_is_open_or_not() -> None:
    """query-chardev distinguishes them, and a VM without the port is a third case."""
    monitor: dict[str, object] = {"label": "charmonitor", "frontend-open": True}
    assert is_agent_port_open([monitor, {"label": "qga0", "frontend-open": True}]) is True
    assert is_agent_port_open([monitor, {"label": "qga0", "frontend-open": False}]) is False
    assert is_agent_port_open([monitor]) is None
    assert is_agent_port_open(None) is None

"""The agent's checks before it acts: the owner of a lock, the holder of the lock file, and leftovers of a VM."""

import fcntl
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest

from breakglass.agents.pve.host.cluster import VmlistEntry, ha_word, parse_ha_requested, parse_vmlist
from breakglass.demo.proxmox.world import VMID, World

from ..support.agent import Answer, Session, constants_set, execute, set_constants
from ..support.failing_tools import misbehave
from ..support.hung import unserved_fuse, vm_on_frozen_storage
from ..support.pve_host import dead_upid, lock, moved, scope, task, task_index, under_ha
from ..support.selection import sampled
from ..support.stages import await_pause, memory, until

pytestmark = [pytest.mark.shared("world"), pytest.mark.usefixtures("own_tasks")]
own_host = pytest.mark.shared()
LOCK_FILE = f"var/lock/qemu-server/lock-{VMID}.conf"


def evidence(answer: Answer) -> str:
    return "\n".join(answer.trailer["verdict"]["evidence"])


@pytest.fixture
def held(world: World) -> Iterator[str]:
    """Hold the flock of the VM's configuration, as a running `qm start` does. Yields the path of its file."""
    path = world.root / LOCK_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield str(path)


# --- the owner of a lock ---


@dataclass(frozen=True)
class Owner:
    """A lock, the tasks that may have set it, and what a refusal says of them.

    `runs`: the kind of a task that runs. `index`: a line of the task index, with {live} or {dead} as its UPID.
    """

    kind: str
    sentence: str
    evidence: str
    runs: str = ""
    index: str = ""


LIVE, DEAD = "the task that set the lock is running", "the task that set the lock is dead"
UNKNOWN = "can't tell whether the task that set the lock"
OWN_PID = f"UPID:demo:{os.getpid():08X}:00000007:6743E000:qmsnapshot:{VMID}:root@pam:"  # with another start time
OWNERS = {
    "a backup that runs": Owner("backup", LIVE, "by hand: wait, or pvesh delete", f"vzdump:{VMID}", "{live} 0"),
    # a backup of many VMs has no number in its UPID, and a missing index hides no process
    "without the index": Owner("backup", LIVE, "vzdump by root@pam, process ", "vzdump:"),
    "another process has its pid": Owner(
        "snapshot", DEAD, "interrupted by sig", "", f"{OWN_PID} 1 6743E100 interrupted by sig"
    ),
    # a console is a task too, but does not work on the VM
    "a console": Owner(
        "snapshot", DEAD, f"qm unlock {VMID}, because no process is left", f"vncproxy:{VMID}", "{live} 0\n{dead} 0"
    ),
    # the task of a migration may belong to another node
    "a migration that is gone here": Owner(
        "migrate", UNKNOWN, "is gone: result unknown(.|\n)*look there too", "", "{gone} 0"
    ),
}


@pytest.mark.parametrize("name", OWNERS)
def test_the_owner_of_a_lock_is_named(world: World, name: str) -> None:
    """`qm unlock` is advised only for a dead task's lock, and never run."""
    owner = OWNERS[name]
    lock(world, owner.kind)
    with task(owner.runs) if owner.runs else nullcontext("") as live:
        upids = {"dead": dead_upid(f"qmsnapshot:{VMID}"), "gone": dead_upid(f"qmigrate:{VMID}"), "live": live}
        if owner.index or not owner.runs:
            task_index(world, *owner.index.format(**upids).splitlines())
        answer = execute(world, "stop")
    verdict = answer.trailer["verdict"]
    assert (answer.code, verdict["code"]) == (12, "locked")
    assert owner.sentence in verdict["sentence"]
    assert re.search(owner.evidence, evidence(answer)), evidence(answer)
    assert ("qm unlock" in evidence(answer)) == (owner.sentence == DEAD)
    assert verdict["fix"] == ({"code": "unlock"} if owner.sentence == DEAD else None)
    assert (world.root / f"etc/pve/qemu-server/{VMID}.conf").read_text().startswith(f"lock: {owner.kind}")


@pytest.mark.all
@pytest.mark.real("fuse")
def test_a_task_index_that_hangs_makes_no_owner_dead(world: World) -> None:
    """/var/log hangs. The stop is refused in time, and no owner is called dead."""
    lock(world, "backup")
    task_index(world)
    with constants_set(world, TASK_SECONDS=1.5), unserved_fuse(world.root / "var/log/pve"):
        answer = execute(world, "stop")
    assert (answer.code, UNKNOWN in answer.trailer["verdict"]["sentence"]) == (12, True)


# --- a reset under a lock ---


def test_a_reset_beside_a_backup(world: World) -> None:
    """A backup copies the disks as they were at its begin, so a hung guest need not wait for it.

    A stopped VM is backed up in a paused QEMU. `start` lets it continue as `qm start` does, but a reset does not.
    """
    lock(world, "backup")
    with task(f"vzdump:{VMID}") as upid:
        task_index(world, f"{upid} 0")
        answer = execute(world, "reset")
        assert (answer.code, answer.trailer["state"]) == (0, "running")
        assert "locked (backup)" in answer.trailer["warnings"][0]
        world.monitor("stop")
        answer = execute(world, "reset")
        verdict = answer.trailer["verdict"]
        assert (answer.code, verdict["code"], verdict["advice"]) == (12, "locked", "start")
        assert execute(world, "start").trailer["state"] == "running"


@pytest.mark.parametrize("kind", sampled(["snapshot", "suspending"], "snapshot"))
def test_a_reset_waits_for_a_live_task_and_for_no_dead_one(world: World, kind: str) -> None:
    """A reset does not disturb another task's work on the VM's memory or disks. A dead task's lock protects nothing."""
    lock(world, kind)
    with task(f"{'qmsuspend' if kind == 'suspending' else 'qmsnapshot'}:{VMID}") as upid:
        task_index(world, f"{upid} 0")
        assert execute(world, "reset").trailer["verdict"]["code"] == "locked"
    answer = execute(world, "reset")
    assert (answer.code, answer.trailer["state"]) == (0, "running")
    assert f"qm unlock {VMID}" in answer.trailer["warnings"][0]


# --- whether qm can be run ---


# --- who holds the lock file ---


@pytest.mark.parametrize("verb", ["cycle", "start"])
def test_a_held_lock_file_refuses_a_start_and_names_the_holder(world: World, held: str, verb: str) -> None:
    """`qm start` would wait 10 s and fail, so the refusal comes before anything is stopped, and names the holder."""
    before = world.pid
    if verb == "start":
        world.monitor("quit")
    answer = execute(world, verb)
    assert (answer.code, answer.trailer["verdict"]["code"]) == (12, "locked")
    assert f"lock file: process {os.getpid()}" in answer.trailer["verdict"]["sentence"]
    assert f"held by {os.getpid()} (" in evidence(answer)
    assert f"never rm /{LOCK_FILE}" in evidence(answer)
    assert world.pid == (before if verb == "cycle" else None)


# --- leftover processes, and processes that can't be ended ---


@own_host
def test_a_start_is_refused_while_something_is_left_in_the_scope(world: World) -> None:
    """A start would block behind it, so none is advised."""
    execute(world, "stop")
    scope(world).parent.mkdir(parents=True, exist_ok=True)
    scope(world).write_text(f"{os.getpid()}\n")
    for verb, code in (("status", 0), ("forensics", 0), ("start", 12), ("cycle", 12)):
        answer = execute(world, verb)
        verdict = answer.trailer["verdict"]
        assert (answer.code, verdict["code"], verdict["advice"]) == (code, "leftover", "")


@pytest.mark.all
@pytest.mark.parametrize("ends", [True, False])
def test_a_process_that_outlives_qemu_gets_time_to_end(world: World, ends: bool) -> None:
    """A start would fail beside it, so if it stays, the VM does not count as stopped, and the answer names it."""
    output = memory(world, f"jobs/other-ends-{ends}/output")
    settle = constants_set(world, SETTLE_SECONDS=60.0 * ends)
    with subprocess.Popen(["sleep", "1000"]) as other, settle, Session(world) as session:
        scope(world).write_text(f"{world.pid}\n{other.pid}\n")
        tag = session.send(f"stop id={output.parent.name}")
        until(lambda: output.exists() and "qm stop ended with 0" in output.read_text(), "the end of qm")
        if ends:
            await_pause(world, output.parent.name)
            other.kill()
        result = session.result(tag)
        other.kill()
    assert (result["exit_code"], result["state"]) == (0 if ends else 14, "stopped")
    assert ends or f"process {other.pid} is left" in result["verdict"]["sentence"]


@pytest.mark.all
@pytest.mark.slow
@pytest.mark.real("qemu", "fsfreeze")
def test_one_word_lifts_all_that_a_dead_storage_refuses(short_dir: Path) -> None:
    """`qm showcmd` waits in the kernel for the disk, as QEMU does. The same word must override both refusals.

    A QEMU that survives SIGKILL forbids a start.
    """
    with vm_on_frozen_storage(short_dir) as world:
        set_constants(world, TERM_SECONDS=1.0, QM_SECONDS=2.0)
        misbehave(world.root, mode="stop-unproven")
        qm = world.bin / "qm"
        looks = f'[ "$1" != showcmd ] || exec touch {world.root}/disks/seen'
        qm.write_text(qm.read_text().replace("#!/bin/sh\n", f"#!/bin/sh\n{looks}\n"))
        reset = execute(world, "reset")  # which runs no qm, so QEMU's own thread is the proof
        assert (reset.code, reset.trailer["verdict"]["code"]) == (12, "storage-hung")
        assert "waits uninterruptibly" in evidence(reset)
        seen = execute(world, "forensics").trailer["verdict"]
        assert (seen["code"], seen["advice"]) == ("storage-hung", "")
        answer = execute(world, "cycle")
        assert (answer.code, answer.trailer["verdict"]["code"]) == (12, "storage-hung")
        assert "qm showcmd hangs" in answer.trailer["verdict"]["sentence"]
        assert answer.trailer["anyway"] == "storage-hung"
        answer = execute(world, "cycle anyway=storage-hung")
        assert (answer.code, answer.trailer["verdict"]["code"], answer.trailer["stage"]) == (14, "deadline", "verify")
        assert "QEMU survived SIGKILL" in answer.trailer["verdict"]["sentence"]
        assert "start would fail" in answer.trailer["verdict"]["sentence"]
        assert "VM stays off" in evidence(answer)
        assert ("stop: SIGKILL to " in answer.stdout, "start:" in answer.stdout) == (True, False)
        for verb, code in (("start", 12), ("status", 0)):  # a later start is refused too
            answer = execute(world, verb)
            assert (answer.code, answer.trailer["verdict"]["code"]) == (code, "leftover")


# --- VMs on other nodes ---


def test_a_vm_that_was_moved_is_elsewhere_and_not_stopped(world: World) -> None:
    """Another node has it and may run it: no start is advised, and the node is named."""
    execute(world, "stop")
    moved(world)
    refused = [(line, 12) for line in ("start", "stop if=elsewhere", "reset", "cycle")]
    for line, code in (("status", 0), ("forensics", 0), *refused):
        answer = execute(world, line)
        verdict = answer.trailer["verdict"]
        assert (answer.code, answer.trailer["state"]) == (code, "elsewhere")
        assert (verdict["code"], verdict["advice"]) == ("other-node", "")
        assert "pve2" in verdict["sentence"]
    under_ha(world, nodes={"pve2": "unknown"})
    assert "node pve2 as unknown: after 60 s" in evidence(execute(world, "status"))
    assert execute(world, "status").stdout.startswith("elsewhere: on node pve2")
    assert execute(world, "stop if=running").trailer["verdict"]["code"] == "other-node"  # that node does the comparing


def test_what_arrives_from_another_node_is_left_alone(world: World) -> None:
    """A paused QEMU whose configuration is on another node belongs to a migration, so there is no reset and no cont."""
    moved(world, lock="migrate")
    world.monitor("stop")
    for verb in ("reset", "start"):
        assert execute(world, verb).trailer["verdict"]["code"] == "other-node"
    assert world.monitor("query-status")["status"] == "paused"  # type: ignore[index]


# --- parsers of the host's texts ---


def test_ha_is_read_as_ha_reads_it() -> None:
    """A section has indented properties. Without a state it is to be started. Another VM's section does not count."""
    text = "vm: 102\n\tgroup g\n\tstate ignored\n\nvm: 103\n\tcomment x\n\nct: 104\n\tstate stopped\n"
    assert [parse_ha_requested(text, vmid) for vmid in (102, 103, 104, 10)] == ["ignored", "started", "", ""]
    assert parse_ha_requested("vm: 102\n\tstate enabled\n", 102) == "started"
    state = ("service_status", "vm:102", "state")
    assert ha_word({"service_status": {"vm:102": {"state": "error"}}}, *state) == "error"
    assert ha_word({}, *state) == ""
    damaged: tuple[object, ...] = ({}, "x", [])
    assert [ha_word({"service_status": services}, *state) for services in damaged] == [""] * 3


def test_the_guests_of_the_cluster_are_read() -> None:
    """Containers are distinguished from VMs. An odd entry costs only itself. A damaged list has no entries."""
    found = {102: VmlistEntry("pve2", is_container=False), 200: VmlistEntry("pve1", is_container=True)}
    for odd in ('"103": null', '"103": {"node": 7}', '"x": {}', f'"{"9" * 5000}": {{"node": "pve1"}}'):
        text = f'{{"ids": {{"102": {{"node": "pve2"}}, {odd}, "200": {{"node": "pve1", "type": "lxc"}}}}}}'
        assert parse_vmlist(text) == found, odd
    damaged = ("{}", "", "null", "[]", '{"ids": []}', '{"ids": {"102": 1}}')
    assert [parse_vmlist(text) for text in damaged] == [{}] * len(damaged)

"""A job's lock, its id and its output, and the room that /run keeps for power verbs."""

import json
import os
import resource
import subprocess
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from breakglass.agents.pve.grammar import parse_line
from breakglass.agents.pve.host.paths import Host, write_atomic
from breakglass.agents.pve.jobs.job import JOB_OUTPUT_BYTES, ROOM_FOR_SHORT, SHORT_BYTES, Job
from breakglass.agents.pve.jobs.mutex import PART_BYTES, RESERVE_BYTES, Lock, fill_reserve, free_part, is_short
from breakglass.agents.pve.jobs.store import JobStore, Record, make_record
from breakglass.agents.pve.serving.follow import FollowTask
from breakglass.agents.pve.words import DAY

from ..support.hung import silent_fuse
from ..support.rows import each_row
from ..support.stages import until


def test_a_lock_names_its_holder_until_that_process_ends(tmp_path: Path) -> None:
    """The holder is another process, as the kernel says. What a dead one has written in the file does not count."""
    host = Host(102, str(tmp_path))
    Path(host.run_dir).mkdir(parents=True)
    lock = Lock(host, "lock")
    assert lock.holder() is None
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            taken = Lock(host, "lock").take("msg_12345678")
            os.write(ready[1], b"y" if taken else b"n")
            os.close(go[1])
            os.read(go[0], 1)
        finally:
            os._exit(0)
    os.close(go[0])
    assert os.read(ready[0], 1) == b"y"
    assert (lock.holder(), lock.take("msg_other678")) == ("msg_12345678", False)
    os.close(go[1])
    os.waitpid(child, 0)
    assert lock.holder() is None
    assert lock.take("msg_other678")
    lock.release()
    for fd in ready:
        os.close(fd)


def test_the_reserve_gives_a_part_at_a_time(tmp_path: Path) -> None:
    """A part is 64 KiB and 32 files of the 1 MiB and 512 files that docs/internals.md names."""
    place = tmp_path / "run/breakglass"
    place.mkdir(parents=True)
    fill_reserve(str(tmp_path))
    assert (RESERVE_BYTES, PART_BYTES) == (2**20, 2**16)
    assert ((place / "reserve").stat().st_size, len(list((place / "inodes").iterdir()))) == (2**20, 512)
    free_part(str(tmp_path))
    assert ((place / "reserve").stat().st_size, len(list((place / "inodes").iterdir()))) == (2**20 - 2**16, 480)
    fill_reserve(str(tmp_path))
    assert ((place / "reserve").stat().st_size, len(list((place / "inodes").iterdir()))) == (2**20, 512)
    assert not is_short(str(tmp_path))


def test_a_full_disk_keeps_the_file_and_no_half_of_a_new_one(tmp_path: Path) -> None:
    """An incomplete draft would stay for ever, and each try would add one, because its name has a pid."""
    file = tmp_path / "probe"
    write_atomic(str(file), "old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_atomic(str(file), "longer than four bytes")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [(each.name, each.read_text("utf-8")) for each in tmp_path.iterdir()] == [("probe", "old")]


# --- the id and the output of a job ---


def stored(root: Path, verb: str) -> tuple[JobStore, Record]:
    """Return the store of a VM, and the record of a request, which no process has claimed."""
    store = JobStore(Host(102, str(root)))
    os.makedirs(store.jobs)
    return store, make_record(parse_line(f"{verb} vm=102 id=msg_12345678 by=anna"), "a", is_job=True)


def test_an_id_is_claimed_once(tmp_path: Path) -> None:
    """Only root may look at what it stands for, and the second claim leaves nothing."""
    store, record = stored(tmp_path, "stop")
    assert [store.claim(record), store.claim(replace(record, nonce="b"))] == [True, False]
    assert store.record(record.id) == record
    assert (os.listdir(store.jobs), Path(store.path(record.id)).stat().st_mode & 0o777) == ([record.id], 0o700)
    assert (store.is_alive(record), store.processes(replace(record, ticks=record.ticks + 1))) == (True, [])
    os.symlink(record.id, store.path("msg_alias678"))
    assert store.claim(replace(record, id="msg_87654321", boottime=record.boottime + 1))
    assert [each.id for each in store.records()] == ["msg_87654321", record.id]
    assert (store.stage(record.id), store.deadline(record.id, "stop")) == ("", 240)
    store.enter(record.id, "verify", 1170.0)
    assert (store.stage(record.id), store.deadline(record.id, "stop")) == ("verify", 1170)


def test_a_full_output_keeps_room_for_short_lines(tmp_path: Path) -> None:
    """A long line that does not fit is left out, and one line says so. Short lines say how the verb ends."""
    store, record = stored(tmp_path, "stop")
    store.claim(record)
    job, output = Job(store.host, store, record), Path(store.path(record.id, "output"))

    def say(size: int) -> int:
        """Say a line that has this size in the file; return by how much the file grows."""
        before = output.stat().st_size if output.exists() else 0
        job.say("x" * (size - len(json.dumps({"stream": "stdout", "text": "\n"}) + "\n")))
        return output.stat().st_size - before

    cut = len(json.dumps({"stream": "stderr", "text": "[output cut at 1 MiB]\n"}) + "\n")
    assert say(JOB_OUTPUT_BYTES - ROOM_FOR_SHORT) == JOB_OUTPUT_BYTES - ROOM_FOR_SHORT
    assert [say(size) for size in (SHORT_BYTES, SHORT_BYTES + 1, SHORT_BYTES + 1)] == [SHORT_BYTES, cut, 0]
    left = JOB_OUTPUT_BYTES - output.stat().st_size
    assert [say(SHORT_BYTES) for _ in range(left // SHORT_BYTES + 1)] == [SHORT_BYTES] * (left // SHORT_BYTES) + [0]
    assert say(left % SHORT_BYTES) == left % SHORT_BYTES


def job_of(root: Path, verb: str) -> Job:
    store, record = stored(root, verb)
    return Job(store.host, store, record)


@each_row(("conf", "more"), [("", 0), ("memory: 102400", 10), ("memory: 1048576\nhostpci0: 01:00", 750)])
def test_a_start_that_takes_long_moves_the_deadline(conf: str, more: float, tmp_path: Path) -> None:
    """By what Proxmox gives the start beyond 90 s, at most 750 s. The answer warns of it."""
    job = job_of(tmp_path, "cycle")
    job.allow_start(conf)
    assert (job.deadline, job.start_seconds, len(job.warnings)) == (420 + more, 150 + more, bool(more))


@pytest.mark.slow
@pytest.mark.real("fuse")
def test_what_can_not_be_ended_is_remembered(tmp_path: Path) -> None:
    """A start that may still happen is not reported as over."""
    (tmp_path / "hung").mkdir()
    job = job_of(tmp_path, "start")
    with ExitStack() as ended, silent_fuse(tmp_path / "hung"):
        qm = ended.enter_context(subprocess.Popen(["ls", tmp_path / "hung"], stderr=subprocess.DEVNULL))
        until(lambda: "wait_answer" in Path(f"/proc/{qm.pid}/wchan").read_text(), "its wait")
        job.end_command(qm.pid)
    assert (job.survivors, len(job.warnings)) == ([f"qm (process {qm.pid})"], 1)


def test_a_job_that_does_not_begin_is_given_up(tmp_path: Path) -> None:
    """After 5 s. Its id is claimed then, so that a late job does nothing."""
    store, record = stored(tmp_path, "stop")
    task = FollowTask(store.host, parse_line(f"stop vm=102 id={record.id}"), "b")
    assert list(task.poll()) == []
    task._begun -= 5.0
    [answer] = task.poll()
    assert (answer["exit_code"], store.claim(record)) == (13, False)


# --- a job that was killed, and an id of another ---


@each_row(
    ("verb", "asked", "older", "end", "advice"),
    [
        ("cycle", "cycle", 0.0, (15, "stranded", "stopped"), "start"),
        ("stop", "stop", 0.0, (13, "job-killed", "stopped"), "status"),
        ("reset", "reset", 0.0, (13, "job-killed", "stopped"), "status"),
        ("stop", "start", 0.0, (17, "id-taken", "unknown"), "status"),
        ("stop", "stop", DAY + 60, (17, "id-taken", "unknown"), "status"),
    ],
)
def test_a_request_for_a_killed_job_is_answered(
    verb: str, asked: str, older: float, end: tuple[int, str, str], advice: str, tmp_path: Path
) -> None:
    """Its result is kept. An id of another verb, or of a day ago, belongs to another request."""
    store, record = stored(tmp_path, verb)
    (tmp_path / "etc/pve/local").mkdir(parents=True)
    store.claim(replace(record, ticks=record.ticks + 1, boottime=record.boottime - older))
    task = FollowTask(store.host, parse_line(f"{asked} vm=102 id=msg_12345678"), "b")
    [message] = [message for _ in iter(lambda: task.done, True) for message in task.poll()]
    verdict = message["verdict"]
    assert isinstance(verdict, dict)
    assert (message["exit_code"], verdict["code"], message["state"]) == end
    assert (verdict["advice"], message["attached"]) == (advice, True)
    assert (store.result(record.id) or {}).get("exit_code") == (None if end[0] == 17 else end[0])

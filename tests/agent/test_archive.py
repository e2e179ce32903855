"""The archive: which jobs it keeps, for how long and at which size, and its content after a crash of the host."""

import fcntl
import json
import os
import signal
import time
from pathlib import Path

import pytest

from breakglass.agents.pve.host.paths import Host, boottime
from breakglass.agents.pve.jobs.archive import BY_ITSELF, KEEP_BY_ITSELF, KEEP_BYTES, KEEP_JOBS
from breakglass.agents.pve.jobs.mutex import Lock
from breakglass.agents.pve.jobs.store import Record
from breakglass.demo.proxmox.world import VMID, World

from ..support.agent import Session, booted_an_hour_ago, execute, processes
from ..support.signals import signal_process
from ..support.stages import at_qm, lose_run, memory, until

DAY = 24 * 3600


@pytest.fixture
def jobs(world: World) -> Path:
    path = world.root / f"var/lib/breakglass/{VMID}/jobs"
    path.mkdir(parents=True)
    return path


def old_job(jobs: Path, name: str, verb: str, age: float, size: int = 0, why: str = "") -> None:
    """Archive a job of this age. Its bytes are a hole in a file, which counts with its full size."""
    job = jobs / name
    job.mkdir()
    request = {"id": name, "verb": verb, "by": "x", "why": why, "started": "2026-01-01"}
    (job / "request.json").write_text(json.dumps(request))
    (job / "result.json").write_text("{}")
    with (job / "output").open("wb") as file:
        file.truncate(size)
    os.utime(job, (time.time() - age,) * 2)


def names(jobs: Path, beginning: str) -> set[str]:
    return {job.name for job in jobs.glob(f"{beginning}-*")}


def after_one_more(world: World, verb: str) -> None:
    """Run a verb, and return once its archiving process has ended."""
    job = execute(world, verb).trailer["job"]
    until(memory(world, "jobs", job, "archived").exists, "the copy")
    until(lambda: not processes(world, job), "the end of the archiving")


def test_captures_that_a_client_took_by_itself_go_first(world: World, jobs: Path) -> None:
    """The archive deletes them before older captures of people.

    /run counts them separately, so they displace no others. Their ids stay.
    """
    for number in range(4):
        old_job(jobs, f"capture-{number}", "forensics", age=DAY - number, size=KEEP_BYTES // 4 - 1000)
        old_job(jobs, f"itself-{number}", "forensics", age=600 - number, size=KEEP_BYTES // 4, why=BY_ITSELF)
    earlier_jobs(world, KEEP_JOBS - 1)
    earlier_jobs(world, KEEP_BY_ITSELF + 5, why=BY_ITSELF)
    after_one_more(world, "reset")
    assert (len(names(jobs, "capture")), names(jobs, "itself")) == (4, set())
    assert len(list(memory(world, "jobs").glob("earlier-*/output"))) == KEEP_JOBS - 1
    kept = {path.parent.name for path in memory(world, "jobs").glob("earlierby-*/output")}
    assert kept == {f"earlierby-{number:04}" for number in range(5, 5 + KEEP_BY_ITSELF)}
    assert memory(world, "jobs/earlierby-0000/request.json").exists()


def test_what_changed_power_is_kept_for_a_day_whatever_it_takes(world: World, jobs: Path) -> None:
    """Jobs that changed power stay until they are a day old, even above their own budget."""
    for number in range(4):
        old_job(jobs, f"young-{number}", "reset", age=DAY - 600, size=KEEP_BYTES)
        old_job(jobs, f"aged-{number}", "reset", age=DAY + 600, size=KEEP_BYTES)
    old_job(jobs, "capture-1", "forensics", age=9 * DAY)
    after_one_more(world, "reset")
    assert (len(names(jobs, "young")), names(jobs, "aged")) == (4, set())
    assert names(jobs, "capture") == {"capture-1"}


# --- cleaning up ---


def earlier_jobs(world: World, count: int, why: str = "") -> None:
    """Give the host captures that are a minute old and have an output."""
    for number in range(count):
        job = memory(world, "jobs", f"earlier{why[:2]}-{number:04}")
        job.mkdir(parents=True)
        record = Record(job.name, "forensics", "x", why, "2026-01-01", boottime() - 60 + number / 100, "n", 1, 0)
        (job / "request.json").write_text(json.dumps(vars(record)))
        (job / "result.json").write_text('{"outcome": "done"}')
        (job / "output").write_text("")


# --- a crash of the host ---


@pytest.mark.all
def test_a_job_that_a_crash_cut_off(world: World) -> None:
    """The history says who, what, why, and that the job did not end. Its id does not act again."""
    booted_an_hour_ago(world)
    held = at_qm("start")(world, "cut-off-1")
    next(held)
    with Session(world) as session:
        session.send("cycle id=cut-off-1 by=operator note=aHVuZw")
        next(held)
        until((world.root / f"var/lib/breakglass/{VMID}/jobs/cut-off-1/request.json").exists, "the trace")
        for pid in processes(world, "cut-off-1"):
            signal_process(pid, signal.SIGKILL)
    world.close()
    next(held)
    lose_run(world)
    [job] = execute(world, "history").trailer["jobs"]
    assert [job[name] for name in ("id", "verb", "by", "why")] == ["cut-off-1", "cycle", "operator", "hung"]
    assert (job["outcome"], job["verdict"]["code"]) == ("failed", "job-killed")
    assert "host went down" in job["verdict"]["sentence"]
    assert execute(world, "job id=cut-off-1").trailer["whole_job"]["by"] == "operator"
    execute(world, "reset id=first-now-1")
    with memory(world, "lock").open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        assert execute(world, "reset id=busy-now-1").trailer["outcome"] == "busy"
        again = execute(world, "cycle id=cut-off-1")  # "busy" would mean that it did nothing
    assert (again.code, again.trailer["verdict"]["code"]) == (17, "id-taken")
    next(held, None)


def test_a_running_job_is_not_called_cut_off(world: World) -> None:
    """Its trace is already in the archive, but /run says that it still runs.

    A capture runs beside it. Another verb is busy, and learns the holder and its stage.
    """
    held = at_qm("stop")(world, "runs-now-1")
    next(held)
    with Session(world) as session:
        tag = session.send("stop id=runs-now-1 by=operator")
        next(held)
        until((world.root / f"var/lib/breakglass/{VMID}/jobs/runs-now-1/request.json").exists, "the trace")
        assert session.ask("forensics id=beside-it-1 by=grafana")["outcome"] == "done"
        busy = session.ask("reset id=busy-now-1 by=operator2")
        assert (busy["exit_code"], busy["holder"]["by"], busy["holder"]["stage"]) == (11, "operator", "stop")
        jobs = {job["id"]: job["outcome"] for job in session.ask("history")["jobs"]}
        assert jobs == {"runs-now-1": None, "beside-it-1": "done", "busy-now-1": "busy"}
        next(held)
        assert session.result(tag)["outcome"] == "done"
    next(held, None)


@pytest.mark.all
def test_an_archive_that_hangs_does_not_fill_run(world: World) -> None:
    """A process that writes to a hung disk holds the archive's lock for ever. /run is still cleaned."""
    host = Host(VMID, str(world.root))
    memory(world).mkdir(parents=True)
    stuck = Lock(host, "archive.lock")
    assert stuck.take("archive")  # a record lock, so this process seems to be the stuck one
    earlier_jobs(world, KEEP_JOBS + 3)
    try:
        job_id = execute(world, "reset").trailer["job"]
        until(lambda: not processes(world, job_id), "the end of the tidying")
    finally:
        stuck.release()
    kept = {path.parent.name for path in memory(world, "jobs").glob("earlier-*/output")}
    assert kept == {f"earlier-{number:04}" for number in range(4, KEEP_JOBS + 3)}
    assert execute(world, "reset id=earlier-0000").code == 17  # every id stays, so none acts again


@pytest.mark.all
@pytest.mark.slow
def test_output_is_cut_to_a_mebibyte(world: World) -> None:
    """Output of sixteen captures' size says that it was cut, keeps the job's later lines, and is archived like this."""
    line = "0123456789abcde" * 64
    qm, talk = world.bin / "qm", f'[ "$1" != stop ] || yes {line} | head -c 3000000'
    qm.write_text(qm.read_text().replace("#!/bin/sh\n", f"#!/bin/sh\n{talk}\n"))
    answer = execute(world, "cycle id=talks-a-lot")
    assert answer.trailer["state"] == "running"
    output = memory(world, "jobs/talks-a-lot/output")
    assert output.stat().st_size <= 1024 * 1024 + 200
    texts = [json.loads(line).get("text", "") for line in output.read_text().splitlines()]
    assert "[output cut at 1 MiB]\n" in texts
    assert texts[-1].startswith("verify: running")
    archived = world.root / f"var/lib/breakglass/{VMID}/jobs/talks-a-lot"
    until((archived / "result.json").exists, "the copy")
    assert (archived / "output").read_bytes() == output.read_bytes()

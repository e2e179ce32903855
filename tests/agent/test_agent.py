"""The host agent, over the session and by execs: its memory, its refusals, and the actions that it never takes."""

import json
import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from breakglass.agents.pve.host.paths import Host
from breakglass.agents.pve.jobs.mutex import Lock
from breakglass.agents.pve.words import MUTATING, VERBS
from breakglass.demo.proxmox.world import VMID, World

from ..support.agent import Session, booted_an_hour_ago, constants_set, execute, journal_of, processes, set_constants
from ..support.failing_tools import misbehave
from ..support.pve_host import worker
from ..support.signals import signal_process
from ..support.stages import await_agents, await_pause, lose_run, memory, recorded_command, until

pytestmark = pytest.mark.shared("world")
own_host = pytest.mark.shared()


# --- refusals ---


def test_what_is_not_of_the_grammar_is_one_log_line(world: World) -> None:
    """A line outside the grammar is refused, and the log gets one line, escaped and cut. No line is no shell."""
    await_agents(world)  # an earlier test's job may still write to the log
    with journal_of(world) as journal:
        for line in ("reset; id", "r\x1b[2J", "x" * 100_000, ""):
            answer = execute(world, line)
            assert (answer.code, answer.trailer["verdict"]["code"]) == (10, "agent-refused")
            logged = journal.recv(65536).decode()
            assert logged.isprintable()
            assert len(logged) < 1000
            with pytest.raises(BlockingIOError):
                journal.recv(1)
    shell = execute(world, None)
    assert (shell.code, "status" in shell.stderr) == (10, True)


def test_a_line_without_an_end_ends_the_session(world: World) -> None:
    """At more than 16 KiB, as docs/host-agent.md says."""
    with Session(world) as session:
        assert session.process.stdin is not None
        session.process.stdin.write("x" * (16 * 1024 + 1))
        session.process.stdin.flush()
        assert session.process.wait(60) == 0


def test_a_key_serves_one_vm(world: World) -> None:
    """Another VM's number is exit 12, and nothing was changed."""
    answer = execute(world, "reset vm=103")
    assert (answer.code, answer.trailer["verdict"]["code"]) == (12, "wrong-vm")


# What a read-only key gets, by the verb. docs/host-agent.md has the same table.
READ_ONLY = dict.fromkeys(MUTATING, "approval-required") | dict.fromkeys(
    ("screen", "states", "told", "seen id=alert-0001 by=op", "opinion id=alert-0001", "check"), "agent-refused"
)
ANSWERED = ("status", "forensics", "history", "where", "job id=no-such-job", "ping", "session")
NOT_ITS_OWN = ("id=mine-12345", "by=me", "anyway=storage-hung", "proves=doctor", "note=YQ", "detach")


@own_host
def test_a_read_only_key_changes_nothing(world: World) -> None:
    """Each verb is answered, or refused without a job, a mark or a look at other VMs. No word of the handler helps."""
    assert {line.split()[0] for line in (*READ_ONLY, *ANSWERED)} == set(VERBS)
    before = world.pid
    with Session(world, world.forced_command("--read-only")) as session:
        for line, code in READ_ONLY.items():
            for each in (line, f"{line} vm={VMID}"):
                result = session.ask(each)
                assert result["exit_code"] == (16 if code == "approval-required" else 10), each
                assert {"findings", "states", "untold", "screen_png"}.isdisjoint(result)
        for words in NOT_ITS_OWN:
            for verb in ("status", "forensics", "history"):
                assert session.ask(f"{verb} {words}")["exit_code"] == 10
        assert session.ask("history")["jobs"] == []
    for verb in MUTATING:
        assert execute(world, verb, "--read-only").stdout.splitlines()[0] == f"approval-required: {verb}"
    assert (world.pid, world.monitor("query-status")) == (before, {"running": True, "status": "running"})
    first = execute(world, "forensics", "--read-only", "--as", "claude").trailer
    second = execute(world, "forensics", "--read-only").trailer
    assert (first["by"], second["job"], second["attached"]) == ("claude", first["job"], True)
    assert execute(world, f"job id={first['job']}", "--read-only").trailer["whole_job"]["by"] == "claude"


# --- the trailer ---


def test_guest_text_can_not_pose_as_the_trailer(world: World) -> None:
    """A line of the VM's configuration that looks like a trailer is indented. The last line comes from the agent."""
    forged = '#breakglass {"exit_code": 0}'
    conf = world.root / f"etc/pve/qemu-server/{VMID}.conf"
    conf.write_text(f"{conf.read_text()}{forged}: forged\n")
    answer = execute(world, "forensics")
    lines = answer.stdout.splitlines()
    assert f" {forged}: forged" in lines
    assert [line.startswith("#breakglass ") for line in lines].index(True) == len(lines) - 1


# --- memory ---


def test_a_reader_that_has_left_is_no_error(world: World) -> None:
    """A session that ends early leaves nothing in sshd's log, and a job would continue."""
    reader, writer = os.pipe()
    os.close(reader)
    environment = world.environment | {"SSH_ORIGINAL_COMMAND": "status vm=102"}
    command = world.forced_command()
    ran = subprocess.run(command, env=environment, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=320)
    os.close(writer)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_a_verb_waits_for_the_process_of_a_job_that_has_its_result(world: World) -> None:
    """It has the VM's lock for a moment longer, and the VM is not busy then."""
    execute(world, "reset id=has-its-result")
    until(lambda: not processes(world, "has-its-result"), "the end of its process")
    lock = Lock(Host(VMID, str(world.root)), "lock")
    assert lock.take("has-its-result")
    with constants_set(world, RELEASE_SECONDS=60.0), Session(world) as session:
        assert session.ask("status")["holder"] is None
        tag = session.send("reset id=waits-a-moment")
        await_pause(world, "waits-a-moment")
        lock.release()
        assert session.result(tag)["outcome"] == "done"


def test_an_id_of_yesterday_is_too_old(world: World) -> None:
    """After a day an id neither attaches nor acts."""
    execute(world, "reset id=yesterday-1")
    path = memory(world, "jobs", "yesterday-1", "request.json")
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "boottime": record["boottime"] - 25 * 3600}))
    assert execute(world, "reset id=yesterday-1").code == 17


@own_host
def test_many_processes_for_one_id_make_one_job(world: World) -> None:
    """Of twenty processes at once, one claims the id, and the others attach to its job."""
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: execute(world, "reset id=all-at-once"), range(20)))
    assert {answer.code for answer in answers} == {0}
    assert [answer.trailer["attached"] for answer in answers].count(False) == 1
    assert len(list(memory(world, "jobs").iterdir())) == 1


@own_host
def test_a_killed_job_is_reported_and_holds_nothing(world: World) -> None:
    """If the job, its standby process, its `qm` and its worker are killed, the result says so, and the lock is free."""
    os.mkfifo(world.root / "gate")
    misbehave(world.root, gate="stop")
    with Session(world) as session:
        tag = session.send("cycle id=to-be-killed by=operator")
        until(lambda: worker(world), "a worker")
        command = recorded_command(world, "to-be-killed")  # a killed job can't write this any more
        for pid in processes(world, "to-be-killed"):
            signal_process(pid, signal.SIGKILL)
        at_work = worker(world)
        signal_process(command, signal.SIGKILL)
        signal_process(at_work, signal.SIGKILL)
        result = session.result(tag)
        assert (result["outcome"], result["verdict"]["code"], result["stage"]) == ("failed", "job-killed", "stop")
        assert result["state"] == "running"
        assert session.ask("cycle id=to-be-killed")["verdict"]["code"] == "job-killed"
        assert session.ask("status")["holder"] is None


# The process of capture-01 continues only once capture-03 has been requested, 60 s later at the latest.
SLOW_END = """
import os, time
Job = find("Job")
finish = Job.finish

def wait_after_result(job, result):
    finish(job, result)
    for _ in range(6000):
        if job.record.id != "capture-01" or os.path.lexists(job.store.path("capture-03")):
            break
        time.sleep(0.01)

Job.finish = wait_after_result
"""


@pytest.mark.all
def test_fresh_evidence_is_not_taken_twice(world: World) -> None:
    """fresh=S attaches a new id for ever to a capture younger than S. Without fresh=, a new capture is taken.

    So it is as soon as the result is there, even if the process that took it has not ended.
    """
    set_constants(world, SLOW_END)
    with Session(world) as session:
        first = session.ask("forensics id=capture-01 by=am")
        under = session.ask("forensics id=capture-02 by=am fresh=600 detach")
        again = session.ask("forensics id=capture-02 by=am")
        other = session.ask("forensics id=capture-03 by=am")
    assert (first["attached"], other["attached"], other["job"]) == (False, False, "capture-03")
    assert (under["job"], under["outcome"], under["stage"]) == ("capture-01", "done", "accepted")
    assert (again["job"], again["attached"]) == ("capture-01", True)


# --- processes that it never signals, and VMs that it never leaves off ---


@own_host
def test_an_id_from_before_the_hosts_reboot_does_not_act_again(world: World) -> None:
    """/run is empty after a boot, but the archive has the id: no second reset, and its job can still be read."""
    booted_an_hour_ago(world)
    execute(world, "reset id=before-boot by=operator")
    until(memory(world, "jobs/before-boot/archived").exists, "the copy")
    until(lambda: not processes(world, "before-boot"), "the end of the archiving, which also cleans /run")
    lose_run(world)
    before = world.pid
    assert execute(world, "history").trailer["jobs"][0]["id"] == "before-boot"
    whole = execute(world, "job id=before-boot").trailer["whole_job"]
    assert (whole["outcome"], whole["by"], whole["output"] != "") == ("done", "operator", True)
    assert (execute(world, "reset id=before-boot").code, world.pid) == (17, before)


@own_host
def test_evidence_of_an_earlier_process_is_not_reused(world: World) -> None:
    """A verb within a minute of a capture uses its evidence, but not for a new QEMU process.

    The evidence that the verb itself then takes is too brief to be used again.
    """
    set_constants(world, REUSE_SECONDS=600.0, SAMPLES_APART=2.0)
    execute(world, "forensics")
    assert "forensics: using" in execute(world, "reset").stdout
    assert "forensics: using" in execute(world, "cycle").stdout
    for _ in range(2):
        assert "forensics: using" not in execute(world, "reset").stdout

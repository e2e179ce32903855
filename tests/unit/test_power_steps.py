"""The steps of the power verbs, with real processes: a QEMU that is a small program, and a `qm` of a few lines.

The tests of tests/agent have QEMU itself, and a Proxmox that does more. Here, each row is one rule of a step.
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from breakglass.agents.pve import run_job
from breakglass.agents.pve.forensics import ha_daemons
from breakglass.agents.pve.grammar import parse_line
from breakglass.agents.pve.host.paths import Host, boottime
from breakglass.agents.pve.host.process import read_process
from breakglass.agents.pve.host.vmstate import Facts, observe, vm_state
from breakglass.agents.pve.jobs import store
from breakglass.agents.pve.jobs.job import Job
from breakglass.agents.pve.jobs.mutex import Lock
from breakglass.agents.pve.jobs.result import Ended
from breakglass.agents.pve.jobs.store import JobStore, Record
from breakglass.agents.pve.power import aftermath, begin, kill, locked, standby, start, stop, verbs

pytestmark = pytest.mark.slow
PID, REBOOT, CONF = "run/qemu-server/102.pid", "run/qemu-server/102.reboot", "etc/pve/qemu-server/102.conf"
SCOPE = "sys/fs/cgroup/qemu.slice/102.scope/cgroup.procs"
LOCK, QUEUE = "var/lock/qemu-server/lock-102.conf", "etc/pve/ha/crm_commands"
QEMU = """
import json, os, signal, socket, sys
root = sys.argv[-1]
does, looks = json.loads(open(f"{root}/qemu").read()), 0
if does.get("deaf"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
monitor = socket.socket(socket.AF_UNIX)
monitor.bind(f"{root}/run/qemu-server/102.qmp")
monitor.listen()
with open(sys.argv[-2] + ".new", "w") as file:
    file.write(str(os.getpid()))
os.rename(sys.argv[-2] + ".new", sys.argv[-2])
while True:
    client = monitor.accept()[0].makefile("rw")
    print('{"QMP":{}}', file=client, flush=True)
    for line in client:
        asked = json.loads(line)
        name = asked["execute"]
        if name not in ("qmp_capabilities", "query-status"):
            with open(f"{root}/asked", "a") as file:
                print("qmp", name, file=file)
        looks += name == "query-status"
        if looks == 2 and "locks" in does:
            open(f"{root}/etc/pve/qemu-server/102.conf", "w").write(does["locks"])
        if name == "quit" and not does.get("deaf"):
            sys.exit()
        if name == "cont":
            does["status"] = "running"
        answer = {"error": {"desc": "no"}} if name == does.get("refuses") else {"return": {"status": does["status"]}}
        print(json.dumps({**answer, "id": asked["id"]}), file=client, flush=True)
        if name == "system_reset" and does.get("resets", True):
            print('{"event":"RESET"}', file=client, flush=True)
"""
SCRIPTS = {  # with R as the root of the host; `off`, `on`, `await`, `linger` and `hold` are for the rows
    "off": "kill -9 $(cat $R/{pid}); rm -f $R/run/qemu-server/102.{{pid,qmp}}",
    "on": """rm -f $R/run/qemu-server/102.{{pid,qmp}}
(exec -a kvm {python} -ISc "$(cat $R/qemu.py)" -pidfile $R/{pid} $R </dev/null >/dev/null 2>&1) &
until [ -s $R/{pid} ]; do sleep 0.01; done""",
    "await": 'for i in $(seq 300); do grep -q "$1" $R/$2 && break; sleep 0.02; done',
    "linger": "sleep $1 </dev/null >/dev/null 2>&1 & echo $! >>$R/{scope}",
    "hold": """rm -f $R/held
(exec -a qm {python} -ISc "$(cat $R/holder.py)" $R/{lock} $1 102 "$2" $R/held </dev/null >/dev/null 2>&1) &
until [ -e $R/held ]; do sleep 0.01; done""",
    "qm": """echo "$*" >>$R/asked
case $1 in
stop) {stop} ;;
start) {start} ;;
cleanup) sleep 0.1; on ;;
esac""",
}
HOLDER = """
import fcntl, os, sys
lock, _, _, script, held = sys.argv[1:]
file = open(lock)
fcntl.flock(file, fcntl.LOCK_EX)
open(held, "w").close()
os.system(script)
"""


def ha(requested: str, silent: float = 0.0) -> dict[str, str]:
    """Return the files of an HA that wants the VM in a state, and whose daemons wrote a status so long ago."""
    alive = {"timestamp": time.time() - silent, "state": "active", "mode": "active"}
    status = {**alive, "service_status": {"vm:102": {"state": "started"}}}
    files = {"etc/pve/ha/manager_status": json.dumps(status), "etc/pve/local/lrm_status": json.dumps(alive)}
    daemons = dict.fromkeys(("run/pve-ha-crm.pid", "run/pve-ha-lrm.pid"), "1")
    return {**files, **daemons, "etc/pve/ha/resources.cfg": f"vm: 102\n\tstate {requested}\n"}


class Row(NamedTuple):
    """One run of a verb.

    Attributes:
        verb: the verb, or the step of one.
        end: its exit code, and the state or the code of the verdict.
        asked: what Proxmox and QEMU were asked, in order; `over` is the end of the process that holds the lock file.
        says: what the output, the warnings, the verdict or its evidence say.
        stop, start: what `qm` does.
        qemu: how QEMU behaves; None if the VM is off.
        holder: what a process that holds the VM's lock file is named, and what it does.
        files: the files of the host; None for one that is not there.
        start_seconds: how long a start may take.
        deadline: how long the job may take.
    """

    verb: str
    end: tuple[int, str]
    asked: tuple[str, ...] = ()
    says: tuple[str, ...] = ()
    stop: str = "off"
    start: str = "on"
    qemu: Mapping[str, Any] | None = MappingProxyType({})
    holder: tuple[str, str] | None = None
    files: Mapping[str, str | None] = MappingProxyType({})
    start_seconds: float = 5.0
    deadline: float = 20.0


STOP, START, SHOW, STOPPED, RUNS = "stop 102", "start 102", "showcmd 102", (0, "stopped"), (0, "running")
HA_STOP, HA_START = "echo Requesting HA stop for VM 102; ", "echo Requesting HA start for VM 102; "
QUEUED = "echo stop vm:102 0 >>$R/" + QUEUE
LET_GO = "printf 'vm: 102\\n\\tstate stopped\\n' >$R/etc/pve/ha/resources.cfg; "
RESET, OVER = "qmp system_reset", "echo over >>$R/asked"
OUTPUT = "run/breakglass/102/jobs/msg_12345678/output"
WAITS = f"await waiting {OUTPUT}"
IN_HA, AT_REST, DEAD = ha("started"), ha("stopped"), ha("stopped", silent=999)
ROWS = {
    # a stop by Proxmox
    "a stop": Row("stop", STOPPED, (STOP,), ("stop: qm stop ended with 0", "stop: no process is left")),
    "a process ends soon": Row("stop", STOPPED, (STOP,), stop="linger 0.2; off"),
    "a process stays": Row("stop", (14, "leftover"), (STOP,), ("QEMU is gone",), "linger 60; off"),
    "it is off": Row("stop", STOPPED, (), ("already stopped", "was cancelled"), qemu=None, files={REBOOT: ""}),
    "it ended just now": Row("stop_process", (0, ""), (), ("no process of the VM runs",), qemu=None),
    "a stop is under way": Row(
        "stop", STOPPED, (), ("waiting for", "was cancelled"), holder=("stop", f"{WAITS}; off"), files={REBOOT: ""}
    ),
    "a shutdown is under way": Row("stop", STOPPED, (STOP, "over"), holder=("shutdown", f"await stop asked; {OVER}")),
    "a reboot was pending": Row(
        "stop",
        STOPPED,
        (STOP, "cleanup 102", STOP),
        ("was started meanwhile",),
        "off; [ -e $R/x ] || { >$R/x; $0 cleanup 102 & }",
    ),
    # a stop without Proxmox
    "qm fails": Row("stop", STOPPED, (STOP, "qmp quit"), ("ended with 1",), "exit 1"),
    "QEMU does not quit": Row(
        "stop", STOPPED, (STOP, "qmp quit"), ("SIGTERM to", "SIGKILL to"), "exit 1", qemu={"deaf": True}
    ),
    "no /etc/pve": Row("stop", STOPPED, ("qmp quit",), ("so qm can't be used",), files={"etc/pve": None}),
    # a stop by HA
    "HA stops it": Row(
        "stop", STOPPED, (STOP,), ("HA has the request",), HA_STOP + LET_GO + "(sleep 0.1; off) &", files=IN_HA
    ),
    "HA needs long": Row(
        "stop", STOPPED, (STOP,), ("waiting for",), HA_STOP + LET_GO + f"hold stop '{WAITS}; off'", files=IN_HA
    ),
    "HA is late": Row(
        "stop",
        (14, "ha-holds"),
        (STOP,),
        ("was taken back",),
        HA_STOP + QUEUED,
        files={**IN_HA, QUEUE: "stop vm:103 0\n"},
    ),
    "HA has read it": Row(
        "stop", (14, "ha-holds"), (STOP,), ("HA may still stop",), HA_STOP, files={**IN_HA, QUEUE: ""}
    ),
    "a person asked HA too": Row(
        "stop",
        (14, "ha-holds"),
        (STOP,),
        ("HA may still stop",),
        HA_STOP + QUEUED,
        files={**IN_HA, QUEUE: "stop vm:102 0\n"},
    ),
    "HA wants it off": Row("stop", STOPPED, (STOP, "qmp quit"), ("; ending QEMU directly",), HA_STOP, files=AT_REST),
    "a dead HA wants it off": Row("stop", STOPPED, ("qmp quit",), ("; ending QEMU directly",), files=DEAD),
    "HA lets it be off": Row("stop", STOPPED, (STOP,), stop=LET_GO, qemu=None, files=IN_HA),
    "HA would start it": Row("stop", (14, "ha-holds"), (STOP,), ("HA's queue",), HA_STOP, qemu=None, files=IN_HA),
    "HA can't be asked": Row("stop", (13, "ha-holds"), (STOP,), stop="exit 1", qemu=None, files=IN_HA),
    # a start
    "a start": Row("start", RUNS, (START,), ("verify: running (pid",), qemu=None),
    "it is on": Row("start", RUNS, (), ("start: already running",)),
    "it is paused": Row("start", RUNS, ("qmp cont",), ("it was paused",), qemu={"status": "paused"}),
    "a start fails": Row(
        "start", (13, "verb-failed"), (START, SHOW), ("qm start failed: no",), start="echo no >&2; exit 1", qemu=None
    ),
    "it starts paused": Row(
        "start", (13, "verb-failed"), (START,), start='echo \'{"status":"paused"}\' >$R/qemu; on', qemu=None
    ),
    "a start is under way": Row(
        "start_process", RUNS, (), ("waiting for", "was started already"), qemu=None, holder=("start", f"{WAITS}; on")
    ),
    "a cleanup takes all the time": Row(
        "start_process",
        RUNS,
        (START, "over"),
        qemu=None,
        holder=("cleanup", f"await start asked; {OVER}"),
        start_seconds=19.7,
    ),
    "HA does not start it": Row("start", (13, "ha-holds"), (START,), start=HA_START, qemu=None),
    # a cycle
    "a cycle": Row("cycle", RUNS, (SHOW, STOP, START), ("verify: running",)),
    "the first start fails": Row(
        "cycle",
        RUNS,
        (SHOW, STOP, START, SHOW, START),
        ("trying once more",),
        start="[ -e $R/x ] && on || { >$R/x; exit 1; }",
    ),
    "no start works": Row("cycle", (15, "stranded"), (SHOW, STOP, START, SHOW, START, SHOW), start="exit 1"),
    # a reset
    "a reset": Row("reset", RUNS, (RESET,), ("reported RESET",)),
    "it was paused": Row("reset", RUNS, (RESET, "qmp cont"), qemu={"status": "paused"}),
    "no RESET comes": Row(
        "reset", (13, "verb-failed"), (RESET,), ("the reset was sent;",), qemu={"resets": False}, deadline=2.0
    ),
    "QEMU refuses": Row(
        "reset", (13, "verb-failed"), (RESET,), ("QEMU refused the reset",), qemu={"refuses": "system_reset"}
    ),
    "a task began meanwhile": Row("reset", (12, "locked"), (), qemu={"locks": "lock: snapshot"}),
}
STEPS: dict[str, Callable[[Job, Facts], Any]] = {
    **verbs.POWER,
    "stop_process": lambda job, facts: stop.stop_process(job, facts, lambda view: None),
    "start_process": lambda job, facts: start.start_process(job, 0),
}
LIMITS = {  # in seconds, so that a step that waits for the wrong thing ends as a failure
    "TERM_SECONDS": 0.2,
    "SECOND_START_SECONDS": 0.0,
    "LADDER_SECONDS": 4.0,
    "LOOK_SECONDS": 0.02,
    "HA_STOP_SECONDS": 0.3,
    "HA_START_SECONDS": 0.3,
    "HA_TAKES_SECONDS": 0.3,
    "AFTERMATH_BEGINS_SECONDS": 0.3,
    "QM_START_SECONDS": 5.0,
    "START_VERIFY_SECONDS": 2.0,
    "QUIT_SECONDS": 0.5,
    "SETTLE_SECONDS": 1.0,
}


def write(root: Path, name: str, text: str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@contextmanager
def vm(root: Path, row: Row, monkeypatch: pytest.MonkeyPatch) -> Iterator[Job]:
    """A host with the VM, and the job of the row's verb."""
    for name in ("etc/pve/local", "etc/pve/priv/lock", "run/qemu-server", "run/breakglass/102/jobs/msg_12345678"):
        (root / name).mkdir(parents=True)
    (root / "proc").symlink_to("/proc")
    for name, text in {CONF: "", LOCK: "", SCOPE: "", "qemu.py": QEMU, "holder.py": HOLDER, **row.files}.items():
        if text is not None:
            write(root, name, text)
        else:
            shutil.rmtree(root / name)
    write(root, "qemu", json.dumps({"status": "running", **(row.qemu or {})}))
    names = {"pid": PID, "scope": SCOPE, "lock": LOCK, "python": sys.executable, "stop": row.stop, "start": row.start}
    for name, text in SCRIPTS.items():
        write(root, f"bin/{name}", f"#!/bin/bash\nR={root}\n{text.format(**names)}\n").chmod(0o755)
    monkeypatch.setenv("PATH", f"{root}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("R", str(root))
    for module in (aftermath, kill, locked, standby, start, stop, verbs, ha_daemons):
        for limit in LIMITS.keys() & vars(module).keys():
            monkeypatch.setattr(module, limit, LIMITS[limit])
    monkeypatch.setattr(start, "CLEANUP_SECONDS", 0.1)
    monkeypatch.setattr(begin, "ensure_evidence", lambda job, facts: None)
    monkeypatch.setattr(begin, "chain_begin", lambda job: None)
    monkeypatch.setattr(verbs, "stand_by", lambda job: None)
    host = Host(102, str(root))
    verb = row.verb.partition("_")[0]
    job = Job(host, JobStore(host), Record("msg_12345678", verb, "anna", "", "", 0.0, "", 0, 0))
    job._until = time.monotonic() + row.deadline
    job.start_seconds = row.start_seconds
    try:
        if row.qemu is not None:
            subprocess.run(["on"], check=True)
        if row.holder is not None:
            subprocess.run(["hold", *row.holder], check=True)
        yield job
    finally:
        for name in (PID, SCOPE):
            for pid in (root / name).read_text().split() if (root / name).exists() else ():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)


def test_a_qemu_that_nothing_ends_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with vm(tmp_path, ROWS["a stop"], monkeypatch) as job:
        facts = observe(job.host)
        ended = kill.describe_survival(job, facts)
        assert ended.verdict.sentence.startswith("QEMU survived SIGKILL: it waits for storage")
        alive = [kill.is_qemu_alive(job, each) for each in (facts, Facts(pid=2**22 + 1), Facts())]
        assert alive == [True, False, False]


def test_a_standby_process_waits_for_the_command_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that takes too long is ended, with the QEMU that it has half started."""
    with vm(tmp_path, ROWS["a stop"], monkeypatch) as job:
        for seconds, left in ((0.2, 20.0), (60, 1.2)):
            write(tmp_path, SCOPE, (tmp_path / PID).read_text())
            job.enter("start")
            job._until = time.monotonic() + left
            with subprocess.Popen(["sleep", str(seconds)], start_new_session=True) as command:
                job.note_process("command", command.pid)
                with subprocess.Popen(["true"]) as first:
                    standby._take_over(job, os.pidfd_open(first.pid), "none")
                assert read_process(job.store.path(job.record.id, "command")) == 0
            assert (vm_state(observe(job.host)) == "running") is (seconds == 0.2)
        assert job.warnings[0] == "the job's process was killed in stage start; its standby process took over"
        assert f"start: {job.warnings[0]}" in (tmp_path / OUTPUT).read_text()


def test_a_job_waits_for_one_that_has_its_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It frees the VM in a moment. The second job is refused, because the first is the last one now."""
    monkeypatch.setattr(store, "fill_reserve", lambda root: None)
    with vm(tmp_path, ROWS["it is off"]._replace(files={CONF: "memory: 102400"}), monkeypatch) as job:
        shutil.rmtree(job.store.jobs)
        reader, writer = os.pipe()
        for name, wanted, end in (("msg_11111111", "none", "done"), ("msg_22222222", "none", "refused")):
            if end == "refused":
                child = os.fork()
                if child == 0:
                    try:
                        Lock(job.host, "lock").take("msg_11111111")
                        os.write(writer, b"x")
                        time.sleep(0.1)
                    finally:
                        os._exit(0)
                assert os.read(reader, 1) == b"x"
            request = parse_line(f"stop vm=102 id={name} by=anna last={wanted}")
            run_job._run_job(job.host, request, "nonce", boottime() + 60)
            result = job.store.result(name) or {}
            assert (result["outcome"], result["state"], result["deadline"]) == (end, "stopped", 240)
        for fd in (reader, writer):
            os.close(fd)


@pytest.mark.parametrize("name", ROWS)
def test_each_row_is_a_step(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = ROWS[name]
    with vm(tmp_path, row, monkeypatch) as job:
        facts = observe(job.host)
        try:
            result = STEPS[row.verb](job, facts)
            end, said = (0, result.state if result else ""), []
        except Ended as ended:
            verdict = ended.verdict
            end, said = (ended.exit_code, verdict.code), [verdict.sentence, *verdict.evidence]
        lines = [json.loads(line) for line in (tmp_path / OUTPUT).read_text().splitlines()]
        if row.holder is not None:
            with (tmp_path / LOCK).open() as file:
                fcntl.flock(file, fcntl.LOCK_EX)
        asked = tmp_path / "asked"
        assert (end, tuple(asked.read_text().splitlines()) if asked.exists() else ()) == (row.end, row.asked)
        said += [*job.warnings, *(line["text"] for line in lines if "text" in line)]
        assert [words for words in row.says if words not in "\n".join(said)] == []
        assert sum("waiting for" in each for each in said) <= 1
        stages = [line["stage"] for line in lines if "stage" in line]
        assert stages[0] == ("forensics" if row.verb in verbs.POWER else job.record.verb)
        if QUEUE in row.files:
            assert ((tmp_path / QUEUE).read_text(), os.listdir(tmp_path / "etc/pve/priv/lock")) == (
                row.files[QUEUE],
                [],
            )

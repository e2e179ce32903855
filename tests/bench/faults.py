"""`./dev faults`: at each site of a job, strace fails each kind of system call once, and kills the process there once.

A site is the innermost line of the host agent's power/, jobs/ or host/ that made the call, in any process of the job,
from its start to its clean-up. A healthy run of each scenario is recorded first, and so gives the list of sites and
kinds. Then each run arms one of them: the job's process stops itself at the site, strace attaches, and the call fails
with a fitting error (ERRORS), or the process gets SIGKILL. A call that a site makes several times fails at one of
them, which the seed picks. A broken promise is printed, and makes the exit code 1.
"""

import argparse
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from breakglass.demo.proxmox.world import VMID, World

from ..conftest import running_world
from ..support.agent import execute, limit_qm, set_constants
from ..support.pve_host import quiet, restore
from ..support.signals import signal_process
from ..support.stages import await_agents, until

# The kinds of system calls that fail, each with its error. Without an error, a call can't fail in this use, or strace
# can't let it fail as Linux does, because a close that fails has closed its descriptor.
ERRORS = {
    **dict.fromkeys(("openat", "pipe2", "socket", "pidfd_open", "dup2", "dup3", "memfd_create"), "EMFILE"),
    **dict.fromkeys(("write", "pwrite64", "fallocate", "mkdir", "rename", "link", "ftruncate"), "ENOSPC"),
    **dict.fromkeys(("read", "pread64", "fsync", "newfstatat", "fstat", "stat", "lstat", "getdents64"), "EIO"),
    **dict.fromkeys(("readlink", "statfs", "unlink", "rmdir", "truncate"), "EIO"),
    **dict.fromkeys(("clone", "clone3", "fork", "vfork", "execve", "mlockall", "sendto", "recvfrom"), "ENOMEM"),
    **dict.fromkeys(("connect", "fcntl", "sendmsg", "recvmsg", "mmap", "mremap", "brk"), "ENOMEM"),
    **dict.fromkeys(("select", "pselect6", "poll", "ppoll", "wait4", "waitid", "clock_nanosleep"), "EINTR"),
    **dict.fromkeys(("close", "setsid", "kill", "pidfd_send_signal"), ""),
}
# For `set_constants`. The job's processes know at which site they are. While `<root>/fault` has `*`, each arrival at a
# site is shown to strace as the path of a getxattr. While it has `SITE#COUNT`, that arrival stops its process.
WATCH = """
import os, re, signal
OURS = re.compile("/agents/pve/((?:power|jobs|host)/.*)")
def watched(host, *given, job=find("_run_job")):
    wanted = open(f"{host.root}/fault").read()
    files, counts, here, shown = {}, {}, "", wanted == "*"
    def stop():
        try:
            fd = os.open(f"{host.root}/fault.pid", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            return
        os.write(fd, str(os.getpid()).encode())
        os.close(fd)
        os.kill(os.getpid(), signal.SIGSTOP)
    def ours(frame):
        name = frame.f_code.co_filename
        if name not in files:
            files[name] = (OURS.search(name) or [None, ""])[1]
        return files[name]
    def note(frame, event, _):
        nonlocal here, shown
        if event not in ("call", "c_call", "return") or (event == "call" and ours(frame)):
            return
        if event == "return":
            if not ours(frame):
                return
            frame = frame.f_back
        while frame is not None and not ours(frame):
            frame = frame.f_back
        site = f"{ours(frame)}:{frame.f_lineno}" if frame is not None else ""
        while site and frame is not None and not ours(frame).startswith("power/"):
            frame = frame.f_back
        if site and frame is not None and not site.startswith("power/"):
            site += f"<{ours(frame)}:{frame.f_lineno}"
        if site == here:
            return
        here = site
        counts[site] = counts.get(site, 0) + 1
        if wanted == f"{site}#{counts[site]}":
            stop()
            shown = True
        elif shown:
            try:
                os.getxattr(f"/{site}#{counts[site]}", "user.x")
            except OSError:
                pass
    if wanted == "*":
        stop()
    sys.setprofile(note)
    job(host, *given)
def unwatched(*given, tidy=find("tidy_up")):
    sys.setprofile(None)
    tidy(*given)
replace(_run_job=watched, tidy_up=unwatched)
"""
_CALL = re.compile(r"^(\d+) +(\w+)\((.*)")
_MARK = re.compile(r'"/((?:power|jobs|host)/[^"#]*)#(\d+)"')
BEFORE_ACTING = ("", "begin", "preflight", "forensics")  # stages in which a job has changed nothing
SECONDS = 150


def silent(world: World) -> None:
    signal_process(world.pid, signal.SIGSTOP)


def stopped(world: World) -> None:
    assert world.qm("stop", str(VMID)).returncode == 0
    quiet(world)


SCENARIOS: dict[str, tuple[str, Callable[[World], None]]] = {
    "cycle": ("cycle", lambda world: None),
    "reset": ("reset", lambda world: None),
    "stop": ("stop", lambda world: None),
    "start": ("start", stopped),
    "cycle, silent QEMU": ("cycle", silent),
}


class Case(NamedTuple):
    """One call to fail: at a site, at its `arrival`, counted from 1, in a scenario. `how` is an error or SIGKILL."""

    scenario: str
    site: str
    arrival: int
    call: str
    how: str

    def __str__(self) -> str:
        return f"{self.scenario}: {self.call} at {self.site}#{self.arrival}, {self.how}"


@contextmanager
def watched_world() -> Iterator[World]:
    """A host whose jobs can be stopped at a site."""
    with (
        tempfile.TemporaryDirectory(prefix="bg", ignore_cleanup_errors=True) as directory,
        running_world(Path(directory)) as world,
    ):
        limit_qm(world)
        set_constants(world, WATCH, CLAIM_SECONDS=4.0)
        yield world


def _begin(world: World, scenario: str, fault: str) -> str:
    """Bring the host into the scenario's state, and arm the fault. Return the verb."""
    await_agents(world)
    (world.root / "fault").write_text("")
    restore(world)
    verb, place = SCENARIOS[scenario]
    place(world)
    (world.root / "fault.pid").unlink(missing_ok=True)
    (world.root / "fault").write_text(fault)
    return verb


def _send(world: World, line: str) -> "subprocess.Popen[str]":
    environment = world.environment | {"SSH_ORIGINAL_COMMAND": line}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(world.forced_command(), env=environment, text=True, **pipes)  # type: ignore[call-overload,no-any-return]


def _stopped_pid(world: World, ssh: "subprocess.Popen[str]") -> int:
    """Return the process that has stopped itself at the site; 0 if the verb ends without one."""
    path, found = world.root / "fault.pid", [0]

    def is_stopped() -> bool:
        with suppress(OSError, ValueError):
            pid = int(path.read_text())
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
                found[0] = pid
        return bool(found[0]) or ssh.poll() is not None

    until(is_stopped, "the stop at a site", SECONDS)
    return found[0]


@contextmanager
def _traced(pid: int, *options: str) -> Iterator["subprocess.Popen[str]"]:
    """Attach strace to a stopped process, and let that continue."""
    command = ["strace", "-p", str(pid), *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as strace:
        assert strace.stderr is not None
        line = strace.stderr.readline()
        assert "attached" in line, line
        signal_process(pid, signal.SIGCONT)
        try:
            yield strace
        finally:
            with suppress(subprocess.TimeoutExpired):
                strace.wait(10)
            strace.terminate()
            strace.stderr.read()


# --- the sites ---


def record(world: World, scenario: str) -> dict[tuple[str, str], list[int]]:
    """Return each site and kind of call of a healthy run, with the arrivals at which it makes such a call."""
    verb, log = _begin(world, scenario, "*"), world.directory / "strace"
    with _send(world, verb) as ssh:
        pid = _stopped_pid(world, ssh)
        assert pid, f"the {verb} did not begin"
        with _traced(pid, "-f", "-b", "execve", "-o", str(log)):
            assert ssh.stdout is not None
            said = ssh.stdout.read()
    assert '"outcome": "done"' in said, said
    found: dict[tuple[str, str], list[int]] = defaultdict(list)
    where: dict[str, tuple[str, int]] = {}
    for line in log.read_text(errors="replace").splitlines():
        call = _CALL.match(line)
        if call is None:
            continue
        if call[2] == "getxattr":
            mark = _MARK.search(call[3])
            where[call[1]] = (mark[1], int(mark[2])) if mark else ("", 0)
            continue
        site, count = where.get(call[1], ("", 0))
        if site and call[2] in ERRORS and (call[2] != "fcntl" or "LK" in call[3]) and count not in found[site, call[2]]:
            found[site, call[2]].append(count)
    return found


def cases(world: World, seed: int, count: int) -> list[Case]:
    """Return one failure and one kill for each site and kind, or `count` cases of all sites, callers and scenarios."""
    chance, found = random.Random(seed), defaultdict[tuple[str, str], list[tuple[str, str, int]]](list)
    every: list[Case] = []
    for scenario in SCENARIOS:
        for (site, call), counts in record(world, scenario).items():
            found[site.partition("<")[0], call] += [(scenario, site, number) for number in counts]
            one = (scenario, site, chance.choice(counts), call)
            every += [Case(*one, how) for how in filter(None, (ERRORS[call], "SIGKILL"))]
    if count:
        return chance.sample(every, min(count, len(every)))
    return [
        Case(*(chance.choice(places) if seed else places[0]), call, how)
        for (_, call), places in sorted(found.items())
        for how in filter(None, (ERRORS[call], "SIGKILL"))
    ]


# --- one run ---


class Seen(NamedTuple):
    """A run: what happened to the call, the answer's outcome, and the promises that were broken."""

    hit: str
    outcome: str
    broken: list[str]


def run(world: World, case: Case, job_id: str) -> Seen:
    """Run a scenario with one fault, and look at what it has left."""
    verb = _begin(world, case.scenario, f"{case.site}#{case.arrival}")
    before, line, hit, log = (
        world.pid,
        f"{case.scenario.split(',')[0]} id={job_id}",
        "not reached",
        world.directory / "s",
    )
    fault = "signal=SIGKILL" if case.how == "SIGKILL" else f"error={case.how}"
    with _send(world, line) as ssh:
        if pid := _stopped_pid(world, ssh):
            kinds = f"trace=getxattr,{case.call}"
            with _traced(pid, "-o", str(log), "-e", kinds, "-e", f"inject={case.call}:{fault}:when=1"):
                assert ssh.stdout is not None
                said, then = ssh.stdout.read(), world.pid
            hit = _where_hit(log.read_text(errors="replace"), case)
        else:
            said, then = ssh.stdout.read() if ssh.stdout else "", world.pid
    (world.root / "fault").write_text("")
    await_agents(world)
    last = (said.splitlines() or [""])[-1]
    trailer = json.loads(last.removeprefix("#breakglass ")) if last.startswith("#breakglass ") else {}
    return Seen(hit, str(trailer.get("outcome")), list(_broken(world, verb, (before, then), trailer, line)))


def _where_hit(log: str, case: Case) -> str:
    """Return `hit`, or the later site where the call was made this time."""
    site = "hit"
    for line in log.splitlines():
        if mark := _MARK.search(line):
            site = f"hit at {mark[1]}"
        elif "(INJECTED)" in line or "+++ killed by SIGKILL" in line:
            return site
    return "no such call"


def power(world: World) -> str:
    """Return the VM's true state: stopped, wedged, or QEMU's own word."""
    if world.pid is None:
        return "stopped"
    if Path(f"/proc/{world.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
        return "wedged"
    status: Any = world.monitor("query-status")
    return str(status["status"])


def _broken(
    world: World, verb: str, pids: tuple[int | None, int | None], trailer: dict[str, Any], line: str
) -> Iterator[str]:
    """Yield each promise that does not hold after a verb with one fault. `pids`: before the verb, and at its answer."""
    before, then = pids
    if not trailer:
        yield "there is no answer"
        return
    outcome, state, pid = trailer["outcome"], power(world), world.pid
    what = f"{outcome} {(trailer.get('verdict') or {}).get('code', '')}".strip()
    if trailer["state"] not in (state, "unknown"):
        yield f"{what}: the answer says {trailer['state']}, and the VM is {state}"
    wanted = {"stop": ("stopped", pid is None), "reset": ("running", pid == before)}
    good = wanted.get(verb, ("running", pid not in (None, before)))
    if outcome == "done" and (state, True) != good:
        yield f"{what}: the VM is {state}, process {pid}, before it was {before}"
    if pid != then:
        yield f"{what}: at the answer, the process was {then}, and is {pid}"
    if (outcome in ("refused", "busy") or trailer["stage"] in BEFORE_ACTING) and pid != before:
        yield f"{what}: the process was {before} and is {pid}"
    if verb in ("cycle", "reset") and state == "stopped":
        yield f"{what}: the VM is left off"
    again = execute(world, line).trailer
    await_agents(world)
    if (again["outcome"], again["state"], again["attached"]) != (outcome, trailer["state"], True):
        yield f"{what}: the same id gets {again['outcome']}, {again['state']}, attached={again['attached']}"
    if world.pid != pid:
        yield f"{what}: the same id has acted again"
    history = execute(world, "history").trailer
    if history["chain"]["broken"]:
        yield f"{what}: the chain is broken: {history['chain']['broken']}"
    if execute(world, "status").trailer["holder"] is not None:
        yield f"{what}: a job still holds the VM"


# --- the command line ---


def main(arguments: list[str]) -> int:
    """Run the cases, or a piece of them; print a line for each broken promise, and the counts."""
    parser = argparse.ArgumentParser(prog="./dev faults", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="picks the failing call of a site; 0: the first")
    parser.add_argument("--count", type=int, default=0, help="number of cases to draw; 0: each site and kind")
    parser.add_argument("--piece", default="1/1", metavar="K/N", help="run only the K-th of N parts")
    parser.add_argument("--only", default="", metavar="TEXT", help="run only the cases whose line has this text")
    chosen = parser.parse_args(arguments)
    piece, pieces = map(int, chosen.piece.split("/"))
    with watched_world() as world:
        every = [
            case for case in cases(world, chosen.seed, chosen.count)[piece - 1 :: pieces] if chosen.only in str(case)
        ]
        return _run_all(world, every)


def _run_all(world: World, every: list[Case]) -> int:
    began, counts, failed = time.monotonic(), defaultdict[str, int](int), 0
    for number, case in enumerate(every, 1):
        try:
            seen = run(world, case, f"fault-{number:04}")
        except Exception as error:  # a host that can't be restored is a finding too
            seen = Seen("?", "?", [f"{type(error).__name__}: {error}"])
        counts[
            f"{'killed' if case.how == 'SIGKILL' else 'failed'}, {seen.hit.partition(' at ')[0]}: {seen.outcome}"
        ] += 1
        failed += bool(seen.broken)
        print(f"{number}/{len(every)} {case}: {seen.hit}, {seen.outcome}", *seen.broken, sep="\n    ", flush=True)
    print(f"\n{len(every)} faults in {time.monotonic() - began:.0f} s, {failed} broke a promise")
    print(*(f"{count:5} {name}" for name, count in sorted(counts.items())), sep="\n")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

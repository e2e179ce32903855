"""Talks to the host agent in tests, in both ways: one process for each verb, or a resident session.

The demo's host runs the bundled file. Most tests replace that file by a short program that runs the package, because
the package's byte code is cached, its constants can be set, and its coverage can be measured.
"""

import ast
import importlib
import inspect
import json
import re
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from types import ModuleType, TracebackType
from typing import Any

from breakglass import agents
from breakglass.agents.bundle import bundle_digest
from breakglass.agents.pve.budget import QM_START_SECONDS, QM_STOP_SECONDS
from breakglass.agents.pve.host.paths import Host, boottime
from breakglass.agents.pve.jobs.store import JobStore
from breakglass.agents.pve.words import DEADLINES
from breakglass.demo.proxmox.world import VMID, World

from . import measuring

# The package of the host agent's modules; only this line names it.
PACKAGE = "agents.pve"
MAIN = f"{PACKAGE}.main"
TIMES = f"{PACKAGE}.budget"

_PROGRAM = """\
#!/usr/bin/python3 -IS
import gc
import sys

gc.disable()  # while the modules are loaded, which takes a tenth less time then
sys.path.insert(0, {root!r})
{measuring}import {main} as main

gc.freeze()
gc.enable()


def modules():
    return [vars(module) for name, module in list(sys.modules.items()) if name.startswith({package!r})]


def find(name):
    return next(names[name] for names in modules() if name in names)


def replace(**values):
    for names in modules():
        names.update((name, values[name]) for name in values.keys() & names.keys())


constants = {constants!r}
replace(bundle_hash=lambda: {digest!r}, **constants)
# ---- what a test adds
{code}
# ---- that is all of it
sys.exit(main.main())
"""
# For write_agent and agent_program: the host agent knows neither `no-last-words` nor `name=`.
OLDER = """
import re
pattern = find("_LINE").pattern.replace(" no-last-words", "(?!)").replace(" name=", "(?!)")
replace(_LINE=re.compile(pattern, re.ASCII))
ping = find("_ping")
def older_ping(*given):
    known = ("no_last_words", "names")
    return ({name: value for name, value in each.items() if name not in known} for each in ping(*given))
replace(_ping=older_ping)
"""
_PARTS = re.compile(r"(?s)\nconstants = ([^\n]*)\n.*\n# ---- what a test adds\n(.*)\n# ---- that is all of it\n")
_FOR_PROXMOX = re.compile(r"(?s)(?<=# ---- for Proxmox\n).*?(?=# ---- for this machine)")


def processes(world: World, job_id: str) -> list[int]:
    """Return the pids of a job's processes as the host itself finds them, the standby process first."""
    store = JobStore(Host(VMID, str(world.root)))
    record = store.record(job_id)
    assert record, f"{job_id} is no job"  # a job that was not found must not look like a job without processes
    return store.processes(record)


@contextmanager
def journal_of(world: World) -> Iterator[socket.socket]:
    """Listen at the host's /dev/log."""
    path = world.root / "dev/log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(str(path))
        log.setblocking(False)
        try:
            yield log
        finally:
            path.unlink()


def received(journal: socket.socket) -> list[str]:
    """Return the lines that have come to `journal_of` since the last call."""
    lines = []
    while select.select([journal], [], [], 0)[0]:
        lines.append(journal.recv(65536).decode())
    return lines


# Limits that are long enough for a process to start on a busy machine. A test that waits for a limit sets its own.
# A test that holds a `qm` in a stop or a start may wait for two events, and each can take a minute.
_AT_LEAST = {
    "HA_TAKES_SECONDS": 8.0,
    "FLOCK_SECONDS": 1.0,
    "CLEANUP_SECONDS": 10.0,
    "QM_STOP_SECONDS": 120.0,
    "QM_START_SECONDS": 120.0,
}
_PATIENT = {"TASK_SECONDS": 10.0, "QUESTION_SECONDS": 10.0, "ARCHIVE_SECONDS": 3.0, "STOPPED_SECONDS": 3.0}
_PATIENT |= {"WHERE_SECONDS": 40.0, "CLAIM_SECONDS": 30.0, "RESTORE_SECONDS": 3.0}
_PATIENT |= {"ARCHIVE_READ_SECONDS": 5.0, "CHAIN_SECONDS": 5.0, "SLOW_SECONDS": 20.0}
_PATIENT |= {"RELEASE_SECONDS": 10.0}
# On a busy machine, even a command that waits only for its own process can exceed the host agent's limits.
READS = dict.fromkeys(("ping", "status", "history", "where", "job", "screen"), 60.0)


def hasten(world: World, apart: float = 0.3) -> None:
    """Run the package, and divide its waits for Proxmox by the world's scale, as the stand-in's own times are.

    Two samples are taken close together, because no thread and no disk of an idle VM hangs. To judge one that hangs,
    the agent needs them `apart` as on a host, by 2 s.
    """
    times = importlib.import_module(TIMES)
    found = _FOR_PROXMOX.search(inspect.getsource(times))
    assert found
    names = re.findall(r"(?m)^([A-Z_]+) = ", found[0])
    scaled = {name: max(getattr(times, name) / world.scale, _AT_LEAST.get(name, 0.0)) for name in names}
    write_agent(world, SHORT_APART=0.1, SAMPLES_APART=apart, DEADLINES=DEADLINES | READS, **scaled | _PATIENT)


def limit_qm(world: World) -> None:
    """Divide the limits of `qm stop` and `qm start`, too, by the world's scale. The test waits for one limit."""
    limits = {"QM_STOP_SECONDS": QM_STOP_SECONDS, "QM_START_SECONDS": QM_START_SECONDS}
    set_constants(world, **{name: seconds / world.scale for name, seconds in limits.items()})


def write_agent(world: World, code: str = "", /, **constants: object) -> None:
    """Have the host run the package, with these constants and after this code."""
    world.agent.write_text(agent_program(code, **constants))


def agent_program(code: str = "", /, **constants: object) -> str:
    """Return a program that runs the package with these constants and after this code.

    In the code, `find(NAME)` returns what the package has under a name, and `replace(NAME=VALUE, ...)` gives it
    another value wherever it was imported.
    """
    known = {name for module in _modules() for name in vars(module)}
    assert constants.keys() <= known, f"the host agent does not have {constants.keys() - known}"
    root = str(Path(agents.__file__).resolve().parents[1])  # not always the checkout: see own_copy.py
    names = {"root": root, "measuring": measuring.prologue(), "main": MAIN, "package": PACKAGE}
    names["digest"] = bundle_digest()  # this program pretends to be the bundled file and runs the same modules
    return _PROGRAM.format(**names, constants=constants, code=code)


def _modules() -> list[ModuleType]:
    importlib.import_module(MAIN)
    return [module for name, module in sys.modules.items() if name.startswith(PACKAGE)]


def set_constants(world: World, code: str = "", /, **constants: object) -> None:
    """From its next start on, give the host agent these constants besides the earlier ones, and run this code first.

    Processes that already run keep their constants.
    """
    parts = _PARTS.search(world.agent.read_text())
    before = ast.literal_eval(parts[1]) if parts else {}  # the bundled file has no constants to set
    write_agent(world, f"{parts[2] if parts else ''}\n{code}", **before | constants)


@contextmanager
def constants_set(world: World, code: str = "", /, **constants: object) -> Iterator[None]:
    """Give the host agent other constants until the block ends."""
    sound = world.agent.read_text()
    set_constants(world, code, **constants)
    try:
        yield
    finally:
        world.agent.write_text(sound)


def booted_an_hour_ago(world: World) -> None:
    """Shift the host agent's clock, so that a test does not depend on the uptime of the machine that runs it."""
    clock = f"lambda: time.clock_gettime(time.CLOCK_BOOTTIME) - {boottime() - 3600}"
    set_constants(world, f"import time\nreplace(boottime={clock}, process_start={clock})")


def agent_processes(world: World) -> list[str]:
    """Return every process of this host's agent."""
    found, command = [], "\0".join([*world.forced_command()[:3], ""]).encode()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [path.parent.name] if path.read_bytes().startswith(command) else []
        except OSError:
            continue
    return found


@dataclass(frozen=True)
class Answer:
    """An answer of the host agent: its text, and the trailer's object."""

    code: int
    stdout: str
    stderr: str
    trailer: dict[str, Any]


def execute(world: World, line: str | None, *options: str) -> Answer:
    """Run one verb in the way that sshd runs a forced command."""
    environment = world.environment | ({} if line is None else {"SSH_ORIGINAL_COMMAND": line})
    command = world.forced_command(*options)
    return answer_of(subprocess.run(command, env=environment, capture_output=True, text=True, timeout=320))


def answer_of(ran: "subprocess.CompletedProcess[str]") -> Answer:
    """Return the answer of one exec of the host agent."""
    last = (ran.stdout.splitlines() or [""])[-1]
    trailer = json.loads(last.removeprefix("#breakglass ")) if last.startswith("#breakglass ") else {}
    return Answer(ran.returncode, ran.stdout, ran.stderr, trailer)


class Session:
    """A resident session on pipes instead of an SSH channel, or on a real channel if `command` is an ssh."""

    def __init__(self, world: World, command: list[str] | None = None) -> None:
        self.process = subprocess.Popen(
            command or world.forced_command(),
            env=world.environment | {"SSH_ORIGINAL_COMMAND": "session"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answers: dict[str, Queue[dict[str, Any]]] = {}
        self._tag = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                message = json.loads(line)
            except ValueError:  # text of a noisy start-up file, which the handler skips too
                continue
            if message["type"] == "result":
                self._answers[message["tag"]].put(message)

    def send(self, line: str) -> str:
        """Send a request; return its tag."""
        self._tag += 1
        tag = str(self._tag)
        self._answers[tag] = Queue()
        assert self.process.stdin is not None
        self.process.stdin.write(f"{tag} {line}\n")
        self.process.stdin.flush()
        return tag

    def send_all(self, lines: list[str]) -> list[str]:
        """Send requests in one write; return their tags."""
        tags = [str(self._tag + number) for number in range(1, len(lines) + 1)]
        self._tag += len(lines)
        self._answers |= {tag: Queue() for tag in tags}
        assert self.process.stdin is not None
        self.process.stdin.write("".join(f"{tag} {line}\n" for tag, line in zip(tags, lines, strict=True)))
        self.process.stdin.flush()
        return tags

    def expect(self, tag: str) -> None:
        """Keep the results that come under a tag which the host agent itself chose."""
        self._answers[tag] = Queue()

    def result(self, tag: str, seconds: float = 120) -> dict[str, Any]:
        """Return the result of a request."""
        return self._answers[tag].get(timeout=seconds)

    def ask(self, line: str, seconds: float = 120) -> dict[str, Any]:
        return self.result(self.send(line), seconds)

    def __enter__(self) -> "Session":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(60)
        self._reader.join(60)
        self.process.stdout.close()

"""`breakglass drill` with the real sshd and QEMU: its proof, its refusals, and its words when it is interrupted."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from breakglass.auth.signing import secret_bytes
from breakglass.client import Event, Signer, VerbCall, call, new_id
from breakglass.demo.proxmox.world import World

from ..support.documents import commands
from ..support.running import Running, new_setup
from ..support.signals import signal_process
from ..support.sshd import Sshd
from ..support.stages import at_qm

pytestmark = [pytest.mark.real("sshd", "qemu"), pytest.mark.shared("world", "sshd"), pytest.mark.slow]


@pytest.fixture(scope="module")
def running(directory: Path, shared_sshd: Sshd) -> Iterator[Running]:
    """A handler whose VM may be drilled, for the callers operator (all verbs) and historian."""
    place = directory / "drill"
    place.mkdir()
    setup = new_setup(place, shared_sshd)
    setup.config["vms"]["devvm"]["drill"] = True
    with Running(setup).run() as running:
        running.ready()
        yield running


def drill(
    running: Running, *words: str, program: str = "", output: int = subprocess.PIPE, **environment: str
) -> "subprocess.Popen[str]":
    start = ["-c", program] if program else ["-m", "breakglass"]
    command = [sys.executable, *start, "drill", "--vm", "devvm", *words]
    given = {**os.environ, **running.setup.environment, **environment}
    return subprocess.Popen(
        command, env=given, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.PIPE, text=True
    )


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    output, complained = process.communicate(timeout=200)
    return process.returncode, output, complained


def ask(running: Running, verb: str, job: str = "") -> Event:
    key = secret_bytes(running.setup.operator)
    return call(Signer(running.url, key), new_id(), VerbCall(verb, "devvm", job=job), lambda _: None)


def jobs(running: Running) -> list[dict[str, object]]:
    """Return the jobs of the history, newest first."""
    found = ask(running, "history")["jobs"]
    assert isinstance(found, list)
    return found


def cycles(running: Running) -> int:
    return sum(job["verb"] == "cycle" for job in jobs(running))


STEPS = ["status", "alert", "evidence", "cycle", "proof", "guest", "proven"]


def test_a_drill_proves_the_host(world: World, running: Running) -> None:
    """Each step is shown with its seconds; afterwards status, and /health, tell that the host was proven by a drill."""
    before = cycles(running)
    [command] = commands("docs/monitoring.md", "Drills")
    assert command == "breakglass drill --vm canary\n"
    code, output, complained = ended(drill(running, "--yes"))
    assert code == 0, complained
    lines = [re.fullmatch(r" *[0-9.]+ s  (\w+) +(.+)", line) for line in output.splitlines()]
    assert [line and line[1] for line in lines] == STEPS
    alert, proof = lines[1], lines[4]
    assert alert is not None
    url = re.escape(running.url.rstrip("/"))
    assert re.search(rf"the capture (alert-drill-\w+); see {url}/#vm=devvm&job=\1$", alert[2])
    assert proof is not None
    assert re.search(r"process (\d+) .*, (?!\1)\d+ .*; line \d+", proof[2])
    proven = ask(running, "status")["proven"]
    assert isinstance(proven, dict)
    assert (proven["how"], proven["by"]) == ("drill", "operator")
    assert cycles(running) == before + 1
    newest = jobs(running)
    assert [job["verb"] for job in newest[:2]] == ["cycle", "forensics"]
    assert "drill=devvm" in str(newest[1]["why"])


# --- refusals ---


@pytest.mark.all
def test_a_vm_that_is_not_for_drills_is_refused(short_dir: Path, sshd: Sshd) -> None:
    """The alert matches no entry, so nothing is started; the handler refuses the cycle too."""
    with Running(new_setup(short_dir, sshd)).run() as running:
        running.ready()
        before = len(jobs(running))
        code, _, complained = ended(drill(running, "--yes"))
        assert (code, len(jobs(running))) == (1, before)
    assert ("drill = true" in complained, "[vms.devvm]" in complained) == (True, True)


def test_a_refused_drill_changes_nothing(running: Running) -> None:
    """Without a terminal it needs --yes, and its caller needs the right to a cycle."""
    before, secret = len(jobs(running)), str(running.setup.directory / "historian")
    code, output, complained = ended(drill(running))
    assert (code, output, "add --yes" in complained) == (2, "", True)
    code, _, complained = ended(drill(running, "--yes", BREAKGLASS_SECRET_FILE=secret))
    assert (code, "callers.historian.allow" in complained, len(jobs(running))) == (1, True, before)


# --- interrupted ---


def hint(complained: str) -> str:
    """Return the id in the command for the same drill, of the last lines."""
    match = re.search(r"breakglass drill --vm devvm --id (drill-\S+)$", complained.strip())
    assert match is not None, complained
    return match[1]


@pytest.mark.all
def test_ctrl_c_says_what_happened_to_the_vm(world: World, running: Running) -> None:
    """The cycle continues, and the command that is printed finds it again: the same capture, cycle and proof."""
    held = at_qm("stop", "*")(world, "SIGINT")
    next(held)
    process = drill(running, "--yes")
    next(held)  # the cycle has begun, and does not end before the signal
    signal_process(process.pid, signal.SIGINT)
    code, _, complained = ended(process)
    next(held)
    assert (code, "may have run" in complained) == (4, True)
    before, captures, drill_id = cycles(running), set(), hint(complained)
    for _ in range(2):
        code, output, complained = ended(drill(running, "--yes", "--json", "--id", drill_id))
        answer = json.loads(output)
        assert (code, answer["outcome"], [step["step"] for step in answer["steps"]]) == (0, "proven", STEPS), complained
        captures.add(answer["capture"])
    assert len(captures) == 1
    assert cycles(running) == before
    next(held, None)


@pytest.mark.all
def test_an_answer_that_is_lost(short_dir: Path, world: World, sshd: Sshd) -> None:
    """The handler is killed during the cycle and stays away. The command for the same drill works when it is back."""
    setup = new_setup(short_dir, sshd)
    setup.config["vms"]["devvm"]["drill"] = True
    program = (
        "import breakglass.client as client; client.REPEAT_SECONDS = 1.0\n"
        "from breakglass.cli.main import main; raise SystemExit(main())"
    )
    handler, held = Running(setup), at_qm("stop", "*")(world, "lost")
    next(held)
    with handler.run():
        handler.ready()
        process = drill(handler, "--yes", program=program)
        next(held)  # the cycle has begun, and does not end before the handler
        signal_process(handler.process.pid, signal.SIGKILL)
        code, _, complained = ended(process)
    next(held)
    assert (code, "may have run" in complained) == (4, True), complained
    with handler.run():
        handler.ready()
        code, output, complained = ended(drill(handler, "--yes", "--json", "--id", hint(complained)))
    assert (code, json.loads(output)["outcome"]) == (0, "proven"), complained
    next(held, None)

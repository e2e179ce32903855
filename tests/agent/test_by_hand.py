"""`breakglass-pve VERB VM` in a shell of the host: the same verdicts, ids and records as for a handler's request."""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from breakglass.demo.proxmox.world import World

from ..support.agent import execute
from ..support.failing_tools import misbehave
from ..support.stages import until

pytestmark = [pytest.mark.shared("world"), pytest.mark.slow]


def command(world: World, *words: str) -> list[str]:
    return [*world.forced_command()[:3], *words, "--root", str(world.root)]


def by_hand(world: World, *words: str) -> tuple[int, list[str]]:
    """Return the exit code and the lines of stdout."""
    ran = subprocess.run(command(world, *words), env=world.environment, capture_output=True, text=True, timeout=320)
    return ran.returncode, ran.stdout.splitlines()


@pytest.mark.parametrize("words", ["forensics 102", "reset 999"])
def test_the_same_verdict_as_over_ssh(world: World, words: str) -> None:
    """Root names any VM. The exit code and the outcome are those of the forced command for every VM."""
    code, lines = by_hand(world, *words.split())
    verb, vm = words.split()
    answer = execute(world, f"{verb} vm={vm}", "--vms", "all")
    [outcome] = re.findall(rf'^VM {vm}(?: "devvm")?: {verb} ([a-z-]+)', "\n".join(lines), re.MULTILINE)
    assert (code, outcome) == (answer.code, answer.trailer["outcome"])
    if words == "forensics 102":
        assert any(str(answer.trailer["verdict"]["sentence"]) in shown for shown in lines)


@pytest.mark.shared
def test_ctrl_c_ends_only_the_wait(world: World) -> None:
    """The cycle continues without the shell. The printed line attaches to it, as a request does."""
    os.mkfifo(world.root / "gate")
    misbehave(world.root, gate="stop")
    argv = command(world, "cycle", "102", "--id", "by-hand-1", "--reason", "it is hung")
    shell = subprocess.Popen(argv, env=world.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    stage = Path(world.root, "run/breakglass/102/jobs/by-hand-1/stage")
    until(lambda: stage.exists() and stage.read_text().startswith("stop"), "stage stop")
    shell.send_signal(signal.SIGINT)
    _, told = shell.communicate(timeout=60)
    assert shell.returncode == 130
    assert f"{world.agent} cycle 102 --id by-hand-1" in told
    (world.root / "gate").write_text("")
    misbehave(world.root)
    assert "cycle done" in by_hand(world, "cycle", "102", "--id", "by-hand-1")[1][-1]
    answer = execute(world, "cycle id=by-hand-1")
    assert (answer.code, answer.trailer["attached"], answer.trailer["by"]) == (0, True, "by-hand")
    assert sum("cycle " in line for line in by_hand(world, "history", "102")[1]) == 1

"""The bad nights' figures of `./dev bench`: after how many seconds a verb ends well, and what evidence costs.

Proxmox's own times, and the host agent's waits for them, are divided by SCALE; what this machine takes is not. A night
whose figure is `failed` left the VM in another state than it promises.
"""

import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from breakglass.agents.pve.forensics.plan import SAMPLES_APART
from breakglass.demo.proxmox.world import VMID, World

from ..support.agent import execute, hasten, limit_qm
from ..support.pve_host import another_cleanup, another_stop, hook, under_ha
from ..support.signals import signal_process

SCALE = 20
COST_SECONDS = 0.5  # of processor, for each of Proxmox's commands
TITLES: Mapping[str, str] = {
    "night_cycle_hook": "Proxmox's times / 20: cycle, a hook script keeps qm stop for 210 s, s",
    "night_cycle_silent": "the same: cycle of a silent QEMU, s",
    "night_cycle_silent_ha": "the same: cycle of a silent QEMU under HA, s",
    "night_cycle_other_stop": "the same: cycle, a stop that a person has begun takes 180 s, s",
    "night_cycle_shutdown": "the same: cycle over a shutdown that the guest ignores, s",
    "night_cycle_cleanup": "the same: cycle while qm cleanup holds the lock file, s",
    "night_stop_reboot": "the same: stop over a reboot that the guest ignores, s",
    "evidence_reset": "evidence of a reset on a quiet host, s (wanted: below 1.5)",
    "evidence_busy_late": "probes of a capture late on 2 busy cores, 0.5 s a command (wanted: 0)",
    "evidence_busy": "that capture, s",
}


Place = Callable[[World, ExitStack], None]


def in_a_hook(world: World, _: ExitStack) -> None:
    hook(world, "pre-stop", 210)


def silent(world: World, _: ExitStack) -> None:
    signal_process(world.pid, signal.SIGSTOP)


def silent_under_ha(world: World, stack: ExitStack) -> None:
    under_ha(world)
    silent(world, stack)


def stopped_by_a_person(world: World, stack: ExitStack) -> None:
    hook(world, "pre-stop", 180)
    stack.enter_context(another_stop(world))


def shut_down(world: World, stack: ExitStack) -> None:
    stack.enter_context(another_stop(world, "shutdown", "--timeout", "6000"))


def rebooted(world: World, stack: ExitStack) -> None:
    stack.enter_context(another_stop(world, "reboot", "--timeout", "6000"))


def cleaned_up(world: World, stack: ExitStack) -> None:
    stack.enter_context(another_cleanup(world))


NIGHTS: Mapping[str, tuple[str, Place]] = {
    "night_cycle_hook": ("cycle", in_a_hook),
    "night_cycle_silent": ("cycle", silent),
    "night_cycle_silent_ha": ("cycle", silent_under_ha),
    "night_cycle_other_stop": ("cycle", stopped_by_a_person),
    "night_cycle_shutdown": ("cycle", shut_down),
    "night_cycle_cleanup": ("cycle", cleaned_up),
    "night_stop_reboot": ("stop", rebooted),
}


def night_figures() -> dict[str, float | str]:
    """Return every figure of TITLES; needs a real QEMU."""
    found: dict[str, float | str] = {name: _night(*NIGHTS[name]) for name in NIGHTS}
    return found | _evidence()


def _night(verb: str, place: Place) -> float | str:
    with _host() as world, ExitStack() as stack:
        before = world.pid
        place(world, stack)
        answer = execute(world, verb)
        well = world.pid is None if verb == "stop" else world.pid not in (None, before)
        return round(float(answer.trailer["seconds"]), 1) if answer.code == 0 and well else "failed"


def _evidence() -> dict[str, float | str]:
    with _host() as world:
        (world.root / "cost").write_text(str(COST_SECONDS))
        took = sorted(_seconds_of_evidence(world) for _ in range(5))[2]
        with _busy(2):
            capture = execute(world, "forensics")
        late = sum("(timed out" in line for line in capture.stdout.splitlines() if line.startswith("== "))
        return {
            "evidence_reset": round(took, 2),
            "evidence_busy_late": late,
            "evidence_busy": round(float(capture.trailer["seconds"]), 1),
        }


def _seconds_of_evidence(world: World) -> float:
    """Return how long a reset takes in all. The button itself takes a few milliseconds of it."""
    return float(execute(world, "reset").trailer["seconds"])


@contextmanager
def _host() -> Iterator[World]:
    with tempfile.TemporaryDirectory(prefix="bg", ignore_cleanup_errors=True) as directory:
        world = World(Path(directory), scale=SCALE, scenario="healthy")
        hasten(world, SAMPLES_APART)
        limit_qm(world)
        try:
            assert world.qm("start", str(VMID)).returncode == 0
            yield world
        finally:
            world.close()


@contextmanager
def _busy(number: int) -> Iterator[None]:
    """Keep so many processors busy for a while."""
    loops = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(number)]
    time.sleep(0.5)
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()

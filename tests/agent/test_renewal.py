"""A resident host agent that is upgraded goes on as the new one, on the same channel."""

import os
import sys
from pathlib import Path

import pytest

from breakglass.agents.pve import renewal
from breakglass.agents.pve.renewal import OwnFile
from breakglass.demo.proxmox.world import VMID, World

from ..support.agent import Session, set_constants
from ..support.pve_host import gated_hook, in_hook
from ..support.selection import sampled
from ..support.stages import until, writer_of

pytestmark = [pytest.mark.real("qemu"), pytest.mark.slow]

# A look at the file may take as long as it does on a busy machine: these tests are not about its deadlines.
PATIENT = dict.fromkeys(("FILE_LOOK_SECONDS", "FILE_COMPARE_SECONDS", "FILE_TRY_SECONDS"), 120.0)


def install(world: World, text: str) -> None:
    """Rename a new agent into the place of the old one, as the recipe does."""
    install_text(world.agent, text)


def install_text(path: Path, text: str) -> None:
    """Replace a file as a whole, with one that can be run."""
    draft = Path(f"{path}.new")
    draft.write_text(text)
    draft.chmod(0o755)
    draft.rename(path)


@pytest.fixture
def sound(world: World) -> str:
    """The text of an agent that looks for another one all the time."""
    set_constants(world, LOOK_EVERY=0.05, SETTLED_SECONDS=0.0, **PATIENT)
    return world.agent.read_text()


def test_the_session_goes_on_in_the_new_agent(world: World, sound: str) -> None:
    """The same process and channel; the new agent says hello by itself, and a verb works."""
    with Session(world) as session:
        session.expect("hello")
        assert session.ask("ping")["version"] != "9.9.9"
        install(world, sound.replace("replace(bundle_hash", "replace(VERSION='9.9.9', bundle_hash"))
        assert session.result("hello")["version"] == "9.9.9"
        assert session.ask(f"reset vm={VMID} id=renewed-01", 60)["outcome"] == "done"
        assert session.process.poll() is None


@pytest.mark.parametrize(("later", "code"), sampled([("300000", 0), ("300060", 12)], ("300060", 12)))
def test_what_came_during_the_change_is_as_old_as_the_change(
    world: World, tmp_path: Path, later: str, code: int
) -> None:
    """The process is days old, which says nothing of a line. Where the new file hung as it began, it is too late."""
    gate, clock = tmp_path / "gate", tmp_path / "clock"
    clock.write_text("300000")  # seconds by which the host's clock is ahead
    ahead = f"lambda: time.clock_gettime(time.CLOCK_BOOTTIME) + float(open({str(clock)!r}).read())"
    hang = f"if 'BREAKGLASS_RENEWED' in os.environ:\n    open({str(gate)!r}).read()"
    set_constants(world, f"import os, time\nreplace(boottime={ahead})", LOOK_EVERY=0.05, SETTLED_SECONDS=0.0, **PATIENT)
    sound = world.agent.read_text()
    os.mkfifo(gate)
    with Session(world) as session:
        session.expect("hello")
        session.ask("ping")
        install(world, sound.replace("\n# ---- that is all", f"\n{hang}\n# ---- that is all"))
        held = writer_of(gate)
        tag = session.send(f"reset vm={VMID} id=came-during-{code}")
        install_text(clock, later)
        os.close(held)
        session.result("hello", 60)
        assert session.result(tag, 60)["exit_code"] == code


UNABLE = {
    "at its start": "raise ImportError('nothing like this')",
    "by its arguments": "if '--vms' in sys.argv: sys.exit(2)",  # as one of 0.1 does
    "never": "import time\ntime.sleep(600)",
}


@pytest.mark.all
@pytest.mark.parametrize("end", sampled(UNABLE, "at its start"))
def test_a_program_that_can_not_serve_is_not_begun(world: World, sound: str, tmp_path: Path, end: str) -> None:
    """It is tried beside the session, which goes on as it is, and goes on in the next one that can."""
    if end == "never":
        set_constants(world, FILE_TRY_SECONDS=10.0)
    sound, tried = world.agent.read_text(), tmp_path / "tried"
    renewed = sound.replace("replace(bundle_hash", "replace(VERSION='9.9.9', bundle_hash")
    with Session(world) as session:
        session.expect("hello")
        session.ask("ping")
        install(
            world, renewed.replace("\nimport sys\n", f"\nimport sys\nopen({str(tried)!r}, 'w')\n{UNABLE[end]}\n", 1)
        )
        until(tried.exists, "a try of the program")
        assert session.ask("ping")["version"] != "9.9.9"
        assert session.ask(f"reset vm={VMID} id=not-renewed-1", 60)["outcome"] == "done"
        install(world, renewed)
        assert session.result("hello", 60)["version"] == "9.9.9"
        assert session.process.poll() is None


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in PATIENT.items():
        monkeypatch.setattr(renewal, name, seconds)


@pytest.mark.usefixtures("patient")
def test_only_another_whole_program_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the same text again, half a copy, a file that is gone, or one that came a moment ago."""
    path = tmp_path / "agent"
    whole = "#!/usr/bin/python3 -IS\nimport sys\nmain = lambda: {}\nif __name__ == '__main__':\n    sys.exit(main())\n"
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, str(path)])

    def write(text: str, mode: int = 0o755) -> None:
        path.unlink(missing_ok=True)
        path.write_text(text)
        path.chmod(mode)

    write(whole.format(0))
    own = OwnFile(str(path))
    assert not own.is_replaced()
    monkeypatch.setattr(renewal, "SETTLED_SECONDS", 0.0)
    another = whole.format("0  # another")
    for text in (whole.format(0), "def half(", "\0", "", another[:-12], whole.format(7)):
        path.unlink()
        assert not own.is_replaced()
        write(text)
        assert not own.is_replaced()
    for mode in (0o644, 0o775, 0o757):
        write(another, mode)
        assert not own.is_replaced()
    path.chmod(0o755)
    assert own.is_replaced()
    write(whole.format("0  # the third"))
    monkeypatch.setattr(renewal, "SETTLED_SECONDS", 3600.0)
    assert not own.is_replaced()
    monkeypatch.setattr(renewal, "SETTLED_SECONDS", 0.0)
    assert own.is_replaced()


def test_a_look_that_fails_or_hangs_stops_no_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a process for it there is no look; while the disk hangs, looks become rare."""
    path = tmp_path / "agent"
    path.write_text("#!")
    own = OwnFile(str(path))
    path.unlink()
    assert [(own.is_replaced(), own.pause) for _ in range(3)] == [(False, 20.0), (False, 40.0), (False, 80.0)]

    def no_process() -> int:
        raise BlockingIOError("fork")

    monkeypatch.setattr(os, "fork", no_process)
    assert not own.is_replaced()


@pytest.mark.all
def test_a_job_under_way_is_not_disturbed(world: World, sound: str) -> None:
    """The file is replaced while a cycle is at its stop: the answer comes from the process that began the cycle."""
    gate = gated_hook(world, "pre-stop")
    with Session(world) as session:
        session.expect("hello")
        tag = session.send(f"cycle vm={VMID} id=undisturbed-1")
        until(lambda: in_hook(world, "pre-stop"), "the hook")
        install(world, sound.replace("replace(bundle_hash", "replace(VERSION='9.9.9', bundle_hash"))
        assert session.ask("ping")["version"] != "9.9.9"
        gate.write_text("go\n")
        result = session.result(tag)
        assert (result["outcome"], result["state"]) == ("done", "running")
        assert session.result("hello")["version"] == "9.9.9"

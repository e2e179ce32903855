"""A resident host agent that is upgraded goes on as the new one, on the same channel."""

import os
from pathlib import Path

import pytest

from breakglass.agents.pve import renewal
from breakglass.agents.pve.renewal import OwnFile
from breakglass.demo.proxmox.world import VMID, World

from ..support.agent import Session, set_constants

pytestmark = [pytest.mark.real("qemu"), pytest.mark.slow]


def install(world: World, text: str) -> None:
    """Rename a new agent into the place of the old one, as the recipe does."""
    draft = Path(f"{world.agent}.new")
    draft.write_text(text)
    draft.chmod(0o755)
    draft.rename(world.agent)


@pytest.fixture
def sound(world: World) -> str:
    """The text of an agent that looks for another one all the time."""
    set_constants(world, LOOK_EVERY=0.05, SETTLED_SECONDS=0.0)
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


def test_only_another_whole_program_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the same text again, half a copy, a file that is gone, or one that came a moment ago."""
    path = tmp_path / "agent"
    whole = "#!/usr/bin/python3 -IS\nVERSION = {}\nif __name__ == '__main__':\n    sys.exit(main())\n"
    path.write_text(whole.format(1))
    own = OwnFile(str(path))
    assert not own.is_replaced()
    monkeypatch.setattr(renewal, "SETTLED_SECONDS", 0.0)
    for text in (whole.format(1), "def half(", "\0", "", "#!/usr/bin/python3 -IS\nVERSION = 2\n"):
        path.unlink()
        assert not own.is_replaced()
        path.write_text(text)
        assert not own.is_replaced()
    path.write_text(whole.format(2))
    assert own.is_replaced()
    path.write_text(whole.format(3))
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


def test_a_job_under_way_is_not_disturbed(world: World, sound: str) -> None:
    """The agent waits until nothing is under way: the answer of the job comes from the process that began it."""
    set_constants(world, SHORT_APART=1.0)
    with Session(world) as session:
        session.expect("hello")
        session.ask("ping")  # it runs by now
        tag = session.send(f"reset vm={VMID} id=undisturbed-1")
        install(world, sound.replace("replace(bundle_hash", "replace(VERSION='9.9.9', bundle_hash"))
        assert session.result(tag, 60)["outcome"] == "done"
        assert session.result("hello")["version"] == "9.9.9"

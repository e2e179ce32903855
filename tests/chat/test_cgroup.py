"""The cgroup of a turn, where one is delegated to the handler: limits for all of it, and one end."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from breakglass.claude.uids import enter_cgroup, kill_cgroup, make_cgroup, remove_cgroup

from ..support.claude import UIDS
from ..support.model import Model
from ..support.naps import find_processes, nap, outermost, parent, wait_for_process, wait_until_gone
from ..support.scripted_claude import RESULT, TEXT, ScriptedClaude
from ..support.signals import signal_process
from ..support.stages import until
from ..support.talk import Talker, started

pytestmark = [pytest.mark.real("root"), pytest.mark.slow]

UID = UIDS[0]
MARK = nap(93)
JOIN = "open({!r}, 'w').write('0')"


def processes(group: Path) -> list[int]:
    """Return the processes of a cgroup."""
    return [int(pid) for pid in (group / "cgroup.procs").read_text().split()]


def is_empty(group: Path) -> bool:
    """Tell whether no process of a cgroup is left; one that has ended and waits for its parent does not count."""
    return "populated 0" in (group / "cgroup.events").read_text()


@pytest.fixture
def service() -> Iterator[Path]:
    """A cgroup that is delegated as a service manager does it, with a subgroup for the handler."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    top = next((Path(fields[1]) for fields in mounts if fields[2] == "cgroup2"), None)
    service = (top or Path("/nowhere")) / f"bg-{os.getpid()}"
    try:
        service.mkdir()
        os.setxattr(service, "user.delegate", b"1")
        (service / "handler").mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be delegated here: {error}")
    try:
        yield service
    finally:
        kill_cgroup(str(service))  # what a test that failed has left
    for group in (*service.glob("*/"), service):
        until(partial(is_empty, group), "the cgroup is empty")
        group.rmdir()


def test_a_handler_in_a_delegated_cgroup(service: Path, model: Model, directory: Path) -> None:
    """Claude and what it starts are in a cgroup of the turn's own, which goes with the turn, and the rest is not.

    What a turn that was killed has left of it is in the way of no other.
    """
    directory.chmod(0o711)
    claude = ScriptedClaude(directory)
    claude.directory.chmod(0o755)
    claude.play(f"{MARK} &\n{TEXT}wait")
    talker = Talker(
        directory,
        model,
        chat=f'uids = "{UID}-{UID}"\nmax_turns_at_once = 1\n{claude.chat}',
        patched=JOIN.format(f"{service}/handler/cgroup.procs"),
    )
    group = service / f"turn-{UID}"
    with started(talker):
        for is_killed in (True, False):
            with talker.open(prompt="one") as stream:
                stream.until("text")
                wait_for_process(MARK)
                [claudes] = [outermost(find_processes(f"--session-id={stream.seen[0]['id']}"))]
                assert {claudes, *find_processes(MARK)} <= set(processes(group))
                worker = parent(claudes)
                standby = parent(worker)
                assert {talker.process.pid, worker, standby} <= set(processes(service / "handler"))
                for name, limit in (("pids.max", "256"), ("memory.max", str(4 << 30)), ("memory.swap.max", "0")):
                    if (group / name).exists():
                        assert (group / name).read_text().strip() == limit
                if is_killed:
                    for pid in (worker, standby):
                        signal_process(pid, signal.SIGSTOP)
                    for pid in (worker, standby):
                        signal_process(pid, signal.SIGKILL)
                    wait_until_gone(MARK)
                    assert group.exists()
                else:
                    assert talker.ask(cancel=stream.turn).status == 202
                stream.rest()
        claude.play(f"{TEXT}{RESULT}")
        until(lambda: not group.exists(), "the cgroup is removed")
        until(lambda: talker.chat("two")[-1]["ok"] is True, "a turn with the only user id, which is freed last")


def made_in(group: Path) -> str:
    """Return the cgroup that a runner in `group` makes for its turn."""
    join = JOIN.format(f"{group}/cgroup.procs")
    code = f"{join}; from breakglass.claude.uids import make_cgroup; print(make_cgroup({UID}))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_what_is_in_it_ends_with_it(service: Path) -> None:
    """Also a process that is no descendant of the runner, and what a killed turn has left before a new one is made."""
    group = Path(made_in(service / "handler"))
    assert group == service / f"turn-{UID}"
    for end in (lambda: made_in(service / "handler"), lambda: remove_cgroup(str(group))):
        left = subprocess.Popen(["/bin/sleep", "600"], preexec_fn=lambda: enter_cgroup(str(group)))
        assert processes(group) == [left.pid]
        end()
        assert left.wait(60) == -signal.SIGKILL
    assert not group.exists()


def test_none_is_made_where_none_is_delegated(service: Path) -> None:
    """A handler that a person has started is in a cgroup that is not its own."""
    os.removexattr(service, "user.delegate")
    assert made_in(service / "handler") == ""
    assert make_cgroup(UID) == ""
    enter_cgroup("")
    assert sorted(path.name for path in service.glob("*/")) == ["handler"]

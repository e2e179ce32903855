"""The verb `screen`: the console's picture alone, drawn at most once a second and shared, with nothing left behind."""

import base64
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from breakglass.demo.proxmox.world import VMID, World

from ..support.agent import Answer, Session, agent_processes, constants_set, execute
from ..support.signals import signal_process
from ..support.stages import await_agents, until
from .test_picture import decode

pytestmark = [pytest.mark.real("qemu"), pytest.mark.shared("world"), pytest.mark.usefixtures("brief")]

APART = 0.3  # seconds, in place of 1

# Each drawing writes its time. It waits while the file `hold` exists.
_COUNTED = """
import os, time
draw = find("draw_picture")
def counted(*words):
    with open("{root}/drawn", "a") as file:
        file.write(f"{{time.monotonic()}} {{os.getpid()}}\\n")
    while os.path.exists("{root}/hold"):
        time.sleep(0.01)
    return draw(*words)
replace(draw_picture=counted)
"""


@pytest.fixture
def brief(world: World) -> Iterator[World]:
    """A host without a painter. Its painters have much time for a drawing, and end soon after it."""
    with constants_set(world, APART_SECONDS=APART, DRAW_SECONDS=30.0, ASK_SECONDS=60.0, GUEST_SECONDS=10.0):
        until(lambda: sockets(world) == 0, "the end of an earlier painter")
        yield world


@pytest.fixture
def counted(brief: World) -> Iterator[World]:
    """The same host, which also records each drawing."""
    (brief.root / "drawn").unlink(missing_ok=True)
    with constants_set(brief, _COUNTED.format(root=brief.root)):
        yield brief
        (brief.root / "hold").unlink(missing_ok=True)


def drawings(world: World) -> list[tuple[float, int]]:
    """Return the time and the process of each drawing."""
    path = world.root / "drawn"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(float(at), int(pid)) for at, pid in map(str.split, lines)]


def sockets(world: World) -> int:
    """Return how many sockets have the painter's name, which are its own and one for each request."""
    name = f"@{world.root}/run/qemu-server/{VMID}.qmp"
    return sum(line.endswith(f" {name}") for line in Path("/proc/net/unix").read_text().splitlines())


def records(world: World) -> list[str]:
    places = (world.root / "run/breakglass", world.root / "var/lib/breakglass")
    return sorted(str(path) for place in places for path in place.rglob("*"))


def test_the_picture_is_all_that_there_is(world: World) -> None:
    """The answer has the picture, its time and the state. There is no job, no id and no file, and no process stays."""
    await_agents(world)
    before = records(world), execute(world, "history").trailer["jobs"]
    answer = execute(world, f"screen vm={VMID}")
    trailer = answer.trailer
    assert (answer.code, trailer["outcome"], trailer["stage"], trailer["state"]) == (0, "done", "screen", "running")
    assert (trailer["screen"], trailer["verdict"], trailer["guest"]) == (True, None, None)
    width, height = decode(base64.b64decode(trailer["screen_png"]))
    assert answer.stdout.startswith(f"running: {width} x {height}, ")
    taken = datetime.fromisoformat(trailer["started"])
    assert abs((datetime.now(UTC) - taken).total_seconds()) < 600
    assert (records(world), execute(world, "history").trailer["jobs"]) == before
    until(lambda: agent_processes(world) == [], "the end of the painter")


def test_all_who_ask_meanwhile_share_one_drawing(counted: World) -> None:
    """Requests over a session and by their own processes get one drawing. One that leaves takes nothing along."""
    (counted.root / "hold").touch()
    leaves = Session(counted)
    leaves.send("screen")
    until(lambda: drawings(counted), "the drawing")
    leaves.process.kill()
    with Session(counted) as session, ThreadPoolExecutor(2) as pool:
        tags = session.send_all([f"screen vm={VMID}"] * 3)
        others = [pool.submit(execute, counted, "screen") for _ in range(2)]
        until(lambda: sockets(counted) == 7, "the painter's own sockets, and five askers that wait")
        (counted.root / "hold").unlink()
        results = [session.result(tag) for tag in tags] + [other.result().trailer for other in others]
    assert {(result["exit_code"], result["screen_png"] is not None) for result in results} == {(0, True)}
    assert len({(result["screen_png"], result["started"]) for result in results}) == 1
    assert len(drawings(counted)) == 1
    leaves.__exit__(None, None, None)


# --- without a picture ---


def assert_no_picture(answer: Answer, state: str, advice: str) -> None:
    assert (answer.code, answer.trailer["state"], answer.trailer["screen"]) == (0, state, False)
    verdict = answer.trailer["verdict"]
    assert (answer.trailer["screen_png"], verdict["code"], verdict["advice"]) == (None, "no-picture", advice)


def test_why_there_is_no_picture(world: World, counted: World) -> None:
    """The answer comes in time and says why. No advice is given about a VM that may run on another node."""
    (counted.root / "hold").touch()
    with constants_set(counted, ASK_SECONDS=0.5):
        answer = execute(counted, "screen")
    assert (answer.code, answer.trailer["verdict"]["code"]) == (14, "deadline")
    (counted.root / "hold").unlink()
    until(lambda: sockets(world) == 0, "the end of the painter")

    with constants_set(world, QMP_SECONDS=0.5):
        signal_process(world.pid, signal.SIGSTOP)
        try:
            answer = execute(world, "screen")
        finally:
            signal_process(world.pid, signal.SIGCONT)
    assert_no_picture(answer, "wedged", "forensics")
    until(lambda: sockets(world) == 0, "the end of the painter")

    execute(world, "stop")
    assert_no_picture(execute(world, "screen"), "stopped", "")


# --- who may have it ---


_OTHER = """
import os, socket, sys
os.setuid(65534)
peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
peer.connect("\\0" + sys.argv[1])
print("asks", flush=True)
print(socket.recv_fds(peer, 1, 1)[1], flush=True)
"""


@pytest.mark.real("root")
def test_another_user_of_the_host_gets_no_picture(counted: World) -> None:
    """Any user can find the painter's socket, but gets nothing from it, and can't show a picture in its place."""
    name = f"{counted.root}/run/qemu-server/{VMID}.qmp"
    (counted.root / "hold").touch()
    with ThreadPoolExecutor(1) as pool:
        requests = pool.submit(execute, counted, "screen")
        until(lambda: drawings(counted), "the drawing")
        other = subprocess.Popen([sys.executable, "-c", _OTHER, name], stdout=subprocess.PIPE, text=True)
        assert other.stdout is not None
        assert other.stdout.readline() == "asks\n"
        (counted.root / "hold").unlink()
        assert other.communicate(timeout=60)[0] == "[]\n"
        assert requests.result().trailer["screen"] is True
    until(lambda: sockets(counted) == 0, "the end of the painter")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as taken:
        os.seteuid(65534)  # the peer's user, which the kernel notes at listen(2)
        try:
            taken.bind(f"\0{name}")
            taken.listen(1)
        finally:
            os.seteuid(0)
        answer = execute(counted, "screen")
    assert_no_picture(answer, "unknown", "")
    assert ["user 65534" in line for line in answer.trailer["verdict"]["evidence"]] == [True]

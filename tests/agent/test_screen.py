"""The verb `screen`: the console's picture alone, drawn at most once a second and shared, with nothing left behind."""

import base64
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest

from breakglass.demo.proxmox.world import VMID, World

from ..support.agent import Answer, Session, agent_processes, constants_set, execute
from ..support.signals import signal_process
from ..support.stages import until
from .test_picture import decode
from .test_second_sources import agent_port, qga

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
    before = records(world)
    answer = execute(world, f"screen vm={VMID}")
    trailer = answer.trailer
    assert (answer.code, trailer["outcome"], trailer["stage"], trailer["state"]) == (0, "done", "screen", "running")
    assert (trailer["screen"], trailer["verdict"], trailer["guest"]) == (True, None, None)
    width, height = decode(base64.b64decode(trailer["screen_png"]))
    assert answer.stdout.startswith(f"running: {width} x {height}, ")
    taken = datetime.fromisoformat(trailer["started"])
    assert abs((datetime.now(UTC) - taken).total_seconds()) < 600
    assert (records(world), execute(world, "history").trailer["jobs"]) == (before, [])
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


def test_one_picture_a_second(counted: World) -> None:
    """A second request within a second gets the same picture, and a later one gets a new picture."""
    with Session(counted) as session:

        def are_drawn() -> bool:
            assert session.ask("screen")["screen"] is True
            return len(drawings(counted)) >= 3

        until(are_drawn, "the third picture")
    times = [at for at, _ in drawings(counted)]
    assert min(later - at for at, later in pairwise(times)) >= APART


def test_a_painter_that_dies_is_replaced(counted: World) -> None:
    """A second painter draws, so the client does not notice."""
    (counted.root / "hold").touch()
    with ThreadPoolExecutor(1) as pool:
        requests = pool.submit(execute, counted, "screen")
        until(lambda: drawings(counted), "the first drawing")
        signal_process(drawings(counted)[0][1], signal.SIGKILL)
        until(lambda: len(drawings(counted)) == 2, "the second drawing")
        (counted.root / "hold").unlink()
        assert requests.result().trailer["screen"] is True


def test_the_guest_agent_is_reported(world: World) -> None:
    """The answer also says whether the guest agent answers, so that a client knows that the guest is back."""
    for answers, word, seconds in ((True, "answers", 10.0), (False, "silent", 0.2)):
        with agent_port(qga(world), answers), constants_set(world, GUEST_SECONDS=seconds):
            until(lambda: sockets(world) == 0, "the end of an earlier painter")
            trailer = execute(world, "screen").trailer
        os.unlink(world.root / f"run/qemu-server/{VMID}.qga")
        assert (trailer["screen"], trailer["guest"]) == (True, word)


# --- without a picture ---


def assert_no_picture(answer: Answer, state: str, sentence: str) -> dict[str, object]:
    assert (answer.code, answer.trailer["state"], answer.trailer["screen"]) == (0, state, False)
    assert answer.trailer["screen_png"] is None
    verdict: dict[str, object] = answer.trailer["verdict"]
    assert (verdict["code"], verdict["sentence"]) == ("no-picture", sentence)
    return verdict


def test_why_there_is_no_picture(world: World, counted: World) -> None:
    """The answer comes in time and says why. No advice is given about a VM that may run on another node."""
    (counted.root / "hold").touch()
    with constants_set(counted, ASK_SECONDS=0.5):
        answer = execute(counted, "screen")
    assert (answer.code, answer.trailer["verdict"]["code"]) == (14, "deadline")
    assert answer.trailer["verdict"]["sentence"] == "the host drew no picture in 0.5 s"
    (counted.root / "hold").unlink()
    until(lambda: sockets(world) == 0, "the end of the painter")

    with constants_set(world, QMP_SECONDS=0.5):
        signal_process(world.pid, signal.SIGSTOP)
        try:
            answer = execute(world, "screen")
        finally:
            signal_process(world.pid, signal.SIGCONT)
    silent = "QEMU's monitor is silent, so there is no picture: collect evidence"
    assert assert_no_picture(answer, "wedged", silent)["advice"] == "forensics"
    until(lambda: sockets(world) == 0, "the end of the painter")

    execute(world, "stop")
    off = "no QEMU of this VM runs on this host, so there is no picture"
    assert assert_no_picture(execute(world, "screen"), "stopped", off)["advice"] == ""


@pytest.mark.all
def test_a_qemu_that_stops_while_it_draws_is_said(world: World) -> None:
    """The monitor answered and then became silent. The guard ends by itself, and the next picture works."""
    stops = f'draw = find("_have_it_drawn")\ndef stopping(*words):\n    import os\n    os.kill({world.pid}, 19)\n'
    with constants_set(world, f"{stops}    return draw(*words)\nreplace(_have_it_drawn=stopping)", DRAW_SECONDS=0.5):
        try:
            answer = execute(world, "screen")
        finally:
            signal_process(world.pid, signal.SIGCONT)
    verdict = assert_no_picture(answer, "running", "there is no picture of the console now")
    assert "in time" in str(verdict["evidence"])
    until(lambda: agent_processes(world) == [], "the end of painter and guard")
    assert execute(world, "screen").trailer["screen"] is True


def test_a_defect_is_no_storm_of_painters(counted: World) -> None:
    """If the painter can't draw, it sends the error to each request in its second."""
    (counted.root / "hold").touch()
    odd = 'after = find("draw_picture")\ndef odd(*words):\n    after(*words)\n    raise RuntimeError("odd")\n'
    with constants_set(counted, f"{odd}replace(draw_picture=odd)"), Session(counted) as session:
        tags = session.send_all(["screen"] * 5)
        until(lambda: sockets(counted) == 6, "five askers that wait")
        (counted.root / "hold").unlink()
        answers = [session.result(tag) for tag in tags]
    assert [answer["verdict"]["evidence"] for answer in answers] == [["RuntimeError: odd"]] * 5
    assert len(drawings(counted)) == 1


# --- who may have it ---


_OTHER = """
import os, socket, sys
os.setuid(65534)
name, how = sys.argv[1:]
peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
if how == "asks":
    peer.connect("\\0" + name)
    print("asks", flush=True)
    print(socket.recv_fds(peer, 1, 1)[1], flush=True)
else:
    peer.bind("\\0" + name)
    peer.listen(1)
    print("has it", flush=True)
    sys.stdin.read()
"""


def start_other(world: World, how: str) -> "subprocess.Popen[str]":
    """Run a process of another user of the host that asks the painter, or takes its name."""
    name = f"{world.root}/run/qemu-server/{VMID}.qmp"
    other = subprocess.Popen(
        [sys.executable, "-c", _OTHER, name, how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline().split() == ("has it" if how == "has" else how).split()
    return other


@pytest.mark.real("root")
def test_another_user_of_the_host(counted: World) -> None:
    """Any user can find the painter's socket, but gets nothing from it, and can't show a picture in its place."""
    (counted.root / "hold").touch()
    with ThreadPoolExecutor(1) as pool:
        requests = pool.submit(execute, counted, "screen")
        until(lambda: drawings(counted), "the drawing")
        other = start_other(counted, "asks")
        (counted.root / "hold").unlink()
        assert other.communicate(timeout=60)[0] == "[]\n"
        assert requests.result().trailer["screen"] is True
    until(lambda: sockets(counted) == 0, "the end of the painter")
    other = start_other(counted, "has")
    try:
        answer = execute(counted, "screen")
    finally:
        other.communicate(timeout=60)
    verdict = assert_no_picture(answer, "unknown", "there is no picture of the console now")
    assert verdict["evidence"] == ["a process of the user 65534 has the socket of the picture"]

"""POST /pve, from the signature to QEMU, through a real handler, a real OpenSSH server and the real host agent."""

import http.client
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from breakglass.client import new_id
from breakglass.demo.proxmox.world import World

from ..model.replay import replay
from ..support.agent import processes
from ..support.failing_tools import misbehave
from ..support.qemu import Witness
from ..support.service import Service, with_constants
from ..support.sshd import Sshd
from ..support.stages import until
from .conftest import handler

pytestmark = [pytest.mark.real("sshd", "qemu"), pytest.mark.shared("world", "sshd", "service")]


@pytest.fixture(scope="module", autouse=True)
def _replayed(shared_world: World, shared_service: Service) -> Iterator[None]:
    """At the end, the model of the protocol must allow each job and each answer of these tests."""
    last, begin = new_id(), shared_service.audit_file.stat().st_size
    yield
    shared_service.pve("status", msg_id=last)
    lines = map(json.loads, shared_service.logged(last)[begin:].splitlines())
    replay(shared_world, [line for line in lines if "outcome" in line])


def open_gate(world: World) -> None:
    """Let a gated `qm` continue, and return once it has begun to."""
    (world.root / "gate").write_text("")  # blocks until `qm` reads the gate
    misbehave(world.root)


@pytest.fixture
def gated_start(world: World) -> World:
    """A host whose `qm start` waits at a gate, which keeps a cycle in its middle for as long as a test needs."""
    os.mkfifo(world.root / "gate")
    misbehave(world.root, gate="start")
    return world


def wait_stage(service: Service, stage: str) -> None:
    """Return once the host reports the running job in this stage."""

    def there() -> bool:
        jobs = service.pve("history").json["jobs"]
        return any(job["outcome"] is None and job["stage"] == stage for job in jobs)

    until(there, f"stage {stage}")


def begin_cycle(service: Service, msg_id: str, accept: str = "*/*") -> http.client.HTTPConnection:
    """Send a cycle; return the connection on which its answer comes."""
    body = json.dumps({"verb": "cycle"}).encode()
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=120)
    connection.request("POST", "/pve", body, service.signed(body, msg_id=msg_id) | {"accept": accept})
    return connection


# --- the verbs ---


@pytest.mark.quick
def test_a_cycle_starts_a_new_qemu_process_once(service: Service, world: World) -> None:
    """The answer has every field of the contract. A repeated request attaches, whatever its conditions are.

    Another verb under this id is 422.
    """
    before, msg_id = world.pid, new_id()
    last = service.pve("status").json["last"]
    reply = service.pve("cycle", msg_id=msg_id, reason="hung since 02:50", if_state="running", if_last=last)
    answer, pid = reply.json, world.pid
    assert (reply.status, answer["outcome"], answer["reached"], answer["state"]) == (200, "done", True, "running")
    assert pid not in (None, before)
    assert answer["last"] == answer["id"] == msg_id
    to_root = [line.split(" qm ")[0] for line in answer["by_hand"]]
    assert all(re.fullmatch(r"ssh -p \d+ root@127\.0\.0\.1", words) for words in to_root), to_root
    assert [line.split(" qm ")[1] for line in answer["by_hand"]] == ["stop 102", "start 102"]
    again = service.pve("cycle", msg_id=msg_id, if_state="stopped").json
    assert (again["attached"], again["outcome"], again["stdout"]) == (True, "done", answer["stdout"])
    other = service.pve("stop", msg_id=msg_id)
    assert (other.status, other.json["outcome"], other.json["reached"]) == (422, "id-reused", True)
    assert other.json["verdict"]["code"] == "id-taken"
    assert world.pid == pid


def test_reset_is_qemus_own_reset(service: Service, world: World) -> None:
    """A reset is proven by QEMU's RESET event, in the same process. It also makes a paused VM run, as a start does."""
    before = world.pid
    with Witness(world) as qemu:
        qemu.execute("stop")
        assert service.pve("status").json["state"] == "paused"
        assert service.pve("reset").json["state"] == "running"
        assert qemu.wait("RESET") == {"guest": False, "reason": "host-qmp-system-reset"}
        qemu.execute("stop")
        assert service.pve("start").json["state"] == "running"
    assert world.pid == before


def test_stop_and_start(service: Service, world: World) -> None:
    """Stop proves that no process is left, and start makes the VM run. Both succeed if there is nothing to do."""
    assert service.pve("stop").json["state"] == "stopped"
    assert world.pid is None
    assert service.pve("stop").json["outcome"] == "done"
    assert service.pve("reset").status == 412
    assert service.pve("start").json["state"] == "running"
    assert service.pve("start").json["outcome"] == "done"


def test_history_has_each_job_with_its_picture_and_its_reason(service: Service) -> None:
    """A capture's output and screenshot can be read again by its job's id. A reason arrives whatever its characters."""
    why = 'it "hangs"; $(reboot)\n\u202eevil'
    answer = service.pve("forensics", caller="operator2", reason=why).json
    assert answer["screen"] is True
    history = service.pve("history", job=answer["id"]).json
    job = history["jobs"][0]
    assert (job["id"], job["verb"], job["by"], job["why"]) == (answer["id"], "forensics", "operator2", why)
    assert history["job"]["output"] == answer["stdout"]
    assert history["job"]["screen_png"].startswith("iVBORw0KGgo")
    assert service.pve("history", job="no-such-job").json["job"] is None


# --- send it again ---


def test_fifty_posts_of_one_id_act_once(service: Service) -> None:
    """Fifty requests at once with one id make one cycle and fifty equal answers."""
    msg_id, before = new_id(), {job["id"] for job in service.pve("history").json["jobs"]}
    replies = service.together([{"verb": "cycle", "msg_id": msg_id}] * 50)
    assert {reply.json["outcome"] for reply in replies} == {"done"}
    assert Counter(reply.json["attached"] for reply in replies) == {False: 1, True: 49}
    assert {job["id"] for job in service.pve("history").json["jobs"]} - before == {msg_id}


def test_two_decisions_make_one_outage(service: Service, gated_start: World) -> None:
    """Of twenty requests at once with different ids, one acts, and the others are told whose it is.

    A request for a state that has since changed is refused, and the answer says who was first.
    """
    seen = service.pve("status").json["last"]
    with ThreadPoolExecutor(20) as pool:
        requests = [pool.submit(service.pve, "cycle", caller="operator2") for _ in range(20)]
        until(lambda: sum(each.done() for each in requests) == 19, "the answer of all but one")
        wait_stage(service, "start")
        open_gate(gated_start)
        replies = [each.result().json for each in requests]
    assert Counter(reply["outcome"] for reply in replies) == {"done": 1, "busy": 19}
    busy = next(reply for reply in replies if reply["outcome"] == "busy")
    assert (busy["holder"]["by"], busy["holder"]["verb"], busy["reached"]) == ("operator2", "cycle", True)
    late = service.pve("cycle", if_last=seen)
    assert (late.status, late.json["outcome"], late.json["reached"]) == (412, "refused", True)
    assert late.json["verdict"]["code"] == "last-differs"
    assert late.json["verdict"]["sentence"].startswith("operator2 sent cycle ")
    assert service.pve("stop", if_state="stopped").json["verdict"]["code"] == "state-differs"


# --- what a lost connection does not do ---


@pytest.mark.quick
def test_lost_connections_in_the_middle_of_a_cycle_change_nothing(
    service: Service, sshd: Sshd, gated_start: World
) -> None:
    """The HTTP client vanishes, and every SSH process is killed. The handler attaches again, and the VM runs."""
    msg_id = new_id()
    with closing(begin_cycle(service, msg_id)):
        wait_stage(service, "start")
    with closing(begin_cycle(service, msg_id, "application/x-ndjson")) as staying:
        lines = staying.getresponse()
        assert [json.loads(lines.readline())["type"] for _ in range(2)] == ["accepted", "stage"]
        sshd.drop_connections()
        open_gate(gated_start)
        answer = json.loads(lines.read().splitlines()[-1])
    assert (answer["outcome"], answer["reached"], answer["state"]) == ("done", True, "running")
    assert service.pve("cycle", msg_id=msg_id).json["attached"] is True
    assert gated_start.pid is not None


@pytest.mark.all
def test_a_killed_handler_changes_nothing(service: Service, sshd: Sshd, gated_start: World, short_dir: Path) -> None:
    """The handler is killed mid-cycle. Another replica returns the outcome for the same id."""
    msg_id = new_id()
    with handler(short_dir, sshd) as killed, closing(begin_cycle(killed, msg_id)):
        wait_stage(service, "start")
        killed.process.kill()
        open_gate(gated_start)
    answer = service.pve("cycle", msg_id=msg_id).json
    assert (answer["outcome"], answer["state"], answer["attached"]) == ("done", "running", True)


def test_an_id_that_was_sent_before_is_unknown_when_the_host_is_gone(service: Service, sshd: Sshd) -> None:
    """A repeated id whose first attempt reached the host is answered with "may have run" when the host is gone.

    A browser can repeat a request by itself. A new id is answered with "nothing was sent", each time.
    """
    acted, new = new_id(), new_id()
    assert service.pve("reset", msg_id=acted).json["outcome"] == "done"
    sshd.stop()
    try:
        service.not_answering()
        again = service.pve("reset", msg_id=acted)
        assert (again.status, again.json["outcome"], again.json["reached"]) == (503, "unknown", None)
        for _ in range(2):
            reply = service.pve("reset", msg_id=new)
            assert (reply.status, reply.json["outcome"], reply.json["reached"]) == (503, "unreached", False)
        assert service.pve("status", msg_id=acted).json["outcome"] == "unreached"
    finally:
        sshd.start()


# --- the stream ---


def test_a_stream_ends_with_the_answer_object(service: Service) -> None:
    """The stream has `accepted` first, stages and output as they come, and the whole result last.

    Each stage has the deadline and the start of the job, as the result does.
    """
    reply = service.pve("reset", stream=True)
    first, *lines, last = reply.lines
    stages, output = ([line for line in lines if line["type"] == kind] for kind in ("stage", "output"))
    assert reply.headers["content-type"].startswith("application/x-ndjson")
    assert (first["type"], last["type"], last["outcome"]) == ("accepted", "result", "done")
    assert "".join(line["text"] for line in output) == last["stdout"]
    assert [each["stage"] for each in stages][:1] == ["preflight"]
    assert {(each["deadline"], each["started"]) for each in stages} == {(last["deadline"], last["started"])}


@pytest.mark.all
def test_a_stopping_handler_ends_its_streams(sshd: Sshd, gated_start: World, short_dir: Path) -> None:
    """SIGTERM ends a stream, here soon, with a result line that says to send the id again."""
    hasty = with_constants("server.server.ANSWER_SECONDS = 0.2")
    with (
        handler(short_dir, sshd, program=hasty) as service,
        closing(begin_cycle(service, new_id(), "application/x-ndjson")) as connection,
    ):
        response = connection.getresponse()
        assert [json.loads(response.readline())["type"] for _ in range(2)] == ["accepted", "stage"]
        wait_stage(service, "start")
        service.process.terminate()
        last = json.loads(response.read().splitlines()[-1])
    assert (last["type"], last["outcome"], last["reached"]) == ("result", "running", True)
    open_gate(gated_start)
    until(lambda: not processes(gated_start, last["id"]), "the end of the cycle")
    assert gated_start.pid is not None


# --- requests that are refused ---


def test_a_viewer_may_not_change_power(service: Service) -> None:
    """A viewer's power verb gets 403, and nothing is sent."""
    reply = service.pve("stop", caller="viewer")
    assert (reply.status, reply.json["error"]["code"], reply.json["error"]["reached"]) == (403, "forbidden", False)
    assert service.pve("status", caller="viewer").status == 200


HOSTILE = [
    *("reset; rm -rf /", "reset\n", "reset\0", "-reset", " reset", "ｒｅｓｅｔ", "RESET", "r" * 10_000),
    *("", "ping", "job"),
]


def test_hostile_verbs_are_rejected(service: Service) -> None:
    """A word that is not a verb, or not a configured VM, is rejected with the answer object, and nothing is sent."""
    for verb, vm in [*((verb, "devvm") for verb in HOSTILE), ("reset", "other")]:
        reply = service.pve(verb, vm=vm)
        answer = reply.json
        assert (reply.status, answer["outcome"], answer["rejected"]) == (400, "rejected", True), (verb, vm)
        assert (answer["reached"], answer["exit_code"]) == (False, None), (verb, vm)

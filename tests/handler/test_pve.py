"""POST /pve, from the signature to QEMU, through a real handler, a real OpenSSH server and the real host agent."""

import http.client
import json
import os
import re
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from breakglass.auth.signing import fingerprint, secret_bytes
from breakglass.client import new_id
from breakglass.demo.proxmox.world import World

from ..model.replay import replay
from ..support.agent import processes
from ..support.failing_tools import misbehave
from ..support.qemu import Witness
from ..support.service import Service, with_constants
from ..support.sshd import Sshd
from ..support.stages import until

pytestmark = [pytest.mark.real("sshd", "qemu"), pytest.mark.shared("world", "sshd", "service")]
own_host = pytest.mark.shared()
own_handler = pytest.mark.shared("world", "sshd")


@pytest.fixture(scope="module", autouse=True)
def _replayed(shared_world: World, shared_service: Service) -> Iterator[None]:
    """At the end, the model of the protocol must allow each job and each answer of these tests."""
    yield
    replay(shared_world, shared_service.audit())


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


def jobs(service: Service) -> set[str]:
    return {job["id"] for job in service.pve("history").json["jobs"]}


# --- the verbs ---


@pytest.mark.quick
@own_host
def test_cycle_starts_a_new_qemu_process(service: Service, world: World) -> None:
    """A cycle ends with the VM running in another process. The answer has every field of the contract."""
    before = world.pid
    reply = service.pve("cycle", reason="hung since 02:50", if_state="running", if_last="none")
    answer = reply.json
    assert reply.status == 200
    assert (answer["outcome"], answer["reached"], answer["state"]) == ("done", True, "running")
    assert world.pid not in (None, before)
    assert answer["last"] == answer["id"]
    expected = (
        "verb vm id exit_code stdout stderr rejected reached outcome attached by started state last verdict stage"
    )
    assert set(answer) >= {*expected.split(), "seconds", "screen", "by_hand", "warnings"}
    to_root = [line.split(" qm ")[0] for line in answer["by_hand"]]
    assert all(re.fullmatch(r"ssh -p \d+ root@127\.0\.0\.1", words) for words in to_root), to_root
    assert [line.split(" qm ")[1] for line in answer["by_hand"]] == ["stop 102", "start 102"]


def test_reset_is_qemus_own_reset(service: Service, world: World) -> None:
    """A reset is proven by QEMU's RESET event, in the same process."""
    before = world.pid
    with Witness(world) as qemu:
        assert service.pve("reset").json["outcome"] == "done"
        assert qemu.wait("RESET") == {"guest": False, "reason": "host-qmp-system-reset"}
    assert world.pid == before


def test_reset_of_a_paused_vm_ends_running(service: Service, world: World) -> None:
    """`system_reset` leaves a paused VM in prelaunch, so reset also makes it run."""
    with Witness(world) as qemu:
        qemu.execute("stop")
        assert service.pve("status").json["state"] == "paused"
        assert service.pve("reset").json["state"] == "running"


def test_stop_and_start(service: Service, world: World) -> None:
    """Stop proves that no process is left, and start makes the VM run. Both succeed if there is nothing to do."""
    assert service.pve("stop").json["state"] == "stopped"
    assert world.pid is None
    assert service.pve("stop").json["outcome"] == "done"
    assert service.pve("reset").status == 412
    assert service.pve("start").json["state"] == "running"
    assert service.pve("start").json["outcome"] == "done"


def test_start_lets_a_paused_vm_go_on(service: Service, world: World) -> None:
    """Start of a paused VM sends `cont`, so the same process continues."""
    before = world.pid
    with Witness(world) as qemu:
        qemu.execute("stop")
    assert service.pve("start").json["state"] == "running"
    assert world.pid == before


def test_forensics_brings_a_picture_that_history_returns(service: Service) -> None:
    """A capture's output and screenshot can be read again by its job's id."""
    answer = service.pve("forensics").json
    assert answer["screen"] is True
    history = service.pve("history", job=answer["id"]).json
    assert history["jobs"][0]["id"] == answer["id"]
    assert history["job"]["output"] == answer["stdout"]
    assert history["job"]["screen_png"].startswith("iVBORw0KGgo")
    assert service.pve("history", job="no-such-job").json["job"] is None


def test_history_says_who_did_what_and_why(service: Service) -> None:
    """The reason arrives as the job's `why`, whatever its characters are."""
    why = 'it "hangs"; $(reboot)\n\u202eevil'
    job = service.pve("reset", caller="operator2", reason=why).json["id"]
    found = service.pve("history").json["jobs"][0]
    assert (found["id"], found["verb"], found["by"], found["why"]) == (job, "reset", "operator2", why)


# --- send it again ---


@pytest.mark.quick
def test_the_same_id_attaches_and_acts_once(service: Service, world: World) -> None:
    """A repeated request returns the same outcome and changes nothing."""
    msg_id = new_id()
    first = service.pve("cycle", msg_id=msg_id).json
    pid = world.pid
    again = service.pve("cycle", msg_id=msg_id, if_state="stopped").json
    assert (again["attached"], again["outcome"], again["stdout"]) == (True, "done", first["stdout"])
    assert world.pid == pid


def test_an_id_belongs_to_its_verb(service: Service) -> None:
    """Another verb under a known id is 422, and says that the id reached the host."""
    msg_id = new_id()
    service.pve("reset", msg_id=msg_id)
    reply = service.pve("stop", msg_id=msg_id)
    assert (reply.status, reply.json["outcome"], reply.json["reached"]) == (422, "id-reused", True)
    assert reply.json["verdict"]["code"] == "id-taken"


def test_fifty_posts_of_one_id_act_once(service: Service, world: World) -> None:
    """Fifty requests at once with one id make one cycle and fifty equal answers."""
    msg_id, before = new_id(), jobs(service)
    replies = service.together([{"verb": "cycle", "msg_id": msg_id}] * 50)
    assert {reply.json["outcome"] for reply in replies} == {"done"}
    assert Counter(reply.json["attached"] for reply in replies) == {False: 1, True: 49}
    assert jobs(service) - before == {msg_id}


def test_fifty_ids_act_once_and_the_rest_are_busy(service: Service, gated_start: World) -> None:
    """Fifty requests at once with different ids make one cycle, and forty-nine answers say whose it is."""
    with ThreadPoolExecutor(50) as pool:
        requests = [pool.submit(service.pve, "cycle", caller="operator2") for _ in range(50)]
        until(lambda: sum(each.done() for each in requests) == 49, "the answer of all but one")
        wait_stage(service, "start")
        open_gate(gated_start)
        replies = [each.result().json for each in requests]
    assert Counter(reply["outcome"] for reply in replies) == {"done": 1, "busy": 49}
    busy = next(reply for reply in replies if reply["outcome"] == "busy")
    assert isinstance(busy["holder"], dict)
    assert (busy["holder"]["by"], busy["holder"]["verb"], busy["reached"]) == ("operator2", "cycle", True)


def test_two_decisions_make_one_outage(service: Service) -> None:
    """A request for a state that has since changed is refused, and the answer says who was first."""
    seen = service.pve("status").json["last"]
    assert service.pve("cycle", if_last=seen).status == 200
    late = service.pve("cycle", caller="operator2", if_last=seen)
    assert (late.status, late.json["outcome"], late.json["reached"]) == (412, "refused", True)
    assert late.json["verdict"]["sentence"].startswith("operator sent cycle ")
    assert service.pve("stop", if_state="stopped").json["verdict"]["code"] == "state-differs"


# --- what a lost connection does not do ---


def test_a_client_that_leaves_interrupts_nothing(service: Service, gated_start: World) -> None:
    """The HTTP client vanishes in the middle of a cycle. The VM still ends running, and the id returns the outcome."""
    msg_id, body = new_id(), json.dumps({"verb": "cycle"}).encode()
    connection = http.client.HTTPConnection("127.0.0.1", service.port)
    connection.request("POST", "/pve", body, service.signed(body, msg_id=msg_id))
    wait_stage(service, "start")
    connection.close()
    open_gate(gated_start)
    answer = service.pve("cycle", msg_id=msg_id).json
    assert (answer["outcome"], answer["attached"], answer["state"]) == ("done", True, "running")


@pytest.mark.quick
def test_killing_ssh_in_the_middle_of_a_cycle_changes_nothing(service: Service, sshd: Sshd, gated_start: World) -> None:
    """Every SSH process is killed mid-cycle. The handler attaches again by itself, and the VM ends running."""
    msg_id = new_id()
    replies: list[dict[str, object]] = []
    posting = threading.Thread(target=lambda: replies.append(service.pve("cycle", msg_id=msg_id).json))
    posting.start()
    wait_stage(service, "start")
    sshd.drop_connections()
    open_gate(gated_start)
    posting.join(60)
    assert (replies[0]["outcome"], replies[0]["reached"], replies[0]["state"]) == ("done", True, "running")
    assert service.pve("cycle", msg_id=msg_id).json["attached"] is True
    assert gated_start.pid is not None


@pytest.mark.all
@own_handler
def test_a_killed_handler_changes_nothing(service: Service, world: World, sshd: Sshd, gated_start: World) -> None:
    """The handler is killed mid-cycle. Another replica returns the outcome for the same id."""
    msg_id, body = new_id(), json.dumps({"verb": "cycle"}).encode()
    connection = http.client.HTTPConnection("127.0.0.1", service.port)
    connection.request("POST", "/pve", body, service.signed(body, msg_id=msg_id))
    wait_stage(service, "start")
    service.process.kill()
    connection.close()
    open_gate(gated_start)
    replica = Service(world.directory, port=sshd.port, key=sshd.power_key, host_key=[sshd.host_key])
    try:
        answer = replica.pve("cycle", msg_id=msg_id).json
        assert (answer["outcome"], answer["state"], answer["attached"]) == ("done", "running", True)
    finally:
        replica.stop()


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
        assert again.json["verdict"]["sentence"].endswith('"reset" was sent before and may have run')
        assert "nothing was sent" not in again.json["verdict"]["sentence"]
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


def test_a_stopping_handler_ends_its_streams(sshd: Sshd, gated_start: World) -> None:
    """SIGTERM ends a stream, here soon, with a result line that says to send the id again."""
    access: dict[str, Any] = {"port": sshd.port, "key": sshd.power_key, "host_key": [sshd.host_key]}
    hasty = with_constants("server.server.ANSWER_SECONDS = 0.2")
    service = Service(gated_start.directory, **access, program=hasty)
    body = json.dumps({"verb": "cycle"}).encode()
    connection = http.client.HTTPConnection("127.0.0.1", service.port)
    try:
        connection.request("POST", "/pve", body, service.signed(body) | {"accept": "application/x-ndjson"})
        response = connection.getresponse()
        assert [json.loads(response.readline())["type"] for _ in range(2)] == ["accepted", "stage"]
        wait_stage(service, "start")
        service.process.terminate()
        last = json.loads(response.read().splitlines()[-1])
    finally:
        connection.close()
        service.stop()
    assert (last["type"], last["outcome"], last["reached"]) == ("result", "running", True)
    open_gate(gated_start)
    until(lambda: not processes(gated_start, last["id"]), "the end of the cycle")
    assert gated_start.pid is not None


# --- authentication and rights ---


def test_a_viewer_may_not_change_power(service: Service) -> None:
    """A viewer's power verb gets 403, and nothing is sent."""
    reply = service.pve("stop", caller="viewer")
    assert (reply.status, reply.json["error"]["code"], reply.json["error"]["reached"]) == (403, "forbidden", False)
    assert service.pve("status", caller="viewer").status == 200


HOSTILE = [
    "reset; rm -rf /",
    "reset\n",
    "reset\0",
    "-reset",
    " reset",
    "ｒｅｓｅｔ",
    "RESET",
    "r" * 10_000,
    "",
    "ping",
    "job",
]


@pytest.mark.parametrize("verb", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_verbs_are_rejected(service: Service, verb: str) -> None:
    """A word that is not a verb is rejected with the answer object, and nothing is sent."""
    reply = service.pve(verb)
    answer = reply.json
    assert (reply.status, answer["outcome"], answer["rejected"]) == (400, "rejected", True)
    assert (answer["reached"], answer["exit_code"]) == (False, None)


def test_an_unknown_vm_is_rejected(service: Service) -> None:
    """A VM that is not configured can't be named."""
    assert service.pve("reset", vm="other").json["outcome"] == "rejected"


@own_handler
def test_one_audit_line_a_request_without_secrets(service: Service) -> None:
    """The line says who, with which key, what, why and how it ended. It has no secret."""
    service.pve("reset", reason="it hangs")
    service.pve("stop", caller="viewer")
    service.pve("nonsense\nverb")
    service.send("POST", "/pve", b"{}")
    lines = service.audit()
    assert [(line["caller"], line["verb"], line["outcome"]) for line in lines] == [
        ("operator", "reset", "done"),
        ("viewer", "", "forbidden"),
        ("operator", "nonsense\\nverb", "rejected"),
        ("", "", "unauthorized"),
    ]
    keys = [fingerprint(secret_bytes(service.secrets[name])) for name in ("operator", "viewer", "operator")]
    assert [line["key"] for line in lines] == [*keys, ""]
    assert [line["why"] for line in lines] == ["", "", "", "malformed"]
    assert [line["level"] for line in lines] == ["info", "warning", "warning", "warning"]
    assert [line["reason"] for line in lines] == ["it hangs", "", "", ""]
    assert {(line["event"], line["client"], line["proxy"]) for line in lines} == {("request", "127.0.0.1", "")}
    text = json.dumps(lines)
    assert not any(secret in text for secret in service.secrets.values())

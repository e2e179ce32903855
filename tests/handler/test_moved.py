"""A VM that moves between three nodes: each verb finds it, and an id acts once, whichever node has it."""

import json
import re
import signal
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from breakglass.client import new_id

from ..support.agent import agent_processes, execute
from ..support.cluster import Cluster, cluster
from ..support.pve_host import not_mounted
from ..support.service import Service
from ..support.signals import signal_process
from ..support.stages import at_qm, memory, until

pytestmark = pytest.mark.real("sshd")


@pytest.fixture(scope="module")
def nodes(directory: Path) -> Iterator[Cluster]:
    with cluster(directory) as made:
        yield made


@pytest.fixture
def service(nodes: Cluster, short_dir: Path) -> Iterator[Service]:
    """A handler that has just started, so it does not know where the VM is. The first of its `hosts` is pve1."""
    for sshd in nodes.nodes.values():
        if sshd.process.returncode is not None:
            sshd.start()
    service = nodes.handler(short_dir)
    try:
        yield service
    finally:
        service.stop()


@pytest.fixture
def other_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bg", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


def test_each_verb_finds_the_vm(nodes: Cluster, service: Service) -> None:
    """The handler asks the nodes first, and the commands by hand name the node that has the VM."""
    for node, verb in (("pve2", "reset"), ("pve3", "status"), ("pve1", "cycle"), ("pve2", "forensics")):
        nodes.move(node)
        answer = service.pve(verb).json
        assert (answer["outcome"], answer["state"]) == ("done", "running"), answer
        assert f"-p {nodes.nodes[node].port} " in answer["by_hand"][0]
        assert answer["chain"] is None or answer["chain"]["node"] == node


@pytest.mark.all
def test_a_handler_that_has_just_started_waits_for_its_connections(nodes: Cluster, service: Service) -> None:
    """It knows nothing of the hosts yet, and a refusal would end the id."""
    nodes.move("pve3")
    service.stop()
    service.start()
    assert service.pve("reset").json["outcome"] == "done"


@pytest.mark.all
def test_conditions_are_compared_where_the_vm_is(nodes: Cluster, service: Service) -> None:
    """The node that has the VM compares them."""
    nodes.move("pve3")
    last = service.pve("status").json["last"]
    nodes.move("pve1")
    service.pve("reset")
    nodes.move("pve3")
    assert service.pve("reset", if_state="running", if_last=last).json["outcome"] == "done"
    answer = execute(nodes.nodes["pve1"].world, "cycle if=running last=none")
    assert (answer.trailer["state"], answer.trailer["verdict"]["code"]) == ("elsewhere", "other-node")


def test_an_id_acts_once_even_after_a_move(nodes: Cluster, service: Service) -> None:
    """The handler first asks the node where the id acted, and the request attaches there."""
    nodes.move("pve2")
    msg_id = new_id()
    first = service.pve("reset", msg_id=msg_id).json
    nodes.move("pve3")
    assert service.pve("status").json["state"] == "running"  # so the handler knows where the VM is
    again = service.pve("reset", msg_id=msg_id, again=True).json
    assert (again["outcome"], again["attached"], again["started"]) == ("done", True, first["started"])
    assert again["chain"]["node"] == "pve2"
    assert service.pve("history", job=msg_id).json["job"]["outcome"] == "done"


def test_a_repeated_id_is_not_sent_while_a_host_that_may_have_it_is_away(
    nodes: Cluster, short_dir: Path, service: Service
) -> None:
    """While such a host is away, the repeated id is `unknown`, and a new one acts."""
    nodes.move("pve2")
    msg_id = new_id()
    assert service.pve("reset", msg_id=msg_id).json["outcome"] == "done"
    nodes.move("pve3")
    nodes.nodes["pve2"].stop()
    until(lambda: service.health()["hosts"]["pve2"]["state"] != "answering", "the loss of pve2")
    answer = service.pve("reset", msg_id=msg_id, again=True).json
    assert (answer["outcome"], answer["reached"]) == ("unknown", None)
    assert answer["verdict"]["sentence"].startswith("pve2 can't tell whether this id ran there, so nothing was sent")
    assert answer["verdict"]["evidence"] == ["fix what is wrong with pve2, then send the same id again"]
    new = service.pve("reset").json
    assert new["outcome"] == "done", new
    nodes.nodes["pve2"].start()
    until(lambda: service.health()["hosts"]["pve2"]["state"] == "answering", "pve2 again")
    assert service.pve("reset", msg_id=msg_id, again=True).json["attached"]


@pytest.mark.all
def test_a_lost_node_is_named_and_the_vm_found_again(nodes: Cluster, service: Service) -> None:
    """While the VM's node is away, the state is `elsewhere`. Once HA has started the VM again, verbs go there."""
    nodes.move("pve1")
    assert service.pve("status").json["state"] == "running"
    nodes.nodes["pve1"].stop()
    until(lambda: service.health()["hosts"]["pve1"]["state"] != "answering", "the loss of pve1")
    seen = service.pve("status").json
    assert (seen["outcome"], seen["state"], seen["verdict"]["code"]) == ("done", "elsewhere", "other-node")
    assert re.match(r"pve1 has been unreachable since 20\S+: .*127\.0\.0\.1", seen["verdict"]["evidence"][-1])
    assert f"-p {nodes.nodes['pve1'].port} " in service.pve("cycle").json["by_hand"][0]
    power = service.pve("cycle").json
    assert (power["outcome"], power["reached"]) == ("unreached", False)
    assert power["verdict"]["sentence"].startswith("the VM is on node pve1: ")
    nodes.nodes["pve1"].start()
    assert service.pve("cycle").json["outcome"] == "done"  # each request tries to connect again
    nodes.nodes["pve1"].stop()
    until(lambda: service.health()["hosts"]["pve1"]["state"] != "answering", "the loss of pve1")
    nodes.move("pve3")
    assert service.pve("cycle").json["outcome"] == "done"


def test_two_handlers_act_once(nodes: Cluster, service: Service, other_dir: Path) -> None:
    """A handler that has not seen the id asks the other nodes for it.

    It believes a node that does not have the VM only if the client says `again`.
    """
    nodes.move("pve1")
    msg_id = new_id()
    first = service.pve("cycle", msg_id=msg_id).json
    assert first["outcome"] == "done"
    nodes.move("pve2")
    other = nodes.handler(other_dir)
    try:
        new = other.pve("cycle", msg_id=msg_id).json
        again = other.pve("cycle", msg_id=msg_id, again=True).json
    finally:
        other.stop()
    assert (new["outcome"], new["reached"], new["verdict"]["code"]) == ("unreached", False, "place-disputed"), new
    assert '"again": true' in new["verdict"]["evidence"][0]
    assert (again["outcome"], again["attached"], again["started"]) == ("done", True, first["started"])


@pytest.mark.all
def test_an_alert_takes_its_evidence_where_the_vm_is(nodes: Cluster, service: Service) -> None:
    """The handler does not know of the move, and looks first."""
    nodes.move("pve1")
    assert service.pve("status").json["state"] == "running"
    nodes.move("pve3")
    alert = {"status": "firing", "labels": {"host": "devvm"}, "starts_at": "2026-11-24T02:50:00Z", "fingerprint": "f"}
    body = json.dumps(alert).encode()
    [taken] = service.send("POST", "/alert/generic", body, service.signed(body)).json["accepted"]
    until(lambda: service.pve("history", job=taken["job"]).json["job"]["outcome"], "the end of the capture")
    assert memory(nodes.world, "jobs", taken["job"], "manifest.json").exists()


@pytest.mark.all
def test_a_node_that_falls_silent_is_not_taken_for_one_without_the_id(
    nodes: Cluster, service: Service, other_dir: Path
) -> None:
    """The silent node's connection looks as if it were up. The repeated id is not sent to the VM's new node."""
    nodes.move("pve1")
    msg_id = new_id()
    first = service.pve("reset", msg_id=msg_id).json
    assert first["outcome"] == "done"
    nodes.move("pve2")
    hasty = nodes.handler(other_dir, seconds=1.0)
    try:
        with nodes.frozen("pve1"):
            answer = hasty.pve("reset", msg_id=msg_id, again=True).json
            assert (answer["outcome"], answer["verdict"]["code"]) == ("unknown", "answer-lost"), answer
            assert "pve1" in answer["verdict"]["sentence"]
        assert not memory(nodes.world, "jobs", msg_id).exists()
    finally:
        hasty.stop()
    again = service.pve("reset", msg_id=msg_id, again=True).json
    assert (again["attached"], again["started"]) == (True, first["started"])


@pytest.mark.all
def test_a_node_that_falls_silent_holds_up_no_first_attempt(nodes: Cluster, service: Service, other_dir: Path) -> None:
    """A first attempt does not wait for the silent node, because the VM may need the verb now."""
    nodes.move("pve2")
    hasty = nodes.handler(other_dir, seconds=15.0)
    try:
        with nodes.frozen("pve1"):
            assert hasty.pve("reset").json["outcome"] == "done"
    finally:
        hasty.stop()


@pytest.mark.all
def test_a_node_without_etc_pve_does_not_say_that_the_vm_is_off(nodes: Cluster, service: Service) -> None:
    """The VM runs on a node that is away. The handler asks the node that had it last, which can't know that."""
    nodes.move("pve2")
    assert service.pve("status").json["state"] == "running"
    nodes.move("pve1")
    nodes.nodes["pve1"].stop()
    until(lambda: service.health()["hosts"]["pve1"]["state"] != "answering", "the loss of pve1")
    with not_mounted(nodes.nodes["pve2"].world), not_mounted(nodes.nodes["pve3"].world):
        for verb in ("stop", "reset"):
            answer = service.pve(verb).json
            assert (answer["outcome"], answer["state"]) == ("refused", "unknown")
            assert answer["verdict"]["code"] == "place-unknown"
        seen = service.pve("status").json
        assert (seen["state"], seen["verdict"]["code"]) == ("unknown", "place-unknown")
    nodes.nodes["pve1"].start()
    until(lambda: service.health()["hosts"]["pve1"]["state"] == "answering", "pve1 again")
    assert service.pve("status").json["state"] == "running"


def test_a_host_of_another_cluster_gets_no_verb(nodes: Cluster, service: Service) -> None:
    """The number belongs to another VM there, and that host would say that it has the VM."""
    nodes.move("pve3")
    assert service.pve("reset").json["outcome"] == "done"
    last = memory(nodes.world, "last").read_text()
    corosync = nodes.world.root / "etc/pve/corosync.conf"
    text = corosync.read_text()
    try:
        corosync.write_text(text.replace("demo", "another"))
        for verb, msg_id in (("status", ""), ("reset", new_id())):
            answer = service.pve(verb, msg_id=msg_id).json
            assert answer["verdict"]["code"] == "other-node", answer
            assert not memory(nodes.world, "jobs", msg_id or "none").exists()
    finally:
        corosync.write_text(text)
    assert memory(nodes.world, "last").read_text() == last


@pytest.mark.all
def test_a_vm_that_ha_moves_during_a_cycle(nodes: Cluster, service: Service) -> None:
    """The cycle says on which node the VM is. The next verb goes there."""
    nodes.move("pve1")
    hold = at_qm("start", "*")(nodes.world, "moved")
    next(hold)
    with ThreadPoolExecutor(1) as pool:
        cycle = pool.submit(service.pve, "cycle")
        next(hold)
        nodes.move("pve2")
        next(hold)
        answer = cycle.result().json
    next(hold, None)
    assert (answer["outcome"], answer["verdict"]["code"]) == ("failed", "moved"), answer
    assert "pve2" in answer["verdict"]["sentence"]
    assert service.pve("reset").json["outcome"] == "done"


@pytest.mark.all
def test_a_node_that_is_lost_during_a_cycle(nodes: Cluster, service: Service) -> None:
    """HA starts the VM elsewhere. The id is not sent there; once the node is back, it says how the job ended."""
    nodes.move("pve1")
    msg_id, lost = new_id(), nodes.nodes["pve1"]
    hold = at_qm("stop", msg_id)(lost.world, msg_id)
    next(hold)
    with ThreadPoolExecutor(1) as pool:
        cycle = pool.submit(service.pve, "cycle", msg_id=msg_id)
        next(hold)
        lost.stop()
        for pid in agent_processes(lost.world):
            with suppress(ProcessLookupError):  # the job ended with its connection
                signal_process(int(pid), signal.SIGKILL)
        answer = cycle.result().json
    for _ in hold:
        pass
    assert (answer["outcome"], answer["reached"]) == ("unknown", None), answer
    nodes.move("pve2")
    again = service.pve("cycle", msg_id=msg_id, again=True).json
    assert (again["outcome"], again["attached"]) == ("unknown", False), again
    assert service.pve("reset").json["outcome"] == "done"
    running = nodes.world.pid
    lost.start()
    until(lambda: service.health()["hosts"]["pve1"]["state"] == "answering", "pve1 again")
    again = service.pve("cycle", msg_id=msg_id, again=True).json
    assert (again["outcome"], again["attached"], again["verdict"]["code"]) == ("failed", True, "job-killed"), again
    assert nodes.world.pid == running

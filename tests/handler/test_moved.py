"""A VM that moves between three nodes: each verb finds it, and an id acts once, whichever node has it."""

import json
import re
import signal
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from breakglass.client import new_id

from ..support.agent import agent_processes
from ..support.cluster import Cluster
from ..support.service import Service
from ..support.signals import signal_process
from ..support.stages import at_qm, memory

pytestmark = pytest.mark.real("sshd")


@pytest.fixture
def service(nodes: Cluster, nodes_service: Service) -> Service:
    """A handler that is connected to all nodes."""
    nodes.wait_for(nodes_service)
    return nodes_service


def test_each_verb_finds_the_vm(nodes: Cluster, service: Service) -> None:
    """The handler asks the nodes first, and the commands by hand name the node that has the VM."""
    for node, verb in (("pve2", "reset"), ("pve3", "status"), ("pve1", "cycle")):
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


def test_an_id_acts_once_wherever_the_vm_is(nodes: Cluster, service: Service) -> None:
    """A repeated id attaches at the node where it acted, through any handler.

    A handler that has not seen the id believes a node without the VM only if the client says `again`. While the node
    that may have the id is away, the repeated id is `unknown`, and a new one acts.
    """
    nodes.move("pve2")
    msg_id = new_id()
    first = service.pve("reset", msg_id=msg_id).json
    nodes.move("pve3")
    service.stop()
    service.start()
    nodes.wait_for(service)
    new = service.pve("reset", msg_id=msg_id).json
    assert (new["outcome"], new["reached"], new["verdict"]["code"]) == ("unreached", False, "place-disputed"), new
    again = service.pve("reset", msg_id=msg_id, again=True).json
    assert (again["outcome"], again["attached"], again["started"]) == ("done", True, first["started"])
    assert again["chain"]["node"] == "pve2"
    assert service.pve("history", job=msg_id).json["job"]["outcome"] == "done"
    nodes.nodes["pve2"].stop()
    nodes.wait_for(service)
    answer = service.pve("reset", msg_id=msg_id, again=True).json
    assert (answer["outcome"], answer["reached"]) == ("unknown", None)
    assert "pve2" in answer["verdict"]["evidence"][0]
    assert service.pve("reset").json["outcome"] == "done"
    nodes.nodes["pve2"].start()
    nodes.wait_for(service)
    assert service.pve("reset", msg_id=msg_id, again=True).json["attached"]


@pytest.mark.all
def test_a_lost_node_is_named_and_the_vm_found_again(nodes: Cluster, service: Service) -> None:
    """While the VM's node is away, the state is `elsewhere`. Once HA has started the VM again, verbs go there."""
    assert service.pve("status").json["state"] == "running"
    nodes.nodes["pve1"].stop()
    nodes.wait_for(service)
    seen = service.pve("status").json
    assert (seen["outcome"], seen["state"], seen["verdict"]["code"]) == ("done", "elsewhere", "other-node")
    assert re.match(r"pve1 .* 20\S+: .*127\.0\.0\.1", seen["verdict"]["evidence"][-1])
    power = service.pve("cycle").json
    assert f"-p {nodes.nodes['pve1'].port} " in power["by_hand"][0]
    assert (power["outcome"], power["reached"]) == ("unreached", False)
    nodes.nodes["pve1"].start()
    assert service.pve("cycle").json["outcome"] == "done"  # each request tries to connect again
    nodes.nodes["pve1"].stop()
    nodes.wait_for(service)
    nodes.move("pve3")
    assert service.pve("cycle").json["outcome"] == "done"


@pytest.mark.all
def test_an_alert_takes_its_evidence_where_the_vm_is(nodes: Cluster, service: Service) -> None:
    """The handler does not know of the move, and looks first."""
    assert service.pve("status").json["state"] == "running"
    nodes.move("pve3")
    alert = {"status": "firing", "labels": {"host": "devvm"}, "starts_at": "2026-11-24T02:50:00Z", "fingerprint": "f"}
    body = json.dumps(alert).encode()
    [taken] = service.send("POST", "/alert/generic", body, service.signed(body)).json["accepted"]
    assert memory(nodes.world, "jobs", taken["job"]).exists()


@pytest.mark.all
def test_a_node_that_falls_silent_is_not_taken_for_one_without_the_id(nodes: Cluster, service: Service) -> None:
    """The silent node's connection looks as if it were up. The repeated id is not sent to the VM's new node."""
    msg_id = new_id()
    first = service.pve("reset", msg_id=msg_id).json
    assert first["outcome"] == "done"
    nodes.move("pve2")
    with tempfile.TemporaryDirectory(prefix="bg", ignore_cleanup_errors=True) as directory:
        hasty = nodes.handler(Path(directory), seconds=1.0)
        try:
            with nodes.frozen("pve1"):
                answer = hasty.pve("reset", msg_id=msg_id, again=True).json
            assert (answer["outcome"], answer["verdict"]["code"]) == ("unknown", "answer-lost"), answer
            assert not memory(nodes.world, "jobs", msg_id).exists()
        finally:
            hasty.stop()
    again = service.pve("reset", msg_id=msg_id, again=True).json
    assert (again["attached"], again["started"]) == (True, first["started"])


def test_a_host_of_another_cluster_gets_no_verb(nodes: Cluster, service: Service) -> None:
    """The number belongs to another VM there, and that host would say that it has the VM."""
    nodes.move("pve3")
    assert service.pve("reset").json["outcome"] == "done"
    corosync = nodes.world.root / "etc/pve/corosync.conf"
    corosync.write_text(corosync.read_text().replace("demo", "another"))
    for verb, msg_id in (("status", new_id()), ("reset", new_id())):
        answer = service.pve(verb, msg_id=msg_id).json
        assert answer["verdict"]["code"] == "other-node", answer
        assert not memory(nodes.world, "jobs", msg_id).exists()


@pytest.mark.all
def test_a_vm_that_ha_moves_during_a_cycle(nodes: Cluster, service: Service) -> None:
    """The cycle says on which node the VM is. The next verb goes there."""
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
    again = service.pve("reset").json
    assert again["outcome"] == "done", again


@pytest.mark.all
def test_a_node_that_is_lost_during_a_cycle(nodes: Cluster, service: Service) -> None:
    """HA starts the VM elsewhere. The id is not sent there; once the node is back, it says how the job ended."""
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
    nodes.wait_for(service)
    again = service.pve("cycle", msg_id=msg_id, again=True).json
    assert (again["outcome"], again["attached"], again["verdict"]["code"]) == ("failed", True, "job-killed"), again
    assert nodes.world.pid == running

"""A VM with several hosts, one of which reports a false state. No verb acts on the wrong QEMU or says `stopped`."""

from collections.abc import Iterator

import pytest

from breakglass.client import new_id

from ..support.agent import constants_set
from ..support.cluster import Cluster
from ..support.selection import sampled
from ..support.service import Service
from ..support.stages import memory, until

pytestmark = pytest.mark.real("sshd")


@pytest.fixture
def service(nodes: Cluster, nodes_service: Service) -> Service:
    nodes.wait_for(nodes_service)
    nodes_service.pve("status")  # the handler forgets the place that it saw in an earlier test
    return nodes_service


def lose(nodes: Cluster, service: Service, *names: str) -> None:
    """Stop nodes, and wait until the handler knows that they are gone."""
    for name in names:
        nodes.nodes[name].stop()
    nodes.wait_for(service)


@pytest.fixture
def restarted(service: Service) -> Iterator[Service]:
    """A handler that a test stops and starts. After the test, its configuration is restored."""
    text = service.config.read_text()
    yield service
    service.config.write_text(text)
    service.stop()
    service.start()


def test_a_node_without_a_quorum_does_not_say_that_the_vm_is_off(nodes: Cluster, service: Service) -> None:
    """It was fenced and is back without the others. Its old /etc/pve says that it has the VM, which runs elsewhere."""
    nodes.move("pve2")
    pve = nodes.give_own_pve("pve1", "pve1")
    (pve / "nodes/pve1").chmod(0o555)
    lose(nodes, service, "pve2", "pve3")
    for verb in ("stop", "reset", "start", "cycle"):
        answer = service.pve(verb).json
        assert (answer["outcome"], answer["state"]) == ("refused", "unknown"), answer
        assert answer["verdict"]["code"] == "place-unknown"
    seen = service.pve("status").json
    assert (seen["state"], seen["verdict"]["code"]) == ("unknown", "place-unknown")
    assert nodes.world.pid is not None


@pytest.mark.all
def test_a_copy_that_a_migration_left_is_not_the_vm(nodes: Cluster, service: Service) -> None:
    """pve1 has a paused QEMU and no /etc/pve. A node with a quorum says that pve3 has the VM."""
    first = nodes.nodes["pve1"].world
    pve = nodes.give_own_pve("pve1", "pve1")
    nodes.pretend_moved("pve3")
    first.monitor("stop")
    (pve / "local").unlink()
    assert service.pve("status").json["state"] == "running"
    lose(nodes, service, "pve3")
    seen = service.pve("status").json
    assert (seen["state"], seen["verdict"]["code"]) == ("elsewhere", "other-node")
    for verb in ("start", "stop"):
        assert service.pve(verb).json["outcome"] == "unreached"
    lose(nodes, service, "pve2")
    for verb in ("start", "reset"):  # both verbs would let the copy continue
        answer = service.pve(verb).json
        assert (answer["outcome"], answer["verdict"]["code"]) == ("refused", "place-unknown"), answer
    assert first.pid is not None


@pytest.mark.all
def test_a_vm_whose_configuration_was_deleted_is_found_by_its_process(nodes: Cluster, service: Service) -> None:
    """No node has the configuration, and no other node says that the VM is off."""
    nodes.move("pve2")
    nodes.delete_configuration()
    assert service.pve("status").json["state"] == "running"
    lose(nodes, service, "pve2")
    answer = service.pve("stop").json
    assert (answer["outcome"], answer["verdict"]["code"]) == ("refused", "no-config"), answer


@pytest.mark.all
def test_another_cluster_is_known_before_the_first_host_was_ever_reached(nodes: Cluster, restarted: Service) -> None:
    """A handler that starts while the first host is away can't tell, so the other VM of this number is left alone."""
    pve, msg_id = nodes.give_own_pve("pve2", "pve2"), new_id()
    (pve / "corosync.conf").write_text("totem {\n  cluster_name: another\n}\n")
    nodes.nodes["pve1"].stop()
    restarted.stop()
    restarted.start()
    until(lambda: restarted.health()["hosts"]["pve2"]["state"] == "answering", "pve2")
    assert restarted.pve("cycle", msg_id=msg_id).json["outcome"] == "unreached"
    assert not memory(nodes.nodes["pve2"].world, "jobs", msg_id).exists()


@pytest.mark.all
def test_a_repeated_id_waits_for_a_host_that_is_off(nodes: Cluster, restarted: Service) -> None:
    """An error in the configuration has disabled the host that has the id."""
    nodes.move("pve2")
    msg_id = new_id()
    assert restarted.pve("reset", msg_id=msg_id).json["outcome"] == "done"
    nodes.move("pve3")
    text = restarted.config.read_text()
    restarted.config.write_text(text.replace("[hosts.pve2]\n", '[hosts.pve2]\nnodde = "x"\n'))
    restarted.stop()
    restarted.start()
    answer = restarted.pve("reset", msg_id=msg_id, again=True).json
    evidence = ["fix what is wrong with pve2, then send the same id again"]
    assert (answer["outcome"], answer["verdict"]["evidence"]) == ("unknown", evidence)


@pytest.mark.all
def test_a_vm_that_two_nodes_claim_gets_no_power_verb(nodes: Cluster, service: Service) -> None:
    """Both report a quorum and are in one cluster, so the handler can't tell which of them is right."""
    nodes.give_own_pve("pve2", "pve2")
    msg_id = new_id()
    answer = service.pve("reset", msg_id=msg_id).json
    assert (answer["outcome"], answer["reached"], answer["verdict"]["code"]) == ("unreached", False, "place-disputed")
    assert not any(memory(sshd.world, "jobs", msg_id).exists() for sshd in nodes.nodes.values())


LIES = {
    "knows": "replace(_has_record=lambda host, job_id: True)",
    "knows and has it": "replace(_has_record=lambda host, job_id: True)\n"
    "replace(look_at_cluster=lambda host: find('Cluster')(quorate=True, config=True, cluster='demo'))",
    "runs it": "replace(is_here=lambda host: True)",
}


@pytest.fixture
def lie(request: pytest.FixtureRequest, nodes: Cluster, service: Service) -> Iterator[str]:
    """Pve3, over a new connection, lies in this way."""
    with constants_set(nodes.nodes["pve3"].world, LIES[request.param]):
        reconnect(nodes, service)
        yield request.param
    reconnect(nodes, service)


def reconnect(nodes: Cluster, service: Service) -> None:
    """End the connection to pve3, and return once the handler has a new one."""
    sshd = nodes.nodes["pve3"]
    before = sshd.logged().count("Accepted publickey")
    sshd.drop_connections()
    until(lambda: sshd.logged().count("Accepted publickey") > before, "a login")
    nodes.wait_for(service)


@pytest.mark.parametrize("lie", sampled(["knows", "knows and has it"], "knows"), indirect=True)
def test_a_host_that_says_that_it_knows_a_new_id_gets_no_verb(nodes: Cluster, service: Service, lie: str) -> None:
    """The VM runs on pve1, but pve3 says that it knows the new id. It would answer `done` without acting."""
    before = nodes.world.pid
    for verb in ("reset", "stop"):
        msg_id = new_id()
        answer = service.pve(verb, msg_id=msg_id).json
        assert (answer["outcome"], answer["reached"]) == ("unreached", False), answer
        assert answer["verdict"]["code"] == "place-disputed"
        assert not memory(nodes.nodes["pve3"].world, "jobs", msg_id).exists()
    if lie == "knows":
        assert service.pve("status").json["state"] == "running"  # a status has no id
    assert nodes.world.pid == before


@pytest.mark.all
@pytest.mark.parametrize("lie", ["runs it"], indirect=True)
def test_a_host_that_says_that_it_runs_the_vm_can_only_refuse(nodes: Cluster, service: Service, lie: str) -> None:
    """It prevents start and cycle until it is removed from `hosts`, and every stop says that it is not proven."""
    assert service.pve("cycle").json["verdict"]["code"] == "stale-copy"
    assert service.pve("reset").json["outcome"] == "done"
    answer = service.pve("stop").json
    assert (answer["outcome"], answer["verdict"]["code"]) == ("failed", "stale-copy"), answer
    assert nodes.world.pid is None
    text = service.config.read_text()
    without = text.replace('"pve1", "pve2", "pve3"', '"pve1", "pve2"')
    assert without != text
    with service.configured(without):
        assert service.pve("start").json["outcome"] == "done"
    assert nodes.world.pid is not None

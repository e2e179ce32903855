"""A VM with several hosts, one of which reports a false state. No verb acts on the wrong QEMU or says `stopped`."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from breakglass.client import new_id

from ..support.agent import constants_set
from ..support.cluster import Cluster, cluster
from ..support.selection import sampled
from ..support.service import Service
from ..support.signals import signal_process
from ..support.stages import memory, until

pytestmark = pytest.mark.real("sshd")


@pytest.fixture
def nodes(short_dir: Path) -> Iterator[Cluster]:
    """Three nodes for one test, because it leaves their /etc/pve broken."""
    with cluster(short_dir) as made:
        yield made


@pytest.fixture
def service(nodes: Cluster, short_dir: Path) -> Iterator[Service]:
    service = nodes.handler(short_dir)
    try:
        yield service
    finally:
        service.stop()


def lose(nodes: Cluster, service: Service, *names: str) -> None:
    """Stop nodes, and wait until the handler knows that they are gone."""
    for name in names:
        nodes.nodes[name].stop()
    up = [name for name, sshd in nodes.nodes.items() if sshd.process.returncode is None]
    until(lambda: [n for n, h in service.health()["hosts"].items() if h["state"] == "answering"] == up, "the loss")


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
def test_another_cluster_is_known_before_the_first_host_was_ever_reached(nodes: Cluster, service: Service) -> None:
    """A handler that starts while the first host is away can't tell, so the other VM of this number is left alone."""
    pve = nodes.give_own_pve("pve2", "pve2")
    (pve / "corosync.conf").write_text("totem {\n  cluster_name: another\n}\n")
    nodes.nodes["pve1"].stop()
    service.stop()
    service.start()
    until(lambda: service.health()["hosts"]["pve2"]["state"] == "answering", "pve2")
    assert service.pve("cycle").json["outcome"] == "unreached"
    assert not memory(nodes.nodes["pve2"].world, "last").exists()


@pytest.mark.all
def test_a_repeated_id_waits_for_a_host_that_is_off(nodes: Cluster, service: Service) -> None:
    """An error in the configuration has disabled the host that has the id."""
    nodes.move("pve2")
    msg_id = new_id()
    assert service.pve("reset", msg_id=msg_id).json["outcome"] == "done"
    nodes.move("pve3")
    text = service.config.read_text()
    service.config.write_text(text.replace("[hosts.pve2]\n", '[hosts.pve2]\nnodde = "x"\n'))
    service.stop()
    service.start()
    answer = service.pve("reset", msg_id=msg_id, again=True).json
    assert (answer["outcome"], answer["verdict"]["evidence"]) == (
        "unknown",
        ["fix what is wrong with pve2, then send the same id again"],
    )


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
}


@pytest.mark.parametrize("lie", sampled(LIES, "knows"))
def test_a_host_that_says_that_it_knows_a_new_id_gets_no_verb(nodes: Cluster, short_dir: Path, lie: str) -> None:
    """The VM runs on pve1, but pve3 says that it knows the new id. It would answer `done` without acting."""
    liar = nodes.nodes["pve3"].world
    with constants_set(liar, LIES[lie]):
        service = nodes.handler(short_dir)
        try:
            for verb in ("reset", "stop"):
                answer = service.pve(verb).json
                assert (answer["outcome"], answer["reached"]) == ("unreached", False), answer
                assert answer["verdict"]["code"] == "place-disputed"
                assert memory(liar, "jobs").exists() is False
            if lie == "knows":
                assert (
                    "pve3 says that it knows this id, but is not known to have the VM" in answer["verdict"]["sentence"]
                )
                assert service.pve("status").json["state"] == "running"  # a status has no id
        finally:
            service.stop()
    assert nodes.world.pid is not None


@pytest.mark.all
def test_a_host_that_says_that_it_runs_the_vm_can_only_refuse(nodes: Cluster, short_dir: Path) -> None:
    """It prevents start and cycle until it is removed from `hosts`, and every stop says that it is not proven."""
    liar = nodes.nodes["pve3"].world
    with constants_set(liar, "replace(is_here=lambda host: True)"):
        service = nodes.handler(short_dir)
        try:
            assert service.pve("cycle").json["verdict"]["code"] == "stale-copy"
            assert service.pve("reset").json["outcome"] == "done"
            answer = service.pve("stop").json
            assert (answer["outcome"], answer["verdict"]["code"]) == ("failed", "stale-copy"), answer
            assert nodes.world.pid is None
            text = service.config.read_text()
            service.config.write_text(text.replace('"pve1", "pve2", "pve3"', '"pve1", "pve2"'))
            assert service.config.read_text() != text
            signal_process(service.process.pid, signal.SIGHUP)
            until(lambda: service.pve("start").json["outcome"] == "done", "a start without pve3")
        finally:
            service.stop()
    assert nodes.world.pid is not None

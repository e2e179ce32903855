"""`breakglass doctor` in a cluster whose VM is not on its first host: nothing is wrong, and the proof continues."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support.cluster import Cluster, cluster
from ..support.doctor import Report, Setup, found
from ..support.running import Running, new_setup

pytestmark = [pytest.mark.real("sshd"), pytest.mark.slow]
PLACES = ("hosts", "proof")


@pytest.fixture(scope="module")
def nodes(directory: Path) -> Iterator[Cluster]:
    with cluster(directory / "n") as made:
        yield made


@pytest.fixture(scope="module")
def running(nodes: Cluster, directory: Path) -> Iterator[Running]:
    place = directory / "d"
    place.mkdir()
    setup = new_setup(place, nodes.nodes["pve1"])
    for name, sshd in nodes.nodes.items():
        key = setup.file(f"{name}-key", sshd.power_key)
        address = f"breakglass@127.0.0.1:{sshd.port}"
        setup.config["hosts"][name] = {"ssh": address, "host_key": [sshd.host_key], "cluster": "demo", "key_file": key}
    setup.config["vms"]["devvm"]["hosts"] = list(nodes.nodes)
    with Running(setup).run() as running:
        for name in nodes.nodes:
            running.logged(f'"host": "{name}", "state": "answering"')
        yield running


def about_the_vm(setup: Setup) -> Report:
    report = setup.doctor(places=PLACES)
    assert report.stdout, report.stderr
    return report


def test_a_vm_on_another_of_its_hosts_is_well(nodes: Cluster, running: Running) -> None:
    """No error, and no warning of the hosts that do not have it; the host that has it is proven."""
    nodes.move(node := "pve2")
    report = about_the_vm(running.setup)
    of_vm = [each for each in report.findings if each.place == "VM devvm"]
    assert {each.level for each in of_vm} == {"ok"}, of_vm
    named = [re.findall(r"pve\d", each.sentence) for each in of_vm if each.code == "may-run-here"]
    assert named == [[node, other] for other in nodes.nodes if other != node]
    assert f"is on node {node}" not in "".join(each.sentence for each in report.findings if each.level != "ok")
    proven = found(report.findings, "proven")
    assert proven.sentence.startswith(f"{node} is proven at "), proven
    archived = nodes.nodes[node].world.root / "run/breakglass/proven.json"
    assert json.loads(archived.read_text())["how"] == "doctor"


@pytest.mark.all
def test_a_vm_on_a_node_that_is_no_host_of_it_is_an_error(nodes: Cluster, running: Running) -> None:
    """Its verbs are refused until that node's host is listed."""
    nodes.move("pve3")
    hosts = running.setup.config["vms"]["devvm"]["hosts"]
    running.setup.config["vms"]["devvm"]["hosts"] = ["pve1", "pve2"]
    running.setup.path.unlink()
    try:
        finding = found(about_the_vm(running.setup).findings, "vm-elsewhere")
    finally:
        running.setup.config["vms"]["devvm"]["hosts"] = hosts
        running.setup.path.unlink()
    assert (finding.level, "pve3" in finding.fix) == ("error", True)


@pytest.mark.all
def test_a_stale_copy_is_an_error(nodes: Cluster, running: Running) -> None:
    """The copy is an error although its QEMU and the VM both seem healthy."""
    nodes.move("pve1")
    old = nodes.take_configuration("pve2")
    try:
        finding = found(about_the_vm(running.setup).findings, "stale-copy")
    finally:
        nodes.take_configuration("pve1")
    assert old.pid is not None
    assert re.findall(r"pve\d", finding.sentence) == ["pve1", "pve2"]
    assert f"-p {nodes.nodes['pve1'].port} root@127.0.0.1 'kill " in finding.fix

"""One connection to a host carries all its VMs, and `answering` is said only of a VM that a verb would reach."""

import http.client
import json
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from breakglass.demo.proxmox.world import World

from ..support.ports import reserve_port
from ..support.scripted import Scripted, result, stage
from ..support.service import Service, new_secret
from ..support.sshd import Sshd, descendants
from ..support.stages import until
from .conftest import handler
from .test_reload import add, connections, hang_up, logins, proxmox, rewrite, tables, wait_until

pytestmark = [pytest.mark.real("sshd", "qemu"), pytest.mark.shared("world", "sshd")]
TWINS = '[vms.twin]\nhosts = ["pve1"]\nvmid = 103\n[vms.stranger]\nhosts = ["pve1"]\nvmid = 200\n'


@pytest.fixture(scope="module")
def shared_sshd(shared_world: World) -> Iterator[Sshd]:
    """A server of this file's own, whose connections are counted."""
    sshd = Sshd(shared_world, name="hosts")
    yield sshd
    sshd.stop()


@pytest.fixture
def sshd(sshd: Sshd, world: World) -> Iterator[Sshd]:
    """A server without logins, whose key lines serve three VMs. Its host agent is restored."""
    agent, keys = world.agent.read_text(), sshd.keys.read_text()
    sshd.drop_connections()
    until(lambda: not descendants(sshd.process.pid), "the end of the connections of the test before")
    os.truncate(sshd.directory / "log", 0)
    sshd.keys.write_text(keys.replace("--vms 102 ", "--vms 102-104 "))
    yield sshd
    sshd.keys.write_text(keys)
    world.agent.write_text(agent)
    (world.agent.parent / "go").unlink(missing_ok=True)


@pytest.fixture
def service(short_dir: Path, sshd: Sshd) -> Iterator[Service]:
    """A handler with three VMs on one host, whose key serves two of them."""
    secret = new_secret()
    more = f'{TWINS}[callers.of-twin]\nsecret = "{secret}"\nvms = ["twin"]\nallow = ["status"]\n'
    with handler(short_dir, sshd, extra=more) as service:
        service.secrets["of-twin"] = secret
        yield service


def test_one_connection_carries_all_vms_of_a_host(service: Service, sshd: Sshd) -> None:
    """Three VMs share one login, and each verb acts on its own VM."""
    assert proxmox(service) == {"devvm": "answering", "twin": "answering", "stranger": "not-allowed"}
    assert service.pve("status", vm="devvm").json["state"] == "running"
    assert service.pve("status", vm="twin").json["state"] == "stopped"
    assert service.pve("reset", vm="devvm").json["outcome"] == "done"
    refused = service.pve("reset", vm="stranger").json  # by the host, because the handler does not check this
    assert (refused["outcome"], refused["verdict"]["code"]) == ("refused", "wrong-vm")
    wait_until(lambda: (logins(sshd), connections(sshd)) == (1, 1))


@pytest.mark.all
def test_one_request_tells_the_states_of_a_host(service: Service, sshd: Sshd) -> None:
    """Of each VM that is there and that the caller may look at, by its name."""
    node = sshd.world.root / "etc/pve/qemu-server"
    for vmid in (103, 104):  # no VM of the handler's has the second
        (node / f"{vmid}.conf").write_text("memory: 32\n")
    try:
        answer = service.pve("states", vm="stranger").json
        assert (answer["outcome"], answer["verdict"]["code"]) == ("refused", "wrong-vm")
        answer = service.pve("states", vm="devvm").json
        assert {state["vm"]: state["state"] for state in answer["states"]} == {"devvm": "running", "twin": "stopped"}
        assert (answer["outcome"], answer["stdout"]) == ("done", "")
        only_twin = service.pve("states", vm="twin", caller="of-twin").json["states"]
        assert [(state["vm"], state["verdict"]["code"]) for state in only_twin] == [("twin", "qemu-stopped")]
        assert service.pve("states", vm="devvm", caller="of-twin").status == 403
    finally:
        for vmid in (103, 104):
            (node / f"{vmid}.conf").unlink()


def name_node(service: Service, node: str) -> None:
    """Say in the configuration which node pve1 is, and reload."""
    rewrite(service, lambda text: re.sub(r"\[hosts\.pve1\]\n(node = .*\n)?", f'[hosts.pve1]\nnode = "{node}"\n', text))
    hang_up(service)


def test_a_host_that_is_another_node_gets_no_verb(service: Service, sshd: Sshd) -> None:
    """VM 102 may be another machine there, so nothing is sent, not even a read, and /health says why."""
    name_node(service, "pve9")
    wait_until(lambda: set(proxmox(service).values()) == {"wrong-node"})
    assert service.health()["hosts"]["pve1"]["state"] == "wrong-node"
    script = Scripted(sshd.world)
    for verb in ("status", "forensics", "reset"):
        answer = service.pve(verb, vm="devvm").json
        assert (answer["outcome"], answer["reached"], answer["verdict"]["code"]) == ("unreached", False, "wrong-node")
    script.say([("ping", [result(vms="102-104", node="pve9")]), ("", [result(jobs=[])])])
    hang_up(service)  # even with the same configuration, because another machine may have the address by now
    wait_until(lambda: proxmox(service)["devvm"] in ("answering", "agent-outdated"))
    assert service.pve("status", vm="devvm").json["outcome"] == "done"


@pytest.mark.all
def test_a_host_agent_that_was_silent_is_asked_for_its_node_before_a_verb(service: Service, sshd: Sshd) -> None:
    """Nothing came at the login, so no node could be compared. The handler asks again before the first verb."""
    script = Scripted(sshd.world)
    script.say([("ping", [result(13, "failed")]), ("", [result(jobs=[])])])
    name_node(service, "pve9")
    wait_until(lambda: proxmox(service)["devvm"] == "agent-silent")
    silent = service.pve("reset", vm="devvm").json
    assert (silent["verdict"]["code"], silent["reached"]) == ("wrong-node", False)
    script.say([("ping", [result(vms="102-104", node="pve1")]), ("", [result(jobs=[])])])
    assert service.pve("reset", vm="devvm").json["verdict"]["code"] == "wrong-node"
    assert script.asked("reset") == []


def test_a_verb_is_not_sent_again_to_a_host_that_its_vm_has_left(service: Service, sshd: Sshd) -> None:
    """If a reload moves the VM after the answer was lost, the old host is not asked again, even if it serves others."""
    script = Scripted(sshd.world)
    script.say([("ping", [result(vms="102-104")]), ("", [stage("preflight"), {"wait": "never"}])])
    sshd.drop_connections()
    wait_until(lambda: logins(sshd) == 2 and proxmox(service)["devvm"] == "answering")  # over the new connection
    pool = ThreadPoolExecutor(1)
    posting = pool.submit(service.pve, "reset", vm="devvm")
    wait_until(lambda: script.asked("reset"))
    own = tables(service)
    add(service, own[: own.index("[vms.devvm]")].replace("pve1", "pve2"))
    rewrite(service, lambda text: text.replace('[vms.devvm]\nhosts = ["pve1"]', '[vms.devvm]\nhosts = ["pve2"]'))
    hang_up(service)
    sshd.drop_connections()
    answer = posting.result().json
    pool.shutdown()
    assert (answer["outcome"], answer["reached"]) == ("unknown", None)
    assert len(script.asked("reset")) == 1


@pytest.mark.all
def test_a_vm_that_moved_while_its_verb_waited_for_the_node_is_not_reset_there(service: Service, sshd: Sshd) -> None:
    """A reload moves the VM to another host. The old host then names its node, but the verb is not sent to it."""
    here = os.uname().nodename.partition(".")[0]
    name_node(service, here)
    wait_until(lambda: (logins(sshd), connections(sshd)) == (2, 1))  # only the new connection is left
    script = Scripted(sshd.world)
    script.say([("ping", [{"wait": "go"}, result(vms="102-104", node=here)]), ("", [result(jobs=[])])])
    sshd.drop_connections()
    service.not_answering()  # otherwise, the verb may be sent on the old connection, and its answer lost
    body = json.dumps({"verb": "reset", "vm": "devvm"}).encode()
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
    connection.request("POST", "/pve", body, {**service.signed(body), "accept": "application/x-ndjson"})
    stream = connection.getresponse()  # the headers come once the verb waits
    wait_until(lambda: script.asked("ping") != [])
    keys = f"key = '''{sshd.power_key}'''\nhost_key = 'any'\n"
    far = f"[hosts.pve2]\nssh = 'breakglass@127.0.0.1:{reserve_port()}'\n{keys}"
    rewrite(service, lambda text: text.replace('hosts = ["pve1"]\nvmid = 102', 'hosts = ["pve2"]\nvmid = 102') + far)
    hang_up(service)
    script.let_go("go")
    answer = json.loads(stream.read().splitlines()[-1])
    connection.close()
    assert (answer["outcome"], answer["reached"]) == ("unreached", False), json.dumps(answer)
    assert script.asked("reset") == []

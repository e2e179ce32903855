"""A number that Proxmox gave to another VM. With `name`, no verb acts on that VM; without it, each answer names it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from breakglass.agents.pve.words import VERBS
from breakglass.demo.proxmox.world import CONF, VMID, World

from ..support.agent import OLDER, execute, set_constants
from ..support.pve_host import conf, not_mounted
from ..support.service import Service
from ..support.sshd import Sshd
from ..support.stages import until
from .conftest import handler

pytestmark = [pytest.mark.real("sshd", "qemu"), pytest.mark.shared("world", "sshd")]

NAME = 'name = "devvm"'
SENTENCE = 'VM 102 is "{}" on Proxmox and not "devvm": another VM has this number now'
JOBS = tuple(verb for verb, row in VERBS.items() if row.is_job)


@pytest.fixture(scope="module")
def named(directory: Path, shared_sshd: Sshd) -> Iterator[Service]:
    with handler(directory, shared_sshd, vm_lines=NAME) as service:
        yield service


@pytest.fixture
def service(world: World, named: Service) -> Iterator[Service]:
    """A handler that knows the VM's name. The host agent is restored after the test."""
    agent = world.agent.read_text()
    yield named
    world.agent.write_text(agent)


def create_anew(world: World, name: str) -> int | None:
    """Delete VM 102 and create another one, to which Proxmox gives the free number. Return the pid of its QEMU."""
    assert world.qm("stop", str(VMID)).returncode == 0
    conf(world).unlink()
    conf(world).write_text(CONF.replace("name: devvm\n", f"name: {name}\n" if name else ""))
    assert world.qm("start", str(VMID)).returncode == 0
    return world.pid


def reconnect(service: Service, sshd: Sshd) -> None:
    """Make the handler open a new session, and return once it has heard the host agent."""
    before = service.log().count('"event": "host-up"')
    sshd.drop_connections()
    service.logged('"event": "host-up"', times=before + 1)


def test_no_verb_acts_on_another_vm(service: Service, world: World) -> None:
    """It is refused before anything acts, and a look says at the top that it is another VM, without its picture."""
    before = service.pve("status").json
    assert (before["proxmox_name"], before["verdict"]["code"]) == ("devvm", "qemu-running")
    last = service.pve("history").json["last"]
    pid = create_anew(world, "customer-db")
    for verb in JOBS:
        answer = service.pve(verb).json
        told = (answer["outcome"], answer["verdict"]["code"], answer["proxmox_name"], answer["chain"])
        assert told == ("refused", "wrong-vm", "customer-db", None), answer
    for verb in ("status", "screen"):
        answer = service.pve(verb).json
        assert (answer["outcome"], answer["state"], answer["heartbeat"]) == ("done", "unknown", None)
        assert (answer["verdict"]["sentence"], answer["verdict"]["advice"]) == (SENTENCE.format("customer-db"), "")
        assert answer.get("screen_png") is None
    [state] = service.pve("states").json["states"]
    assert (state["proxmox_name"], state["state"], state["verdict"]["code"]) == ("customer-db", "unknown", "wrong-vm")
    history = service.pve("history").json
    assert (world.pid, history["last"], history["warnings"]) == (pid, last, [SENTENCE.format("customer-db")])
    create_anew(world, "")
    assert service.pve("cycle").json["verdict"]["sentence"] == SENTENCE.format("")
    conf(world).write_text(CONF.replace("devvm", "</b>\x1b[2J" + 300 * "x"))
    answer = service.pve("reset").json
    assert (answer["outcome"], answer["proxmox_name"]) == ("refused", None)
    assert answer["verdict"]["sentence"].isascii()
    assert answer["verdict"]["sentence"].isprintable()
    create_anew(world, "devvm")
    entry = '[vms.{}]\nhosts = ["pve1"]\nvmid = 102\nname = "{}"\n'
    others = entry.format("aaa", "aaa") + entry.format("zzz", "zzz")
    with service.configured(f"{service.config.read_text()}\n{others}"):
        verdicts = {vm: service.pve("reset", vm=vm).json["verdict"] for vm in ("aaa", "zzz", "devvm")}
        codes = {vm: verdict and verdict["code"] for vm, verdict in verdicts.items()}
        assert codes == {"aaa": "wrong-vm", "zzz": "wrong-vm", "devvm": None}
    with service.configured(service.config.read_text().replace(NAME, "")):
        create_anew(world, "customer-db")
        for verb in ("status", "reset", "history"):
            answer = service.pve(verb).json
            assert (answer["outcome"], answer["proxmox_name"]) == ("done", "customer-db")
            assert not [each for each in answer["warnings"] if "customer-db" in each]


def test_a_name_that_is_not_known_prevents_no_rescue(service: Service, world: World, sshd: Sshd) -> None:
    """If /etc/pve does not answer, or the host agent is too old to compare, the verb acts and the answer warns."""
    not_compared = 'the host did not tell the name of VM 102 on Proxmox, so it was not compared with "devvm"'
    with not_mounted(world):
        answer = service.pve("reset").json
        assert (answer["outcome"], answer["proxmox_name"], not_compared in answer["warnings"]) == ("done", None, True)
    older = (
        OLDER + "replace(Job=type('Job', (find('Job'),), {'proxmox_name': property(lambda _: None, lambda *_: 0)}))\n"
    )
    set_constants(world, older)
    create_anew(world, "customer-db")
    reconnect(service, sshd)
    assert execute(world, "reset name=devvm").trailer["verdict"]["code"] == "agent-refused"
    answer = service.pve("reset").json
    assert (answer["outcome"], not_compared in answer["warnings"]) == ("done", True), answer


def test_a_vm_that_no_host_has_is_elsewhere(service: Service, world: World, sshd: Sshd) -> None:
    """A monitor must learn that no verb would reach the VM, although its host answers."""
    set_constants(world, 'replace(node_name=lambda: "demo")')
    for node, state in (("pve3", "elsewhere"), ("demo", "answering")):
        ids = {vmid: {"node": its, "type": "qemu"} for vmid, its in ((str(VMID), node), ("900", "pve9"))}
        (world.root / "etc/pve/.vmlist").write_text(json.dumps({"ids": ids}))
        reconnect(service, sshd)
        until(lambda state=state: service.health()["vms"][0]["proxmox"] == state, f"the state {state}")  # type: ignore[misc]
        assert service.send("GET", "/ready").status == (200 if state == "answering" else 503)

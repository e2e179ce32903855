"""Each verb works between this version and the previous one, in both directions. The older one is taken from git."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from breakglass.agents.bundle import bundle_digest
from breakglass.agents.pve import words
from breakglass.agents.pve.words import VERSION
from breakglass.base.verbs import VERBS
from breakglass.client import new_id
from breakglass.demo.proxmox.world import World

from ..support.alerting import entry
from ..support.previous import Previous, take_previous
from ..support.service import Service, let_in
from ..support.sshd import Sshd
from .test_reload import proxmox, wait_until

# In this order, each verb finds the VM in the state that it needs. The second word is the state after the verb.
STATES = dict.fromkeys(("status", "forensics", "screen", "reset"), "running")
STATES |= {"history": "unknown", "stop": "stopped", "start": "running", "cycle": "running"}


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Previous:
    previous = take_previous(tmp_path_factory.mktemp("previous"))
    previous.directory.chmod(0o755)  # the handler's user imports from there
    let_in(previous.directory)
    return previous


@pytest.fixture(params=["host agent", "handler"])
def older(request: pytest.FixtureRequest) -> str:
    """The older one of the two programs."""
    return str(request.param)


@pytest.fixture
def service(older: str, previous: Previous, world: World, sshd: Sshd, short_dir: Path) -> Iterator[Service]:
    """A handler and a host of which one is the previous version."""
    program, vm_lines = ["-m", "breakglass"], ""
    if older == "handler":
        program = [str(previous.directory / "handler")]
    else:
        world.agent.write_text(previous.bundle)
        vm_lines = "last_words = false"  # a word that the first host agents did not know asks for it
    reached = {"agent-outdated"} if warnings_about(older, previous) else {"answering", "agent-outdated"}
    more: dict[str, Any] = {"program": program, "vm_lines": vm_lines, "extra": entry("generic", host="devvm")}
    with Service(short_dir, **sshd.access, **more) as service:
        wait_until(lambda: proxmox(service)["devvm"] in reached)
        yield service


def warnings_about(older: str, previous: Previous) -> list[str]:
    """Return the warning of every answer. An older handler has its own sentences."""
    if older == "handler" or previous.digest == bundle_digest():
        return []
    differs = f"{previous.version}, Breakglass here {VERSION}: upgrade the older one"
    what = "another build" if previous.version == VERSION else differs
    return [f"the host agent on pve1 is {what}; breakglass host upgrade pve1 installs {VERSION} there"]


def ask(service: Service, verb: str, msg_id: str, **fields: str) -> dict[str, Any]:
    """Send one verb and return its answer."""
    lines = service.pve(verb, msg_id=msg_id, stream=True, **{"reason": "nightly ☎", **fields}).lines
    assert lines[0]["type"] == "accepted", lines
    return lines[-1]


@pytest.mark.all
@pytest.mark.real("sshd", "qemu")
def test_every_verb_works_beside_the_previous_version(
    service: Service, world: World, previous: Previous, older: str
) -> None:
    """Each verb is done, reports its state and deadline, and attaches when its id comes again."""
    assert set(STATES) == set(VERBS) - {"states"}  # the version before has no such verb
    assert set(previous.verbs) <= set(words.VERBS), "a verb was taken away"
    state, done = "running", {}
    for verb, becomes in STATES.items():
        if verb not in previous.verbs:
            continue
        mutating = VERBS[verb].mutating
        msg_id, fields = new_id(), {"if_state": state} if mutating else {}
        answer = ask(service, verb, msg_id, **fields)
        seen = {name: answer[name] for name in ("outcome", "reached", "exit_code", "state", "attached")}
        expected = {"outcome": "done", "reached": True, "exit_code": 0, "state": becomes, "attached": False}
        assert seen == expected, (verb, answer)
        assert older == "handler" or answer["warnings"] == warnings_about(older, previous)
        assert (answer["deadline"] is not None) == VERBS[verb].is_job, (verb, answer)
        if VERBS[verb].is_job:
            done[msg_id] = verb
            assert ask(service, verb, msg_id, **fields)["attached"], verb
        if mutating:
            assert answer["last"] == msg_id
            state = becomes
    listed = ask(service, "history", new_id())["jobs"]
    assert {job["id"]: job["verb"] for job in listed} == done
    newest = listed[0]["id"]
    assert ask(service, "history", new_id(), job=newest)["job"]["why"] == "nightly ☎"
    assert ask(service, "reset", new_id(), if_last="none")["verdict"]["code"] == "last-differs"
    assert ask(service, "reset", new_id(), if_last=newest, anyway="storage-hung")["outcome"] == "done"
    alert = json.dumps({"status": "firing", "labels": {"host": "devvm"}, "fingerprint": "one"}).encode()
    reply = service.send("POST", "/alert/generic", alert, service.signed(alert))
    assert (reply.status, len(reply.json["accepted"])) == (202, 1), reply.body

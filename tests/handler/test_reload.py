"""SIGHUP to a real handler: a good file's changes, a bad file's rejection, and work that is never interrupted."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from breakglass.demo.proxmox.world import World

from ..support.failing_tools import misbehave
from ..support.ports import reserve_port
from ..support.service import READ, SSH_KEY, Service, as_handler, give_to_handler, new_secret, wait_answering
from ..support.sshd import Sshd
from .conftest import handler
from .test_pve import open_gate, wait_stage

pytestmark = [pytest.mark.real("sshd", "qemu"), pytest.mark.shared("world", "sshd", "service")]


@pytest.fixture(scope="module")
def shared_sshd(shared_world: World) -> Iterator[Sshd]:
    """A server of this file's own, whose connections are counted."""
    with Sshd(shared_world, name="reload") as sshd:
        yield sshd


@pytest.fixture(scope="module")
def running(directory: Path, shared_sshd: Sshd) -> Iterator[tuple[Service, str, dict[str, str]]]:
    """A handler that all tests share, with its first configuration. It must write nothing on stderr."""
    errors = directory / "errors"
    with handler(directory, shared_sshd, errors=errors) as service:
        yield service, service.config.read_text(), dict(service.secrets)
    assert (service.process.returncode, errors.read_text()) == (0, "")


@pytest.fixture
def service(running: tuple[Service, str, dict[str, str]], sshd: Sshd) -> Service:
    """The handler without an earlier test's changes. Every test waits until its own reloads have been noted."""
    service, config, secrets = running
    service.secrets = dict(secrets)
    service.config.write_text(config)
    hang_up(service)
    service.answering()
    wait_until(lambda: connections(sshd) == 1)
    return service


def wait_until(so: Callable[[], Any], seconds: float = 60, pause: float = 0.02) -> Any:
    """Return the value of `so` once it is true."""
    until = time.monotonic() + seconds
    while not (reported := so()):
        assert time.monotonic() < until, "it did not become so"
        time.sleep(pause)
    return reported


def notes(service: Service, event: str) -> list[dict[str, Any]]:
    """Return the log's lines of an event, so far."""
    return [line for line in map(json.loads, service.log().splitlines()) if line.get("event") == event]


def hang_up(service: Service, event: str = "reload") -> dict[str, Any]:
    """Send SIGHUP and return the log's line about the reload."""
    before = len(notes(service, event))
    service.process.send_signal(signal.SIGHUP)
    wait_until(lambda: len(notes(service, event)) > before)
    return notes(service, event)[-1]


def caller(name: str, secret: str | list[str]) -> str:
    return f"[callers.{name}]\nsecret = {json.dumps(secret)}\nallow = {json.dumps(READ)}\n"


def rewrite(service: Service, change: Callable[[str], str]) -> None:
    text = service.config.read_text()
    changed = change(text)
    assert changed != text
    service.config.write_text(changed)


def add(service: Service, text: str) -> None:
    rewrite(service, lambda old: f"{old}\n{text}")


def another_vm(service: Service, name: str, *, broken: bool = False) -> None:
    """Add a copy of devvm under another name, with its own host."""
    table = tables(service).replace("[vms.devvm]", f"[vms.{name}]").replace("pve1", f"{name}-host")
    add(service, table.replace("vmid = 102", 'vmid = "102"') if broken else table)


def tables(service: Service) -> str:
    """Return the tables of devvm and its host."""
    found = re.search(r"\[hosts\.pve1\].*?\[vms\.devvm\].*?(?=\n\[)", service.config.read_text(), re.DOTALL)
    assert found
    return found[0]


def proxmox(service: Service) -> dict[str, str]:
    return {vm["name"]: vm["proxmox"] for vm in service.health()["vms"]}


def logins(sshd: Sshd) -> int:
    return sshd.logged().count("Accepted publickey")


def connections(sshd: Sshd) -> int:
    """Return how many connections the server has now (proc_net_tcp: local address, state 01 is established)."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    # the kernel may list a connection twice while others open and close
    return len({words[2] for words in lines if words[1].endswith(f":{sshd.port:04X}") and words[3] == "01"})


def drop_connections(sshd: Sshd) -> None:
    """End every connection, and return once the handler has noticed. A status that is sent before takes 20 s.

    The handler's end is in CLOSE_WAIT, 08, until then.
    """
    sshd.drop_connections()
    port = f":{sshd.port:04X}"

    def is_noticed() -> bool:
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return not any(words[2].endswith(port) and words[3] in ("01", "08") for words in lines)

    wait_until(is_noticed)


# --- callers ---


def test_callers_and_their_secrets_change(service: Service) -> None:
    """A new caller can sign after one SIGHUP. While an entry has two secrets, both sign. The others continue."""
    old, new = new_secret(), new_secret()
    before = service.config.read_text()

    def statuses() -> list[int]:
        found = []
        for service.secrets["phone"] in (old, new):
            found.append(service.pve("status", caller="phone").status)
        return found

    add(service, caller("phone", old))
    assert statuses() == [401, 401]
    assert "phone" in hang_up(service)["callers"]
    assert statuses() == [200, 401]
    for secrets, expected in (([old, new], [200, 200]), ([new], [401, 200]), ([], [401, 401])):
        service.config.write_text(before + caller("phone", secrets) if secrets else before)
        hang_up(service)
        assert statuses() == expected
    assert service.pve("status").status == 200


# --- files with errors, in all or in some entries ---


BAD = {
    "not TOML": lambda text: text + "[",
    "no caller": lambda text: text.replace("allow", "permit"),
    "many problems": lambda text: text.replace("vmid = 102", "vmid = 0") + caller("phone", "hunter2"),
    "half a key": lambda text: text.replace("OPENSSH PRIVATE KEY", "OPENSSH PUBLIC KEY"),
}


def test_a_bad_file_changes_nothing_until_it_is_mended(service: Service, sshd: Sshd) -> None:
    """Until a good file comes, the old configuration stays in force. /health says since when.

    The log has every problem at once, and no secret. The connection to the host is kept.
    """
    good, first, reported, noted = service.config.read_text(), logins(sshd), "", set()
    for spoil in BAD.values():
        service.config.write_text(good)
        rewrite(service, spoil)
        note = hang_up(service, "reload-rejected")
        assert all(problem["place"] and problem["sentence"] and problem["fix"] for problem in note["problems"])
        noted |= {problem["place"] for problem in note["problems"]}
        if not reported:
            reported = service.health()["config"]
            assert re.fullmatch(r"rejected since 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", reported)
            since = reported.removeprefix("rejected since ")  # after a second, a new time would differ
            wait_until(lambda since=since: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()) > since)  # type: ignore[misc]
        assert service.health()["config"] == reported
        assert service.pve("status").status == 200
    assert {"vms.devvm.vmid", "callers.phone.secret", "hosts.pve1.key"} <= noted
    assert "hunter2" not in service.log()
    service.config.write_text(good)
    hang_up(service)
    assert service.health()["config"] == "ok"
    assert service.pve("status").status == 200
    assert logins(sshd) == first


def test_a_vm_with_a_fault_is_off_and_the_other_works(service: Service) -> None:
    """A broken entry is reported and its VM is refused. A request that names no VM does not go to the other one."""
    another_vm(service, "other", broken=True)
    (problem,) = hang_up(service)["problems"]
    assert problem["place"] == "vms.other.vmid"
    health = service.health()
    assert health["config"] == "degraded: 1 problem"
    assert health["vms"][1] == {"name": "other", "vmid": None, "proxmox": "disabled", "since": None, "host": None}
    assert service.pve("status", vm="devvm").json["outcome"] == "done"
    off = service.pve("status", vm="other")
    assert (off.status, off.json["reached"]) == (400, False)
    assert off.json["verdict"]["sentence"].startswith("other is disabled")
    assert service.pve("status").json["outcome"] == "rejected"


# --- connections ---


def test_connections_are_opened_kept_and_closed(service: Service, sshd: Sshd) -> None:
    """A new VM's host gets a connection, an unchanged one keeps its connection, and a removed one loses it."""
    before, first = service.config.read_text(), logins(sshd)
    another_vm(service, "other")
    hang_up(service)
    wait_until(lambda: proxmox(service) == {"devvm": "answering", "other": "answering"})
    assert service.pve("status", vm="other").json["outcome"] == "done"
    assert logins(sshd) == first + 1
    wait_until(lambda: connections(sshd) == 2)
    service.config.write_text(before)
    hang_up(service)
    assert proxmox(service) == {"devvm": "answering"}
    assert service.pve("status", vm="other").json["outcome"] == "rejected"
    wait_until(lambda: connections(sshd) == 1)
    assert service.pve("status").json["outcome"] == "done"
    assert logins(sshd) == first + 1


@pytest.mark.all
def test_a_host_whose_new_settings_fail_keeps_its_connection(service: Service, sshd: Sshd) -> None:
    """A wrong pin is reported at once. Verbs use the previous connection, but only while that is open."""
    good, first = service.config.read_text(), logins(sshd)
    wrong = [asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip() for _ in range(2)]
    for pin in wrong:  # the second reload replaces the failed connection, and not the working one
        service.config.write_text(good.replace(json.dumps([sshd.host_key]), json.dumps([pin])))
        hang_up(service)
        wait_until(lambda: proxmox(service) == {"devvm": "host-key-differs"})
        assert service.pve("reset").json["outcome"] == "done"
    assert logins(sshd) == first
    service.config.write_text(good)
    hang_up(service)
    service.answering()
    assert service.pve("status").json["outcome"] == "done"
    assert logins(sshd) == first + 1
    wait_until(lambda: connections(sshd) == 1)
    rewrite(service, lambda text: text.replace(json.dumps([sshd.host_key]), json.dumps(wrong)))
    hang_up(service)
    wait_until(lambda: proxmox(service) == {"devvm": "host-key-differs"})
    drop_connections(sshd)
    wait_until(lambda: service.pve("status").json["outcome"] == "unreached")  # the old pins open no new connection
    assert logins(sshd) == first + 1


def test_a_host_with_another_address_gets_no_verb_over_the_old_connection(service: Service, sshd: Sshd) -> None:
    """Another machine may be at the old address, and its VM 102 is not the one that is meant now."""
    rewrite(service, lambda text: text.replace(f"127.0.0.1:{sshd.port}", f"127.0.0.1:{reserve_port()}"))
    hang_up(service)
    wait_until(lambda: proxmox(service) == {"devvm": "connection-refused"})
    assert service.pve("reset").json["outcome"] == "unreached"
    wait_until(lambda: connections(sshd) == 0)


@pytest.mark.all
def test_a_key_file_is_read_again(service: Service, sshd: Sshd) -> None:
    """A new SSH key on disk is used after a SIGHUP, which also ends the pause after a refused key.

    A key that may not change power does not replace the power key, although its login works.
    """
    file = service.directory / "power.key"
    file.touch()
    give_to_handler(file)
    file.write_text(sshd.read_only_key)
    rewrite(service, lambda text: text.replace(f"key = '''{sshd.power_key}'''", f"key_file = {json.dumps(str(file))}"))
    hang_up(service)
    wait_until(lambda: proxmox(service) == {"devvm": "read-only-key"})
    assert service.pve("reset").json["outcome"] == "done"
    file.write_text(SSH_KEY)
    hang_up(service)
    wait_until(lambda: proxmox(service) == {"devvm": "key-not-accepted"})
    drop_connections(sshd)  # including the previous one, which verbs have used until now
    wait_until(lambda: service.pve("status").json["outcome"] == "unreached")
    file.write_text(sshd.power_key)
    hang_up(service)
    service.answering()
    assert service.pve("status").json["outcome"] == "done"


# --- what is never interrupted ---


def test_a_cycle_survives_the_removal_of_its_vm(service: Service, world: World, sshd: Sshd) -> None:
    """A running verb continues on its own connection and is answered. Then the connection is closed."""
    os.mkfifo(world.root / "gate")
    misbehave(world.root, gate="start")
    good = service.config.read_text()
    with ThreadPoolExecutor(1) as pool:
        posting = pool.submit(service.pve, "cycle", vm="devvm")
        wait_stage(service, "start")
        rewrite(service, lambda text: text.replace("[vms.devvm]", "[vms.other]").replace("pve1", "pve2"))
        hang_up(service)
        wait_until(lambda: proxmox(service) == {"other": "answering"})
        assert service.pve("status", vm="devvm").json["outcome"] == "rejected"
        wait_until(lambda: connections(sshd) == 2)
        open_gate(world)
        answer = posting.result().json
    assert (answer["outcome"], answer["reached"], answer["vm"]) == ("done", True, "devvm")
    assert (answer["state"], answer["attached"]) == ("running", False)
    assert world.pid is not None
    wait_until(lambda: connections(sshd) == 1)
    service.config.write_text(good)
    hang_up(service)
    service.answering()


def _writer_of(pipe: Path) -> int:
    """Return a descriptor to write to the pipe's reader, or 0 if it has none."""
    try:
        return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return 0


@pytest.mark.all
def test_a_hangup_during_the_start_and_the_end_kills_nothing(service: Service) -> None:
    """SIGHUP never ends the handler, from the first line of `serve` to the last. One that came early is not lost.

    A secret file that hangs (here, a pipe without a writer) stops neither requests nor the end of a handler.
    """
    pipe = service.directory / "pipe"
    os.mkfifo(pipe)
    add(service, f'[callers.phone]\nsecret_file = "{pipe}"\nallow = ["status"]\n')
    port = reserve_port()
    environment = os.environ | {"BREAKGLASS_CONFIG": str(service.config), "PORT": str(port)}
    process = subprocess.Popen(
        [sys.executable, "-m", "breakglass", "serve"], env=environment, stdout=subprocess.DEVNULL, **as_handler()
    )

    def reading() -> int:
        """Return a descriptor of the pipe, once the configuration is being read."""
        return int(wait_until(lambda: _writer_of(pipe)))

    file = reading()
    process.send_signal(signal.SIGHUP)
    pipe.unlink()  # the first reading continues with the old pipe, so it can't take the second one's bytes
    os.mkfifo(pipe)
    os.write(file, new_secret().encode())
    os.close(file)
    file = reading()  # because of the SIGHUP; its end never comes
    wait_answering(port, process)
    process.send_signal(signal.SIGINT)  # after SIGINT, Python waits for its threads before it exits

    def has_ended() -> bool:
        process.send_signal(signal.SIGHUP)
        return process.poll() is not None

    wait_until(has_ended, pause=0.001)
    os.close(file)
    assert process.returncode == 0

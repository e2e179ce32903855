"""`breakglass vm` beside a running handler and a real host: a VM comes, is reached, and goes."""

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from breakglass.client import new_id
from breakglass.demo.proxmox.world import World

from ..handler.test_pve import open_gate
from ..support.failing_tools import misbehave
from ..support.forked import run_command
from ..support.service import Service
from ..support.stages import stage, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.real("sshd", "qemu", "root"),
    pytest.mark.shared("world", "sshd", "service"),
]


def vm(service: Service, *words: str, **more: str) -> "subprocess.CompletedProcess[str]":
    url = {"BREAKGLASS_URL": f"http://127.0.0.1:{service.port}", "BREAKGLASS_SECRET": service.secrets["operator"]}
    return run_command("vm", *words, **{"BREAKGLASS_CONFIG": str(service.config), **url, **more})


def files(service: Service) -> dict[str, str]:
    return {file.name: file.read_text() for file in (service.config.parent / "vms.d").glob("*")}


def states(service: Service) -> dict[str, str]:
    return {row["name"]: row["state"] for row in json.loads(vm(service, "list", "--json").stdout)["vms"]}


def test_a_vm_from_its_first_day_to_its_last(service: Service, world: World) -> None:
    """Add says what the hosts say, list what the handler says. A running job keeps its VM."""
    pid = ("--pid", str(service.process.pid))
    with service.configured(service.config.read_text().replace("vmid = 102", "vmid = 103")):
        added = vm(service, "add", "box=102@pve1")
        assert (added.returncode, "use this change" in added.stderr) == (0, True), added.stderr
        assert 'VM 102 "devvm"' in added.stdout
        assert states(service)["box"] == "not loaded"
        added = vm(service, "add", "mail=104", *pid)
        assert "127.0.0.1: breakglass-pve allow 104" in added.stdout
        until(lambda: states(service)["box"] == "answering", "the reload")
        assert states(service) == {"devvm": "not-allowed", "box": "answering", "mail": "not-allowed"}

        os.mkfifo(world.root / "gate")
        misbehave(world.root, gate="start")
        with ThreadPoolExecutor(1) as pool:
            cycle = pool.submit(service.pve, "cycle", vm="box", caller="operator2", msg_id=(job := new_id()))
            until(lambda: stage(world, job) == "start", "the cycle's start")
            assert "stage start" in vm(service, "remove", "box", "--yes").stderr
            open_gate(world)
            assert cycle.result().json["outcome"] == "done"
        removed = vm(service, "remove", "box", "--yes", *pid)
        assert (removed.returncode, "take 102 out of --vms" in removed.stdout) == (0, True), removed.stderr
        assert vm(service, "remove", "mail", "--yes", *pid).returncode == 0
        assert files(service) == {}


def test_what_add_and_remove_refuse(service: Service) -> None:
    """Remove never acts without an answer of the handler, except with --force."""
    for given, said in (("mail=103@pve9", "use one or more of pve1"), ("mail=102", "already the number of devvm")):
        ran = vm(service, "add", given)
        assert (ran.returncode in (1, 2), said in ran.stderr, files(service)) == (True, True, {}), ran.stderr
    assert vm(service, "add", "mail=104").returncode == 0
    for words, more, said in (
        (("devvm", "--yes"), {}, "change [vms.devvm] there by hand"),
        (("mail",), {}, "add --yes"),
        (("mail", "--yes"), {"BREAKGLASS_URL": "http://127.0.0.1:1"}, "it is not known whether a job of mail runs"),
    ):
        ran = vm(service, "remove", *words, **more)
        assert (ran.returncode in (1, 2), said in ran.stderr, list(files(service))) == (True, True, ["mail.toml"]), said
    assert vm(service, "remove", "mail", "--yes", "--force", BREAKGLASS_URL="http://127.0.0.1:1").returncode == 0

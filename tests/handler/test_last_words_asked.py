"""`last_words = false` for a VM: the handler asks its host not to read the kernel log, if it knows the word.

The guest of these tests has no kernel, so a probe that reads says that it found no log.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from breakglass.client import new_id
from breakglass.demo.proxmox.world import World

from ..support.agent import execute, set_constants
from ..support.alerting import entry
from ..support.service import Service
from ..support.sshd import Sshd
from ..support.stages import until

pytestmark = pytest.mark.real("sshd", "qemu")

NOT_READ = "not read: the handler asked not to (last_words = false)"
READ = "no kernel log was found"
SETTING = "last_words = false"


@pytest.fixture
def service(short_dir: Path, sshd: Sshd) -> Iterator[Service]:
    set_constants(sshd.world, REUSE_SECONDS=0.0, SHORT_LAST_WORDS_SECONDS=20.0)
    service = Service(
        short_dir,
        port=sshd.port,
        key=sshd.power_key,
        host_key=[sshd.host_key],
        vm_lines=SETTING,
        extra=entry("generic", 0, host="devvm"),
    )
    try:
        service.answering()
        yield service
    finally:
        service.stop()


def said(service: Service, verb: str) -> str:
    """Run a verb that is done; return what its output says of the last words."""
    answer = service.pve(verb, msg_id=new_id()).json
    assert answer["outcome"] == "done", answer
    return str(answer["stdout"]).partition("== last words (ok, ")[2].splitlines()[1]


def job(world: World, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = execute(world, f"job id={job_id}").trailer["whole_job"]
    return found


@pytest.mark.all
def test_the_host_is_asked_not_to_read_the_log(service: Service, world: World) -> None:
    """In a capture, in the evidence before a verb and in an alert's capture, until the setting is taken away."""
    assert said(service, "forensics") == NOT_READ
    assert said(service, "reset") == NOT_READ
    alert = json.dumps({"status": "firing", "labels": {"host": "devvm"}, "fingerprint": "one"}).encode()
    reply = service.send("POST", "/alert/generic", alert, service.signed(alert))
    [accepted] = reply.json["accepted"]
    until(lambda: job(world, accepted["job"])["outcome"], "the end of the alert's capture")
    assert NOT_READ in job(world, accepted["job"])["output"]
    with service.configured(service.config.read_text().replace(SETTING, "")):
        assert said(service, "forensics").startswith(READ)

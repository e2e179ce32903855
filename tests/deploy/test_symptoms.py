"""docs/symptoms.md: each command shows what the table below it describes, and its words come from the program."""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from breakglass.demo.proxmox.world import World

from ..support.documents import ROOT, commands
from ..support.pve_host import conf, moved
from ..support.service import Service, give_to_handler, new_secret
from ..support.sshd import Sshd
from ..support.stages import until

pytestmark = [pytest.mark.real("sshd", "qemu", "curl"), pytest.mark.shared("world", "sshd"), pytest.mark.slow]

TEXT = (ROOT / "docs/symptoms.md").read_text(encoding="utf-8")
TOKEN = f"bgt_{'m' * 43}"


class Person:
    """A person at the handler's machine who pastes what the document says."""

    def __init__(self, directory: Path, service: Service) -> None:
        self.directory, self.service = directory, service
        (directory / "bin").mkdir()
        journal = f'#!/bin/sh\n[ "$1 $2 $3" = "-u breakglass -o" ] && exec cat {service.audit_file}\n'
        for name, text in (
            ("journalctl", journal),
            ("breakglass", f'#!/bin/sh\nexec {sys.executable} -m breakglass "$@"\n'),
        ):
            (directory / "bin" / name).write_text(text)
            (directory / "bin" / name).chmod(0o755)
        (directory / "metrics.token").write_text(TOKEN)
        self.secret = directory / "operator.signing-key"
        self.use(service.secrets["operator"])

    def use(self, secret: str) -> None:
        self.secret.touch(0o600)
        self.secret.write_text(secret)
        give_to_handler(self.secret)

    def paste(self, script: str) -> str:
        environment = {
            **os.environ,
            "PATH": f"{self.directory}/bin:{os.environ['PATH']}",
            "BREAKGLASS_URL": f"http://127.0.0.1:{self.service.port}",
            "BREAKGLASS_SECRET_FILE": str(self.secret),
            "BREAKGLASS_CONFIG": str(self.service.config),
        }
        script = script.replace("127.0.0.1:8080", f"127.0.0.1:{self.service.port}")
        argv = ["bash", "-c", script]
        ran = subprocess.run(argv, cwd=self.directory, env=environment, capture_output=True, text=True)
        return ran.stdout + ran.stderr


@pytest.fixture(scope="module")
def person_of_module(directory: Path, shared_sshd: Sshd) -> Iterator[Person]:
    place = directory / "symptoms"
    place.mkdir(mode=0o755)
    sshd = shared_sshd
    extra = f'[metrics]\ntoken = "{TOKEN}"\n\n[callers.night]\nsecret = "{new_secret()}"\nallow = ["status"]\n'
    extra += "not_after = 2020-01-01T00:00:00Z\n"
    service = Service(place, port=sshd.port, key=sshd.power_key, host_key=[sshd.host_key], extra=extra)
    try:
        service.answering()
        yield Person(place, service)
    finally:
        service.stop()


@pytest.fixture
def person(person_of_module: Person, world: World) -> Person:
    """The person, with a VM that runs: one test stops it."""
    return person_of_module


@pytest.mark.all
def test_the_first_look(person: Person) -> None:
    """Doctor says a line for each place, and /health is one object that a person can read."""
    [look] = commands("docs/symptoms.md", "First")
    output = person.paste(look)
    assert re.search(r"^(ok|warning|error): host pve1: ", output, re.MULTILINE)
    assert re.search(r'^    "config": "degraded: 1 problem",$', output, re.MULTILINE)


@pytest.mark.all
def test_a_key_that_is_refused(person: Person) -> None:
    """The log tells why; a request past the proxy and one through it are both refused."""
    [why] = commands("docs/symptoms.md", "The page won't unlock")
    [both] = commands("docs/symptoms.md", "401")
    assert person.paste(both).count("running (status, id ") == 2
    person.use(new_secret())
    try:
        assert person.paste(both).count("not accept") == 2
    finally:
        person.use(person.service.secrets["operator"])
    person.service.send("POST", "/pve", b"{}")

    def reasons() -> list[str]:
        return [json.loads(line)["why"] for line in person.paste(why).splitlines()]

    until(lambda: len(reasons()) == 3, "the log to have the three refusals")  # written after the answer
    assert reasons() == ["unknown signature", "unknown signature", "malformed"]
    assert "`unknown signature`" in TEXT
    assert "`malformed`" in TEXT


@pytest.mark.all
def test_an_answer_that_a_proxy_cut(person: Person) -> None:
    """/health says its time, history the id, and the same id attaches to the cycle that ran."""
    [script] = commands("docs/symptoms.md", "504")
    look, *lines = script.splitlines()
    assert re.match(r"200 after \d+\.\d+ s\n", person.paste(look))
    assert person.service.pve("cycle", msg_id="msg_cut_by_a_proxy").json["outcome"] == "done"
    output = person.paste("\n".join(lines).replace("msg_…", "msg_cut_by_a_proxy"))
    assert "msg_cut_by_a_proxy" in output
    assert "running (cycle done" in output
    assert [job["verb"] for job in person.service.pve("history").json["jobs"]].count("cycle") == 1


def test_what_the_other_commands_show(person: Person) -> None:
    """The state of chat from /health with the log's lines about it; a new key; the reasons of /ready, without names."""
    [look] = commands("docs/symptoms.md", "Chat dies")
    chat, *lines = person.paste(look).splitlines()
    assert chat == '"chat":"none"'
    assert [json.loads(line)["state"] for line in lines] == ["none"]
    [make] = commands("docs/symptoms.md", "A key is lost")
    assert "anna is in " in person.paste(make)
    entry = tomllib.loads((person.service.config.parent / "callers.d/anna.toml").read_text())
    assert (person.directory / "anna.signing-key").read_text().strip() == entry["secret"]
    assert "cycle" in entry["allow"]
    [both] = commands("docs/symptoms.md", "/ready says 503")
    decoder, output, answers = json.JSONDecoder(), person.paste(both), []
    while output.strip():
        answer, end = decoder.raw_decode(output.lstrip())
        answers.append(answer["reasons"])
        output = output.lstrip()[end:]
    assert [["night" in reason for reason in reasons] for reasons in answers] == [[False], [True]]


@pytest.mark.all
def test_a_vm_that_moved(person: Person, world: World) -> None:
    """The status names the node."""
    [look] = commands("docs/symptoms.md", "A VM moved")
    assert person.service.pve("stop").json["outcome"] == "done"
    kept = conf(world).read_bytes()
    moved(world)
    try:
        output = person.paste(look)
    finally:
        conf(world).write_bytes(kept)
        (world.root / "etc/pve/.vmlist").unlink()
    assert "elsewhere" in output
    assert "pve2" in output

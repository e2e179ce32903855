"""POST /report and `breakglass report`: a night of a real host, as any handler can tell it."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ..conftest import shared_sshd, shared_world
from ..support.forked import run_command
from ..support.hostile import hostile_host
from ..support.receivers import Inbox, receiving
from ..support.service import Service, new_secret, with_constants
from ..support.sshd import Sshd
from ..support.stages import until
from .conftest import handler

__all__ = ["shared_sshd", "shared_world"]  # a host of this file, on which nothing has happened yet

pytestmark = [pytest.mark.real("sshd", "qemu"), pytest.mark.shared("world", "sshd")]

LOOKER = new_secret()
MORNING = '[[notify]]\nto = "ntfy"\nurl = "{url}"\ntopic = "morning"\non = ["report"]\n'
CALLERS = f'[callers.looker]\nsecret = "{LOOKER}"\nallow = ["status"]\n'


@pytest.fixture(scope="module")
def inbox() -> Iterator[Inbox]:
    with receiving() as running:
        yield running


@pytest.fixture(scope="module")
def service(directory: Path, shared_sshd: Sshd, inbox: Inbox) -> Iterator[Service]:
    """A handler with one caller more, who may not read the history."""
    with handler(directory, shared_sshd, extra=CALLERS + MORNING.format(url=inbox.url)) as service:
        service.secrets["looker"] = LOOKER
        yield service


def ask(service: Service, caller: str = "operator", **fields: str) -> tuple[int, dict[str, object]]:
    body = json.dumps(fields).encode()
    reply = service.send("POST", "/report", body, service.signed(body, caller))
    return reply.status, reply.json


@pytest.mark.all
def test_a_night(service: Service, inbox: Inbox) -> None:
    """Each job is told with its verdict and reason, by a handler that has seen none of them, and by the command.

    The morning's message is one line for each VM, and there is none while nothing has happened.
    """
    settings = {"BREAKGLASS_URL": f"http://127.0.0.1:{service.port}", "BREAKGLASS_SECRET": service.secrets["operator"]}
    morning = {**settings, "BREAKGLASS_CONFIG": str(service.config)}
    assert run_command("report", "--notify", **morning).returncode == 0
    assert inbox.requests == []
    service.pve("forensics", reason="alert text *with* marks")
    service.pve("reset", reason="hung since 02:50")
    service.pve("forensics")
    service.stop()
    service.start()
    service.answering()
    status, answer = ask(service, vm="devvm", since="1h")
    text = str(answer["text"])
    told = ["(alert text \\*with\\* marks)", "reset, operator (hung since 02:50): done", "Before: the console at"]
    assert (status, answer["jobs"], [words for words in told if words not in text]) == (200, 3, [])
    _, page = ask(service, form="html")
    assert str(page["text"]).count('src="data:image/png;base64,iVBORw0KGgo') == 2

    ran = run_command("report", "--notify", **morning)
    assert (ran.returncode, ran.stdout) == (0, "notify[0] (ntfy): sent\n"), ran.stderr
    [message] = inbox.bodies()
    assert message["message"].startswith("devvm: 2 forensics, 1 reset; still open: the last verdict is ")
    assert (message["sequence_id"][:9], message["priority"]) == ("report-20", 3)

    ran = run_command("report", "--since", "1h", **settings)
    assert (ran.returncode, ran.stdout.count("- ")) == (0, text.count("- ")), ran.stderr

    service.stop()
    with pytest.MonkeyPatch.context() as patched:  # a report keeps a bounded part of what the hosts send, and says so
        patched.setattr(service, "program", with_constants("web.report.MOST_CHARS = 500"))
        service.start()
        service.answering()
        _, answer = ask(service)
        assert (answer["jobs"], answer["whole"], "sent too much" in str(answer["text"])) == (0, False, True)
        service.stop()
    service.start()


def test_who_may_not_ask(service: Service) -> None:
    """A wrong field is a bad request. A caller without `history` gets no report."""
    for fields in ({"since": "73h"}, {"form": "pdf"}, {"vm": "other"}, {"verb": "cycle"}):
        assert ask(service, **fields)[0] == 400
    assert ask(service, "looker")[0] == ask(service, "looker", vm="devvm")[0] == 403


@pytest.mark.all
def test_a_host_that_lies(directory: Path, sshd: Sshd, short_dir: Path) -> None:
    """What it lists becomes no line of the protocol and no error. A caller has one report at a time, with its VMs."""
    with hostile_host(directory / "lies") as evil:
        evil.attack("lies")
        lines = evil.world.agent.with_name("lines")
        limited = CALLERS.replace('"status"', '"history"') + 'vms = ["devvm"]\n'
        service = Service(short_dir, **sshd.access, extra=evil.tables + limited)
        service.secrets["looker"] = LOOKER
        try:
            service.pve("forensics", vm="devvm")
            with ThreadPoolExecutor(1) as pool:
                first = pool.submit(ask, service)
                until(lambda: lines.exists() and " history" in lines.read_text(), "the question")
                assert ask(service)[0] == 503
                lines.with_name("go").touch()
                status, answer = first.result()
            status_of_looker, told_looker = ask(service, "looker")
            assert (status_of_looker, "evilvm" in str(told_looker)) == (200, False)
        finally:
            lines.with_name("go").touch()
            service.stop()
        sent = lines.read_text().splitlines()
    text = str(answer["text"])
    told = [words for words in ("## devvm", "## evilvm", "stop, : running") if words in text]
    assert (status, len(told), [line for line in sent if "cycle" in line]) == (200, 3, []), text


@pytest.mark.all
def test_a_log(service: Service) -> None:
    """Each job has a line of 80 columns with who, what and how it ended, and below it why. The newest is last."""
    settings = {"BREAKGLASS_URL": f"http://127.0.0.1:{service.port}", "BREAKGLASS_SECRET": service.secrets["operator"]}
    reasons = ["it hangs since 02:30, no login works, and the console shows a panic of the kernel", "second\ntry"]
    for reason in reasons:
        assert service.pve("reset", reason=reason).json["outcome"] == "done"
    ran = run_command("log", "--since", "1h", **settings)
    lines = ran.stdout.splitlines()
    assert (ran.returncode, max(map(len, lines)) <= 80) == (0, True), ran.stderr
    assert lines[-1] == "       second try"
    assert re.fullmatch(r"\d\d:\d\d  devvm  reset +operator +done( after \d+ s)?(, [a-z-]+)?", lines[-2])
    assert " ".join(line.removeprefix("       ") for line in lines[-4:-2]) == reasons[0]

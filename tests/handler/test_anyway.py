"""Stages and deadlines of a running job, and `anyway`, which only the host offers and only a person says."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import breakglass.proxmox.patience
from breakglass.base.errors import Lost
from breakglass.config.model import Address, Host
from breakglass.proxmox.host import HostConnection
from breakglass.proxmox.outcome import Message

from ..support.forked import run_command
from ..support.scripted import REFUSED, Scripted, output, result, stage
from ..support.service import Service
from ..support.sshd import Sshd
from ..support.stages import until

pytestmark = pytest.mark.real("sshd")


@pytest.fixture
def service(scripted_service: Service, script: Scripted) -> Service:
    scripted_service.answering()  # an earlier test may have broken its connection
    return scripted_service


def test_a_refusal_says_what_would_lift_it(service: Service, script: Scripted) -> None:
    """The host refuses and offers an override. A person says its code, and the host gets it between other words."""
    for verb in ("reset", "cycle"):
        reply = service.pve(verb)
        assert (reply.status, reply.json["outcome"], reply.json["anyway"]) == (412, "refused", "storage-hung")
        assert reply.json["verdict"]["code"] == "storage-hung"
    script.say([("anyway=storage-hung", [stage("preflight"), result()]), ("", [result(jobs=[])])])
    more: dict[str, Any] = {"if_state": "running", "if_last": "none", "reason": "known", "anyway": "storage-hung"}
    answer = service.pve("reset", msg_id="msg_12345678", **more).json
    assert (answer["outcome"], answer["anyway"]) == ("done", None)
    words = "reset vm=102 id=msg_12345678 by=operator if=running last=none anyway=storage-hung note=a25vd24"
    assert script.asked("reset") == [words]


def test_an_attached_stream_repeats_no_line(service: Service, script: Scripted, scripted_sshd: Sshd) -> None:
    """Each stage comes with the deadline and the start of its job. Unknown messages are left out.

    If the connection breaks in the middle, the stream continues at the same line.
    """
    stages = [stage(name) for name in ("preflight", "stop", "start")]
    odd: list[dict[str, Any]] = [{"type": "mood", "text": "fine"}, stage("x", -1), {"type": "stage", "stage": "y"}]
    before = [stages[0], output("a\n"), *odd, stages[1]]
    script.say([("cycle", [*before, {"wait": "never"}]), ("", [result()])])
    with ThreadPoolExecutor(1) as pool:
        posting = pool.submit(service.pve, "cycle", stream=True)
        until(lambda: script.asked("cycle") != [], "the cycle")
        script.say([("cycle", [*before, output("b\n"), stages[2], result(deadline=420.0)]), ("", [result()])])
        scripted_sshd.drop_connections()
        first, *middle, last = posting.result().lines
    assert first["type"] == "accepted"
    assert middle == [stages[0], output("a\n"), stages[1], output("b\n"), stages[2]]
    assert (last["outcome"], last["deadline"]) == ("done", 420.0)


@pytest.mark.all
async def test_a_host_that_falls_silent_is_lost_after_its_own_deadline(
    script: Scripted, scripted_sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the job's deadline and the grace, the same line is sent again over a new connection.

    The messages that were passed on are not repeated.
    """
    monkeypatch.setattr(breakglass.proxmox.patience, "GRACE_SECONDS", 0.3)
    told, line = stage("stop", 0.2), "stop vm=102 id=silent-01 by=operator"
    script.say([("stop", [told, output("a\n"), {"wait": "never"}]), ("", [result()])])
    address = Address("breakglass", "127.0.0.1", scripted_sshd.port)
    host = HostConnection(Host("pve1", address, scripted_sshd.power_key, host_keys=(scripted_sshd.host_key,)))
    host.retry_seconds = 0.2
    heard: list[Message] = []

    async def listen() -> None:
        async for message in host.run(line):
            heard.append(message)  # noqa: PERF401  # what came before the loss is looked at

    with pytest.raises(Lost, match=r"no answer in 0\.5 s"):
        await listen()
    await host.close()
    assert heard == [told, output("a\n")]
    assert len(script.asked("stop")) >= 2
    assert set(script.asked("stop")) == {line}


# --- breakglass call ---


def call(service: Service, *words: str) -> tuple[int, str, str]:
    here = {"BREAKGLASS_URL": f"http://127.0.0.1:{service.port}", "BREAKGLASS_SECRET": service.secrets["operator"]}
    ran = run_command("call", *words, **here, TZ="UTC")
    return ran.returncode, ran.stdout, ran.stderr


def test_call_shows_the_stages_and_the_offer(service: Service, script: Scripted) -> None:
    """Stderr has each stage once with the time by which the verb ends, the refusal, and the command that overrides it.

    The command has no id, because the refused request has used its id.
    """
    message = stage("preflight", started="2026-11-24T03:07:20Z")
    script.say([("reset", [message, {**message, "stage": "forensics"}, REFUSED[-1]]), ("", [result()])])
    code, out, err = call(service, "reset", "--vm", "devvm")
    assert (code, "stage:" in out) == (1, False)
    assert "stage: preflight (the job ends by 03:14:20)\nstage: forensics (the job ends by 03:14" in err
    last = "    breakglass call reset --vm devvm --anyway storage-hung\n    what to do: breakglass docs storage-hung\n"
    assert err.endswith(last)


@pytest.mark.all
def test_call_sends_anyway_under_a_new_id(service: Service, script: Scripted) -> None:
    """--anyway sends the word under a new id. Another code is not an option, and another verb is refused."""
    assert call(service, "cycle", "--anyway", "storage-hung")[0] == 0
    assert [line.split(" by=operator")[1] for line in script.asked("cycle")] == [" anyway=storage-hung"]
    assert call(service, "reset", "--anyway", "locked")[0] == 2
    assert call(service, "stop", "--anyway", "storage-hung")[0] == 1
    assert script.asked("stop") == []

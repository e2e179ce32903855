"""Stages and deadlines of a running job, and `anyway`, which only the host offers and only a person says."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

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


# --- breakglass call ---


def call(service: Service, *words: str) -> tuple[int, str, str]:
    here = {"BREAKGLASS_URL": f"http://127.0.0.1:{service.port}", "BREAKGLASS_SECRET": service.secrets["operator"]}
    ran = run_command("call", *words, **here, TZ="UTC")
    return ran.returncode, ran.stdout, ran.stderr


def test_call_sends_anyway_under_a_new_id(service: Service, script: Scripted) -> None:
    """Stderr has each stage with the time by which the verb ends, and the command that overrides the refusal.

    The command has no id, because the refused request has used its id. Another code is not an option, and another verb
    is refused.
    """
    message = stage("preflight", started="2026-11-24T03:07:20Z")
    script.say([("anyway=storage-hung", [result()]), ("reset", [message, REFUSED[-1]]), ("", [result()])])
    code, out, err = call(service, "reset", "--vm", "devvm")
    assert (code, "stage:" in out, "03:14:20" in err) == (1, False, True)
    command = "breakglass call reset --vm devvm --anyway storage-hung"
    assert [line.strip() for line in err.splitlines()[-2:]] == [command, "what to do: breakglass docs storage-hung"]
    assert call(service, *command.split()[2:])[0] == 0
    assert [line.split(" by=operator")[1] for line in script.asked("reset")] == ["", " anyway=storage-hung"]
    assert call(service, "reset", "--anyway", "locked")[0] == 2
    assert call(service, "stop", "--anyway", "storage-hung")[0] == 1
    assert script.asked("stop") == []

"""The marks on an alert's capture: who may set them, and which captures wait for a message."""

import base64
import json
from itertools import product
from typing import Any

import pytest

from breakglass.demo.proxmox.world import World

from ..support.agent import booted_an_hour_ago, execute, set_constants
from ..support.stages import await_agents, lose_run, memory

pytestmark = [pytest.mark.real("qemu"), pytest.mark.shared("world")]
NOT_TOLD = "note=" + base64.urlsafe_b64encode(b"not-told").decode().rstrip("=")


def untold(world: World) -> list[str]:
    return [str(job["id"]) for job in execute(world, "told").trailer["untold"]]


def record(world: World, job: str) -> dict[str, Any]:
    found: dict[str, Any] = execute(world, f"job id={job}").trailer["whole_job"]
    return found


@pytest.mark.all
def test_only_an_alerts_own_capture_waits_until_it_is_told(world: World) -> None:
    """`not-told` waits on, `told` stands for good, and the record and the archive have it."""
    for job in ("alert-0001", "alert-drill-01", "msg_00000001"):
        assert execute(world, f"forensics id={job} by=am").code == 0
    execute(world, "forensics id=alert-0002 by=am fresh=600")  # attaches to the newest
    trailer = execute(world, "told").trailer
    assert ([job["id"] for job in trailer["untold"]], trailer["newest"]) == (["alert-0001"], "alert-0001")
    for line, word, left in (
        (f"told id=alert-0001 by=breakglass {NOT_TOLD}", "not-told", ["alert-0001"]),
        ("told id=alert-0001 by=breakglass", "told", []),
        (f"told id=alert-0001 by=breakglass {NOT_TOLD}", "told", []),
    ):
        assert execute(world, line).code == 0
        assert (record(world, "alert-0001")["told"], untold(world)) == (word, left)
    execute(world, "forensics id=msg_00000002 by=am")
    await_agents(world)
    assert (world.root / "var/lib/breakglass/102/jobs/alert-0001/marks").exists()


@pytest.mark.shared
def test_a_boot_of_the_host_loses_no_capture(world: World) -> None:
    """After it, the archive has the captures that wait, the newest one, and the marks, and takes the missing mark."""
    booted_an_hour_ago(world)
    set_constants(world, UNTOLD_SECONDS=2 * 3600.0)
    for job in ("alert-0011", "alert-0012", "alert-drill-11", "msg_00000011"):
        assert execute(world, f"forensics id={job} by=am").code == 0
    assert execute(world, "told id=alert-0011 by=breakglass").code == 0
    await_agents(world)
    lose_run(world)
    trailer = execute(world, "told").trailer
    assert ([job["id"] for job in trailer["untold"]], trailer["newest"]) == (["alert-0012"], "alert-0012")
    for job, code in (("alert-0012", 0), ("alert-drill-11", 13), ("msg_00000011", 13), ("alert-0099", 13)):
        assert execute(world, f"told id={job} by=breakglass").code == code
    assert (record(world, "alert-0012")["told"], untold(world)) == ("told", [])


@pytest.mark.all
def test_twenty_callers_are_seen_once_each(world: World) -> None:
    """The first twenty, each once, in the job and in a status; a mark that a full /run has cut is left out."""
    execute(world, "forensics id=alert-0003 by=am")
    for number in (1, 1, *range(2, 23)):
        assert execute(world, f"seen id=alert-0003 by=op{number}").code == 0
    with memory(world, "jobs/alert-0003/marks").open("a") as file:
        file.write('{"mark": "seen", "by')
    expected = [f"op{number}" for number in range(1, 21)]
    assert [each["by"] for each in record(world, "alert-0003")["seen"]] == expected
    assert [each["by"] for each in execute(world, "status").trailer["seen"]] == expected


def test_an_opinion_is_counted_before_it_comes(world: World) -> None:
    """One is granted for each capture and each hour, with what those of the day have cost, and the record keeps it."""

    def ask(job: str) -> tuple[object, object]:
        trailer: dict[str, Any] = execute(world, f"opinion id={job} by=breakglass").trailer
        return trailer.get("granted"), trailer.get("spent")

    for job in ("alert-0010", "alert-0011"):
        execute(world, f"forensics id={job} by=am")
    assert [ask("alert-0010"), ask("alert-0010"), ask("alert-0011")] == [(True, 0.0), (False, None), (False, None)]
    assert "opinion" not in record(world, "alert-0010")
    for said_wrong in (b"reset", b"[]", b'{"usd": 1}', b"[" * 5000):
        note = base64.urlsafe_b64encode(said_wrong).decode().rstrip("=")
        answer = execute(world, f"opinion id=alert-0010 by=breakglass note={note}")
        assert (answer.code, answer.trailer["verdict"]["code"]) == (10, "agent-refused")
    said: dict[str, Any] = {"text": "reset, because " + "x" * 300, "usd": 0.25}
    note = base64.urlsafe_b64encode(json.dumps(said).encode()).decode().rstrip("=")
    assert execute(world, f"opinion id=alert-0010 by=breakglass note={note}").code == 0
    assert record(world, "alert-0010")["opinion"]["text"] == said["text"][:300]
    path = memory(world, "jobs/alert-0010/opinion.json")
    found = json.loads(path.read_text())
    path.write_text(json.dumps(found | {"asked": found["asked"] - 3600}))
    assert [ask("alert-0010"), ask("alert-0011")] == [(False, None), (True, 0.25)]
    execute(world, "forensics id=msg_00000004 by=am")
    await_agents(world)
    assert (world.root / "var/lib/breakglass/102/jobs/alert-0010/opinion.json").exists()


@pytest.mark.all
def test_nothing_else_can_be_marked(world: World) -> None:
    """Neither a caller's capture, nor a drill's, nor a job that is not known."""
    for job in ("msg_00000003", "alert-drill-03"):
        execute(world, f"forensics id={job} by=am")
    for verb, job in product(("told", "seen", "opinion"), ("msg_00000003", "alert-drill-03", "alert-unknown")):
        answer = execute(world, f"{verb} id={job} by=op")
        assert (answer.code, answer.trailer["verdict"]["code"]) == (13, "job-unknown")
        assert not memory(world, f"jobs/{job}/marks").exists()
        assert not memory(world, f"jobs/{job}/opinion.json").exists()

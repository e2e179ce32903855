"""The marks on an alert's capture: who may set them, and which captures wait for a message."""

import base64
import json
from itertools import product
from typing import Any

import pytest

from breakglass.demo.proxmox.world import World

from ..support.agent import Session, booted_an_hour_ago, set_constants
from ..support.stages import await_agents, lose_run, memory

pytestmark = [pytest.mark.real("qemu"), pytest.mark.shared("world")]
NOT_TOLD = "note=" + base64.urlsafe_b64encode(b"not-told").decode().rstrip("=")


def untold(session: Session) -> list[str]:
    return [str(job["id"]) for job in session.ask("told")["untold"]]


def record(session: Session, job: str) -> dict[str, Any]:
    found: dict[str, Any] = session.ask(f"job id={job}")["whole_job"]
    return found


@pytest.mark.all
@pytest.mark.shared
def test_only_an_alerts_own_capture_waits_until_it_is_told(world: World) -> None:
    """`not-told` waits on, `told` stands for good, and the record and the archive have it. Nothing else can be marked.

    The others are a caller's capture, a drill's, and a job that is not known.
    """
    with Session(world) as session:
        for job in ("alert-0001", "alert-drill-01", "msg_00000001"):
            assert session.ask(f"forensics id={job} by=am")["exit_code"] == 0
        session.ask("forensics id=alert-0002 by=am fresh=600")  # attaches to the newest
        told = session.ask("told")
        assert ([job["id"] for job in told["untold"]], told["newest"]) == (["alert-0001"], "alert-0001")
        for line, word, left in (
            (f"told id=alert-0001 by=breakglass {NOT_TOLD}", "not-told", ["alert-0001"]),
            ("told id=alert-0001 by=breakglass", "told", []),
            (f"told id=alert-0001 by=breakglass {NOT_TOLD}", "told", []),
        ):
            assert session.ask(line)["exit_code"] == 0
            assert (record(session, "alert-0001")["told"], untold(session)) == (word, left)
        for verb, job in product(("told", "seen", "opinion"), ("msg_00000001", "alert-drill-01", "alert-unknown")):
            refused = session.ask(f"{verb} id={job} by=op")
            assert (refused["exit_code"], refused["verdict"]["code"]) == (13, "job-unknown")
            assert not memory(world, f"jobs/{job}/marks").exists()
            assert not memory(world, f"jobs/{job}/opinion.json").exists()
        session.ask("forensics id=msg_00000002 by=am")
    await_agents(world)
    assert (world.root / "var/lib/breakglass/102/jobs/alert-0001/marks").exists()


@pytest.mark.all
@pytest.mark.shared
def test_a_boot_of_the_host_loses_no_capture(world: World) -> None:
    """After it, the archive has the captures that wait, the newest one, and the marks, and takes the missing mark."""
    booted_an_hour_ago(world)
    set_constants(world, UNTOLD_SECONDS=2 * 3600.0)
    with Session(world) as session:
        for job in ("alert-0011", "alert-0012", "alert-drill-11", "msg_00000011"):
            assert session.ask(f"forensics id={job} by=am")["exit_code"] == 0
        assert session.ask("told id=alert-0011 by=breakglass")["exit_code"] == 0
    await_agents(world)
    lose_run(world)
    with Session(world) as session:
        told = session.ask("told")
        assert ([job["id"] for job in told["untold"]], told["newest"]) == (["alert-0012"], "alert-0012")
        for job, code in (("alert-0012", 0), ("alert-drill-11", 13), ("msg_00000011", 13), ("alert-0099", 13)):
            assert session.ask(f"told id={job} by=breakglass")["exit_code"] == code
        assert (record(session, "alert-0012")["told"], untold(session)) == ("told", [])


def test_an_opinion_is_counted_before_it_comes(world: World) -> None:
    """One is granted for each capture and each hour, with what those of the day have cost, and the record keeps it."""

    def ask(job: str) -> tuple[object, object]:
        trailer = session.ask(f"opinion id={job} by=breakglass")
        return trailer.get("granted"), trailer.get("spent")

    def opine(note: bytes) -> dict[str, Any]:
        encoded = base64.urlsafe_b64encode(note).decode().rstrip("=")
        return session.ask(f"opinion id=alert-0010 by=breakglass note={encoded}")

    with Session(world) as session:
        for job in ("alert-0010", "alert-0011"):
            session.ask(f"forensics id={job} by=am")
        assert [ask("alert-0010"), ask("alert-0010"), ask("alert-0011")] == [(True, 0.0), (False, None), (False, None)]
        assert "opinion" not in record(session, "alert-0010")
        for said_wrong in (b"reset", b"[]", b'{"usd": 1}', b"[" * 5000):
            assert opine(said_wrong)["verdict"]["code"] == "agent-refused"
        text = "reset, because " + "x" * 300
        assert opine(json.dumps({"text": text, "usd": 0.25}).encode())["exit_code"] == 0
        assert record(session, "alert-0010")["opinion"]["text"] == text[:300]
        path = memory(world, "jobs/alert-0010/opinion.json")
        found = json.loads(path.read_text())
        path.write_text(json.dumps(found | {"asked": found["asked"] - 3600}))
        assert [ask("alert-0010"), ask("alert-0011")] == [(False, None), (True, 0.25)]
        session.ask("forensics id=msg_00000004 by=am")
    await_agents(world)
    assert (world.root / "var/lib/breakglass/102/jobs/alert-0010/opinion.json").exists()

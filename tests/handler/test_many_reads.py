"""One caller's reading requests for a VM are bounded. Power verbs, other callers and other verbs are not affected."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPResponse

import pytest

from breakglass.client import new_id
from breakglass.web.reads import MOST_READS

from ..support.scripted import Scripted, result, stage
from ..support.service import Service
from .test_reload import wait_until

pytestmark = pytest.mark.real("sshd")


@pytest.fixture
def script(script: Scripted) -> Scripted:
    """A host on which captures, and requests about one job, end only when the test lets them."""
    script.say(
        [
            ("forensics", [stage("forensics"), {"wait": "go"}, result(deadline=20.0)]),
            ("job", [{"wait": "go"}, result()]),
            ("ping", [result(vms="102")]),
            ("", [result(jobs=[])]),
        ]
    )
    return script


@pytest.fixture
def service(scripted_service: Service) -> Service:
    scripted_service.answering()
    return scripted_service


@pytest.mark.all
def test_a_caller_with_many_captures_shares_the_newest(service: Service, script: Scripted) -> None:
    """The seventeenth request gets the answer of a running one, and is not sent. Other requests are sent at once."""
    ids = [new_id() for _ in range(MOST_READS)]
    further = new_id()
    with ThreadPoolExecutor(MOST_READS + 2) as pool:
        first = [pool.submit(service.pve, "forensics", msg_id=msg_id) for msg_id in ids[:-1]]
        wait_until(lambda: len(script.asked("forensics")) == MOST_READS - 1)
        first.append(pool.submit(service.pve, "forensics", msg_id=ids[-1]))
        wait_until(lambda: len(script.asked("forensics")) == MOST_READS)
        with streaming(service, further) as attached:
            assert f'"id":"{ids[-1]}"' in attached.readline().decode()
            other = pool.submit(service.pve, "forensics", caller="operator2")
            wait_until(lambda: len(script.asked("forensics")) == MOST_READS + 1)
            assert service.pve("status").json["outcome"] == "done"
            assert service.pve("reset").json["outcome"] == "done"
            script.let_go("go")
            assert {each.result().json["id"] for each in first} == set(ids)
            assert [each.result().json["attached"] for each in (*first, other)] == [False] * (MOST_READS + 1)
            last = attached.read().decode()
    assert '"attached":true' in last
    assert not any(further in line for line in script.asked("forensics"))
    after = service.pve("forensics").json
    assert (after["attached"], after["id"] in ids) == (False, False)
    [line] = [line for line in map(json.loads, service.logged(further).splitlines()) if line.get("id") == further]
    assert (line["verb"], line["outcome"]) == ("forensics", "done")


@contextmanager
def streaming(service: Service, msg_id: str) -> Iterator[HTTPResponse]:
    """Ask for a capture as lines, and yield the answer once it has begun."""
    body = b'{"verb":"forensics"}'
    connection = HTTPConnection("127.0.0.1", service.port, timeout=120)
    headers = service.signed(body, msg_id=msg_id) | {"accept": "application/x-ndjson"}
    connection.request("POST", "/pve", body, headers)
    with closing(connection), connection.getresponse() as response:
        yield response


def test_a_history_that_the_host_did_not_read_says_so(service: Service, script: Scripted) -> None:
    """The answer has null, not an empty list. A job that the host had no time to look for is not called unknown."""
    late = {"code": "deadline", "sentence": "history was not answered in 4 s", "advice": "status", "evidence": []}
    script.say([("ping", [result(vms="102")]), ("", [result(14, "failed", verdict=late)])])
    answer = service.pve("history", job=new_id()).json
    assert (answer["jobs"], "job" in answer, answer["verdict"]["code"]) == (None, False, "deadline")
    unknown = result(1, "failed", verdict={**late, "code": "job-unknown"})
    script.say([("ping", [result(vms="102")]), ("job", [unknown]), ("", [result(jobs=[])])])
    answer = service.pve("history", job=new_id()).json
    assert (answer["jobs"], answer["job"]) == ([], None)


def test_looks_at_other_jobs_are_refused_beyond_the_bound(service: Service, script: Scripted) -> None:
    """A request for one more job is not sent. A request for a job that is already asked for shares that answer."""
    jobs = [new_id() for _ in range(MOST_READS)]
    with ThreadPoolExecutor(MOST_READS + 1) as pool:
        first = [pool.submit(service.pve, "history", job=job) for job in jobs]
        wait_until(lambda: len(script.asked("job")) == MOST_READS)
        refused = service.pve("history", job=new_id())
        error = refused.json["error"]
        assert (refused.status, error["code"], error["reached"]) == (503, "unreached", False)
        shared = pool.submit(service.pve, "history", job=jobs[0])
        script.let_go("go")
        assert {each.result().json["outcome"] for each in first} == {"done"}
        assert shared.result().json["outcome"] == "done"


def test_a_status_after_a_verb_shares_no_earlier_answer(service: Service, script: Scripted) -> None:
    """Another caller's status hangs since before the stop. The operator's status after the stop is sent separately."""
    rules = [("status", [{"wait": "go"}, result(state="running")]), ("ping", [result(vms="102")])]
    script.say([*rules, ("", [result(jobs=[])])])
    with ThreadPoolExecutor(2) as pool:
        earlier = pool.submit(service.pve, "status", caller="viewer")
        wait_until(lambda: len(script.asked("status")) == 1)
        assert service.pve("stop").json["outcome"] == "done"
        later = pool.submit(service.pve, "status")
        wait_until(lambda: len(script.asked("status")) == 2)
        script.let_go("go")
        assert [each.result().json["outcome"] for each in (earlier, later)] == ["done", "done"]

"""One caller's reading requests for a VM are bounded. Power verbs, other callers and other verbs are not affected."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from breakglass.client import new_id
from breakglass.web.reads import MOST_READS

from ..support.scripted import Scripted, result
from ..support.service import Service
from .test_reload import wait_until

pytestmark = pytest.mark.real("sshd")


@pytest.fixture
def script(script: Scripted) -> Scripted:
    """A host on which requests about one job end only when the test lets them."""
    script.say([("job", [{"wait": "go"}, result()]), ("ping", [result(vms="102")]), ("", [result(jobs=[])])])
    return script


@pytest.fixture
def service(scripted_service: Service) -> Service:
    scripted_service.answering()
    return scripted_service


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
    """A request for one more job is not sent, but other verbs and other callers are served.

    A request for a job that is already asked for shares that answer.
    """
    jobs = [new_id() for _ in range(MOST_READS)]
    with ThreadPoolExecutor(MOST_READS + 1) as pool:
        first = [pool.submit(service.pve, "history", job=job) for job in jobs]
        wait_until(lambda: len(script.asked("job")) == MOST_READS)
        refused = service.pve("history", job=new_id())
        error = refused.json["error"]
        assert (refused.status, error["code"], error["reached"]) == (503, "unreached", False)
        others = [*(service.pve(verb) for verb in ("status", "reset")), service.pve("history", caller="viewer")]
        assert {reply.json["outcome"] for reply in others} == {"done"}
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

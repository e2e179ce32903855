"""Replays in the model what host and handler have recorded of ordinary tests, and a step that it does not know fails.

Of a job, the host has three records: its claim, the line of the chain with which it begins to act, and its result.
"""

from itertools import chain, product
from typing import Any

from breakglass.agents.pve.host.paths import Host
from breakglass.agents.pve.jobs.store import JobStore
from breakglass.agents.pve.words import MUTATING
from breakglass.demo.proxmox.world import VMID, World

from ..support.chain import chain_files, read_links
from ..support.stages import until
from .steps import kill_job, run_job
from .world import CLEAR, ENDINGS, Job, Node, Phase, Rules, State, put

RULES = Rules()
NO_JOB_SAYS = {"unknown", "unreached", "running", "rejected", "forbidden"}  # a handler's own outcomes


def ways() -> set[tuple[bool, str]]:
    """Return how the model's jobs can end, each with whether the job has begun to act."""
    seen = {(Phase.CLAIMED, False)}
    waiting = list(seen)
    while waiting:
        phase, has_begun = waiting.pop()
        for following in _next_phases(phase) if phase < Phase.DONE else ():
            reached = (following, has_begun or following == Phase.RECORDED)
            if reached not in seen:
                seen.add(reached)
                waiting.append(reached)
    return {(has_begun, ENDINGS[phase]) for phase, has_begun in seen if phase >= Phase.DONE}


def _next_phases(phase: int) -> set[int]:
    """Return what can follow a job's phase: alone or not, with the VM here or not, seen or not, old or new."""
    found = set()
    for job_id, other, place, sees, is_old, last in product(
        (0, 1), (Phase.NONE, Phase.LOCKED), (0, 1), (CLEAR, 0), (0, 1), range(3)
    ):
        job = Job(phase, archived=bool(is_old))
        jobs = put((Job(other), Job(other)), job_id, job)
        state = State(place=place, nodes=(Node(sees=sees, last=last, jobs=jobs), Node()))
        killed = ("", kill_job(state, RULES, 0, job_id, job))
        found |= {
            after.nodes[0].jobs[job_id].phase for _, after in chain(run_job(state, RULES, 0, job_id, job), [killed])
        }
    return found - {Phase.CHECKED}


def replay(world: World, audit: list[dict[str, Any]]) -> int:
    """Compare the jobs of a host, once all have ended, and a handler's lines about them; return how many jobs.

    `audit`: the lines of requests in the handler's log. Raises AssertionError for what the model does not have.
    """
    store, known = JobStore(Host(VMID, str(world.root))), ways()
    records = [record for record in store.records() if record.verb in MUTATING]
    until(lambda: all(store.result(r.id) or not store.is_alive(r) for r in records), "the end of each job")
    files = chain_files(world)[0].parent.glob("chain-*")  # one for each name that a test has given the node
    begun = [link["job"] for file in files for link in read_links(file) if link["event"] == "begins"]
    assert len(begun) == len(set(begun)), "an id has acted twice"
    ends: dict[str, str] = {}
    for record in records:
        result = store.result(record.id) or {}
        verdict: Any = result.get("verdict") or {}
        code = verdict.get("code", "") if result else "job-killed"
        end = code if code in ENDINGS.values() else result["outcome"]
        assert (record.id in begun, end) in known, f"the model has no such job: {record} {result}"
        ends[record.id] = str(result.get("outcome", "failed"))
    for line in audit:
        if line["verb"] in MUTATING and line["outcome"] not in NO_JOB_SAYS:
            told = ends.get(line["id"])
            assert told == line["outcome"] or line["outcome"] == "id-reused", f"no job's answer: {line}, {told}"
    return len(records)

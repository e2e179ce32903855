"""A capture: every probe in its own child with a deadline, the console's picture last, then the verdict.

A capture takes no VM lock and blocks no verb. A probe that hangs is itself a finding, and the capture does not wait for
its end. The evidence is kept in the job and named in `evidence.json`, so that a verb within the next minute need not
probe again. A verb without evidence probes briefly itself, and a second time if the brief look is in doubt.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, replace

from ..budget import EVIDENCE_SECONDS
from ..grammar import Request
from ..host.cluster import cluster_view, node_name
from ..host.paths import Host, boottime, read_json, write_atomic
from ..host.qmp import QmpError, QmpSilent
from ..host.vmstate import Facts, describe_sources, observe, read_pid, vm_state
from ..jobs.aliases import add_alias
from ..jobs.job import Job
from ..jobs.mutex import Lock
from ..jobs.result import Result, Verdict
from ..jobs.store import JobStore
from ..words import DONE, STORAGE_HUNG
from .changes import change_lines
from .evidence import WATCHED_SECONDS, Evidence, parse_evidence
from .leftovers import Leftovers, describe_process, find_leftovers
from .on_changes import boot_change
from .on_host import thread_probe
from .on_storage import dead_storages, late_commands, late_storages
from .picture import keep_picture
from .plan import SHORT_APART, after_cluster, capture_probes, find_storages, second_probes, short_probes
from .probe import Reply
from .proof import frozen_disks
from .text_screen import read_text_screen
from .together import ask_together
from .verdict import quick_verdict, verdict_of

REUSE_SECONDS = 60.0
SCREEN_SECONDS = 4.0
NAME_SECONDS = 1.0  # for the VM's name, before the capture reads all of /etc/pve


def ensure_evidence(job: Job, facts: Facts | None = None) -> Verdict | None:
    """Keep evidence before a verb destroys the state; return the verdict that the evidence proves.

    The evidence comes from a capture of the last minute or from a new look, which is brief unless it sees a thread or a
    disk stand still. `facts` are the facts that the verb has seen already, so that a silent QEMU is not asked again.
    """
    if facts is None or facts.pid != read_pid(job.host):
        facts = observe(job.host)
    if capture := find_proven_capture(job.host):
        verdict = _read_verdict(job, capture)
        if (verdict is not None and verdict.code == STORAGE_HUNG) or not _has_stuck_thread(job, facts):
            job.say(f"forensics: using the capture {capture}")
            return verdict
    return look_briefly(job, facts, time.monotonic() + min(EVIDENCE_SECONDS, job.seconds_left(EVIDENCE_SECONDS)))


def _has_stuck_thread(job: Job, facts: Facts) -> bool:
    """Tell whether a thread of QEMU waits in the kernel now, because that may have begun since the last capture."""
    if facts.pid is None or vm_state(facts) == "stopped":
        return False
    look = [thread_probe(job.host, facts.pid, SHORT_APART)]
    return any(reply.facts.get("stuck") for reply in ask_together(look, time.monotonic() + 2 * SHORT_APART + 1))


def find_proven_capture(host: Host) -> str:
    """Return the newest capture whose samples were far enough apart to prove a standstill, or an empty string.

    A capture of a stopped VM does not count, because repeating it takes hardly any time.
    """
    capture = find_capture(host, REUSE_SECONDS)
    evidence = _read_evidence(host, capture) if capture else None
    return capture if evidence and min(evidence.seconds, evidence.watched) >= WATCHED_SECONDS else ""


def _read_evidence(host: Host, capture: str) -> Evidence | None:
    stored = (read_json(f"{host.run_dir}/jobs/{capture}/evidence.json") or {}).get("evidence")
    try:
        return parse_evidence(stored) if isinstance(stored, dict) else None
    except (TypeError, ValueError):  # another version may have written the file
        return None


def _read_verdict(job: Job, capture: str) -> Verdict | None:
    evidence = _read_evidence(job.host, capture)
    return verdict_of(evidence) if evidence else None


def find_capture(host: Host, seconds: float, kind: str = "evidence") -> str:
    """Return the id of the job whose capture is younger than `seconds`, or an empty string.

    The kind `evidence` is any capture, even one that a verb took; `capture` is that of a forensics job, to which others
    may attach. A capture of an earlier QEMU process is no evidence about this one.
    """
    known = read_json(f"{host.run_dir}/{kind}.json") or {}
    at = known.get("boottime")
    young = isinstance(at, float) and boottime() - at < seconds and known.get("pid") == read_pid(host)
    return str(known.get("job", "")) if young else ""


def attach_to_capture(host: Host, request: Request, is_named: bool) -> Request | None:
    """Attach a request for evidence to the capture that runs or is fresh enough; None when there is none.

    Return the request to follow. An id that the host agent made itself (not `is_named`) is never sent again, so it is
    not stored, and the request follows the capture's own id. Attaching needs no new process, so a storm of alerts does
    not delay the verbs that act.
    """
    if request.verb != "forensics":
        return None
    running = capture_lock(host).holder(tries=1) or find_capture(host, request.fresh, "capture")
    if running in ("", request.id):
        return None
    if not is_named:
        return replace(request, id=running)
    return request if add_alias(JobStore(host), request.id, running) else None


def capture(job: Job, facts: Facts, until: float) -> tuple[str, Verdict]:
    """Run every probe, print its replies as they come, take the console's picture; judge and keep the evidence.

    Return the VM's state with the verdict, because the VM may have been started meanwhile.
    """
    pid = None if vm_state(facts) == "stopped" else facts.pid
    replies = ask_together(capture_probes(job.host, pid), until - SCREEN_SECONDS, after_cluster(job.host))
    return _judge(job, facts, list(_show_each(job, replies)), until)


def look_briefly(job: Job, facts: Facts, until: float) -> Verdict:
    """Probe for as long as a rescue may wait, and again if a thread or a disk stood still; keep the evidence."""
    state = vm_state(facts)
    pid = None if state == "stopped" else facts.pid
    enough = until - SCREEN_SECONDS
    replies = list(_show_each(job, ask_together(short_probes(job.host, pid, state != "wedged"), enough)))
    evidence = gather_evidence(job.host, facts, replies)
    if pid is not None and (evidence.stuck or frozen_disks(evidence)[0]):
        job.say("forensics: a thread or a disk stands still, so it is watched for 2 s")
        again = second_probes(job.host, pid, state != "wedged", find_storages(replies))
        replies += _show_each(job, ask_together(again, enough))
    return _judge(job, facts, replies, until)[1]


def _judge(job: Job, facts: Facts, replies: list[Reply], until: float) -> tuple[str, Verdict]:
    state = vm_state(facts)
    if state != "stopped":
        replies.append(_take_screen(job, state, min(SCREEN_SECONDS, until - time.monotonic())))
        _show(job, replies[-1])
    evidence = gather_evidence(job.host, facts, replies)
    verdict = verdict_of(evidence) if evidence.state == state else quick_verdict(evidence)
    job.say("\n    ".join([f"verdict: {verdict.sentence}", *verdict.evidence]))
    _keep_evidence(job, replies, evidence, verdict)
    return evidence.state, verdict


def gather_evidence(host: Host, facts: Facts, replies: list[Reply]) -> Evidence:
    """Return the evidence of a capture: the facts of each reply, and the state that was seen first.

    If the VM was started meanwhile, the state is the present one.
    """
    left = find_leftovers(host) if vm_state(facts) == "stopped" else Leftovers()
    facts = left.facts or facts
    known: dict[str, object] = {"state": vm_state(facts), "source": describe_sources(facts), "pid": facts.pid}
    for reply in replies:
        known |= reply.facts
    known["dead_storages"] = dead_storages(replies)
    known["late_storages"] = late_storages(replies)
    known["late_commands"] = late_commands(replies)
    known |= {"leftovers": left.pids, "remains": [describe_process(pid) for pid in left.pids], "vmid": host.vmid}
    known["here"] = node_name()
    known["changes"] = change_lines(replies, boot_change(), time.time())
    known["starter"] = left.starter or known.get("starter", 0)
    return parse_evidence(known)


def _show_each(job: Job, replies: Iterator[Reply]) -> Iterator[Reply]:
    for reply in replies:
        _show(job, reply)
        yield reply


def _show(job: Job, reply: Reply) -> None:
    head = f"== {reply.probe} ({reply.outcome}, {reply.seconds:.2f} s)"
    job.say(f"{head} {reply.text}" if reply.outcome == "absent" else f"{head}\n{reply.text}")


# --- the picture, and the files of a capture --------------------------------------------------------------------


def _take_screen(job: Job, state: str, seconds: float) -> Reply:
    began = time.monotonic()
    if state in ("wedged", "unknown") or seconds <= 0:
        return Reply("screen", "screendump", "failed", 0.0, "not taken: QEMU is silent, or the time is over")
    facts: dict[str, object] = {}
    try:
        outcome, text = "ok", keep_picture(job, seconds)
        facts["screen_text"] = lines = read_text_screen(job.host, text, began + seconds - time.monotonic())
        text = "\n| ".join([text, *lines])  # the mark keeps a row of the guest from looking like a line of the host
    except QmpSilent as error:
        outcome, text = "timed out", str(error)
    except (QmpError, OSError, ValueError) as error:
        outcome, text = "failed", str(error)
    return Reply("screen", "screendump", outcome, round(time.monotonic() - began, 3), text, facts)


def _keep_evidence(job: Job, replies: list[Reply], evidence: Evidence, verdict: Verdict) -> None:
    names = ("probe", "command", "outcome", "seconds")
    manifest = [{name: getattr(reply, name) for name in names} for reply in replies]
    try:
        write_atomic(job.store.path(job.record.id, "manifest.json"), json.dumps(manifest))
        judged_by = {"evidence": evidence.as_json(), "verdict": asdict(verdict)}
        write_atomic(job.store.path(job.record.id, "evidence.json"), json.dumps(judged_by))
        note = json.dumps({"job": job.record.id, "boottime": boottime(), "pid": evidence.pid})
        for kind in ("evidence", "capture") if job.record.verb == "forensics" else ("evidence",):
            write_atomic(f"{job.host.run_dir}/{kind}.json", note)
    except OSError:
        job.warnings.append("the host could not keep the evidence")


def forensics(job: Job, name: str) -> Result:
    """Run the verb `forensics`: the state first, then a capture and its verdict. `name` is the wanted one, or empty."""
    until = time.monotonic() + EVIDENCE_SECONDS
    job.enter("forensics")
    job.check_name(cluster_view(job.host, NAME_SECONDS).name, name)
    facts = observe(job.host)
    job.say(f"state: {vm_state(facts)} ({describe_sources(facts)})")
    state, verdict = capture(job, facts, until)
    return Result(DONE, state, verdict=verdict)


def capture_lock(host: Host) -> Lock:
    """Return the lock that lets one capture of a VM run at a time."""
    return Lock(host, "forensics.lock")

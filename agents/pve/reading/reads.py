"""The answers of the verbs that only read, and of `where`: which node has the VM."""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace

from ..budget import WHERE_SECONDS
from ..check.answer import answer_check
from ..forensics.ha_daemons import find_dead_ha
from ..forensics.quick import judge_status
from ..forensics.screen import answer_screen
from ..grammar import Request
from ..host.bounded import ask_or_none
from ..host.cluster import NOT_ASKED, Cluster, cluster_view, is_stale_copy, node_name, parse_vmlist
from ..host.paths import Host, Key, read_small_file, write_atomic
from ..host.pve_tasks import Holder, flock_holders
from ..host.vmstate import Facts, describe_sources, is_here, observe, observe_stepwise, vm_state
from ..jobs.archive import is_from_before_boot
from ..jobs.history import answer_history, answer_job
from ..jobs.mutex import Lock, fill_reserve
from ..jobs.proven import restore_proven, with_proven
from ..jobs.result import Result, Verdict
from ..jobs.store import JobStore, describe_holder
from ..jobs.told import answer_mark, newest_seen
from ..vm_list import list_of
from ..words import DEADLINE, DEADLINES, DONE, ELSEWHERE, VERSION
from .states import NAMES_SECONDS, answer_states

# --- What `where` answers: which node has the VM, and whether this one has a record of a job's id ---
#
# A handler whose VM may run on several hosts asks each of them before it sends a verb to one. So `where` has to be
# cheap, and a source that hangs delays its answer by less than a second.

PAUSE_SECONDS = 10.0  # the pause after /etc/pve did not answer, because each look that hangs may leave a child behind

_pve_hung_at = float("-inf")


def answer_where(host: Host, job_id: str) -> tuple[str, Result]:
    """Return where the VM is, as this node knows it, and whether this node has a record of the id.

    `here` is this node's name, `node` the name of the node that has the VM; empty if that isn't known. `sure` is `sure`
    if it comes from /etc/pve and this node has a quorum; otherwise a process of the VM is here. `cluster` is null if
    /etc/pve does not answer, `known` if the archive does not, and `process` if /proc does not. While the VM is
    `migrating`, a process is no stale copy, whichever node has the VM.
    """
    known = _has_record(host, job_id) if job_id else None
    view = look_at_cluster(host)
    has_process = ask_or_none(lambda: is_here(host), WHERE_SECONDS / 4)  # after /etc/pve; is_stale_copy says why
    node = ""
    if view.answers and view.quorate:  # without a quorum, /etc/pve may be old: HA may have moved the VM since
        node = node_name() if view.config else view.node
    fields: dict[str, object] = {
        "here": node_name(),
        "node": node or (node_name() if has_process else ""),
        "sure": node != "",
        "process": has_process,
        "migrating": node != "" and view.migrating,
        "cluster": view.cluster if view.answers else None,
        "known": known,
    }
    return f"node: {fields['node'] or 'not known'}", Result(DONE, stage="where", extra=fields)


def look_at_cluster(host: Host) -> Cluster:
    """Return the facts of /etc/pve, in half of WHERE_SECONDS. After it hung, it is left alone for a while."""
    global _pve_hung_at
    if time.monotonic() - _pve_hung_at < PAUSE_SECONDS:
        return Cluster("pmxcfs-hung")
    view = cluster_view(host, WHERE_SECONDS / 2)
    if view.trouble == "pmxcfs-hung":
        _pve_hung_at = time.monotonic()
    return view


def _has_record(host: Host, job_id: str) -> bool | None:
    store = JobStore(host)
    return store.record(job_id) is not None or is_from_before_boot(store, job_id, WHERE_SECONDS / 4)


# --- The verbs that change nothing: a forked child with a deadline answers each ---
#
# A child yields messages: `facts` as they come in (so that a status keeps what it has when its deadline passes),
# output lines, and one result.

Message = dict[str, object]

STOPPED_SECONDS = 1.5  # limits the look at /etc/pve for a stopped VM, even if /etc/pve hangs


def output(text: str, stream: str = "stdout") -> Message:
    """Return the message for lines of output."""
    return {"type": "output", "stream": stream, "text": text.rstrip("\n") + "\n"}


def result_message(result: Result) -> Message:
    """Return the message for a result."""
    return {"type": "result", **result.as_json()}


def read(key: Key, request: Request, bundle: str) -> Iterator[Message]:
    """Yield the messages that answer a reading verb; `bundle` is the SHA-256 of the agent's file."""
    host = key.host(request.vm or 0)
    if request.verb == "ping":
        yield from _ping(key, request, bundle)
    elif request.verb == "status":
        yield from _status(host, request)
    elif request.verb == "history":
        yield from _tell_record(*_named(host, answer_history(host)))
    elif request.verb == "screen":
        yield from _tell_record(*_named(host, answer_screen(host)))
    elif request.verb == "states":
        yield from _tell_record(*answer_states(key, lambda host: _judge_facts(host, observe(host), STOPPED_SECONDS)[1]))
    elif request.verb == "where":
        yield from _tell_record(*answer_where(host, request.id))
    elif request.verb == "check":
        found = answer_check(key, request.vm)
        yield from _tell_record(*(_named(host, found) if request.vm else found))
    elif request.verb in ("told", "seen", "opinion"):
        yield from _tell_record(*answer_mark(host, request))
    else:
        yield from _tell_record(*answer_job(host, request.id))


def _status(host: Host, request: Request) -> Iterator[Message]:
    began, facts = time.monotonic(), Facts()
    for facts in observe_stepwise(host):
        yield {"type": "facts", **asdict(facts)}
    left = DEADLINES["status"] - 0.5 - (time.monotonic() - began)
    view, judged = _judge_facts(host, facts, left)
    result = with_proven(host, request, judged)
    where = f"on node {view.node}; here " if result.state == ELSEWHERE else ""
    yield output(f"{result.state}: {where}{describe_sources(facts)}")
    yield result_message(result)


def _judge_facts(host: Host, facts: Facts, left: float) -> tuple[Cluster, Result]:
    """Return what /etc/pve says of the VM, in the seconds that are left, and the result of a status."""
    seconds, is_off = min(STOPPED_SECONDS, left), vm_state(facts) == "stopped"
    view = NOT_ASKED if seconds <= 0 else cluster_view(host, seconds) if is_off else look_at_cluster(host)
    tells = is_off or is_stale_copy(host, view) or find_dead_ha(view)  # of a running VM, only trouble counts
    result = status_result(host, facts, DONE, view if tells else NOT_ASKED, flock_holders(host) if is_off else [])
    return view, _with_name(result, view)


def status_result(
    host: Host, facts: Facts, exit_code: int, view: Cluster = NOT_ASKED, holders: Sequence[Holder] = ()
) -> Result:
    """Return the result of a status from the facts so far."""
    store = JobStore(host)
    holder_id = Lock(host, "lock").holder()
    holder = describe_holder(store, holder_id) if holder_id else None
    state, heartbeat = vm_state(facts), None
    if exit_code == DEADLINE:
        verdict = Verdict("deadline", f"the host answered only in part: {describe_sources(facts)}", "forensics")
    else:
        state, verdict, heartbeat = judge_status(host, facts, view, holders)
    extra: dict[str, object] = {"heartbeat": heartbeat, "seen": newest_seen(store)}
    return Result(exit_code, state, store.last, "status", verdict, holder, extra=extra)


def _ping(key: Key, request: Request, bundle: str) -> Iterator[Message]:
    """Return this program's identity and the key's VMs, because the handler trusts no other source about a host."""
    view = cluster_view(key.host(request.vm or 0))
    fields = {
        "version": VERSION,
        "bundle": bundle,
        "node": node_name(),
        "vms": str(key.vms),
        "read_only": key.read_only,
        "no_last_words": True,  # this host agent knows the word; an older host agent refuses it
        "names": True,  # this host agent knows `name=`
        "places": ask_or_none(lambda: _find_places(key), NAMES_SECONDS) if view.quorate else None,
        "quorum": view.quorate,
        "cluster": view.cluster if view.answers else None,
        "records": _prepare_records(key),
        "proven": restore_proven(key.root),
        "time": round(time.time(), 3),
    }
    last = JobStore(key.host(request.vm)).last if request.vm else None
    yield output(f"breakglass-pve {VERSION} on node {node_name()} for VM {key.vms}")
    yield result_message(Result(DONE, last=last, stage="ping", extra=fields))


def _find_places(key: Key) -> dict[str, str] | None:
    """Return by node which VMs of the key it has, each as a list of VMs; None if the cluster's list can't be read.

    The handler compares the nodes with its hosts, so that it notices a VM that no host of it has.
    """
    entries, nodes = parse_vmlist(read_small_file(f"{key.root}/etc/pve/.vmlist")), dict[str, list[int]]()
    for vmid, entry in entries.items():
        if vmid in key.vms and not entry.is_container:
            nodes.setdefault(entry.node, []).append(vmid)
    return {node: str(list_of(vmids)) for node, vmids in nodes.items()} if entries else None


def _prepare_records(key: Key) -> bool:
    """Make the place for records, with its reserve, while there is room; tell whether records can be written."""
    place = f"{key.root}/run/breakglass"
    try:
        os.makedirs(place, mode=0o700, exist_ok=True)
        fill_reserve(key.root)
        write_atomic(f"{place}/probe", "can this be written?")
        return True
    except OSError:
        return False


def _named(host: Host, answer: tuple[str | None, Result]) -> tuple[str | None, Result]:
    return answer[0], _with_name(answer[1], look_at_cluster(host))


def _with_name(result: Result, view: Cluster) -> Result:
    """Add Proxmox's name of the VM to a result; None if it is not known."""
    return replace(result, extra={**result.extra, "proxmox_name": view.name})


def _tell_record(text: str | None, result: Result) -> Iterator[Message]:
    if text is not None:
        yield output(text)
    yield result_message(result)

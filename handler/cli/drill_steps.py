"""The steps of a drill: what it sends, and what it accepts as a proof."""

import contextlib
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ..client import Event, HandlerError, Signer, VerbCall, new_id, post
from ..client import call as send
from ..config.server import normal_url, page_link
from .output import CommandError, Progress, say

ID = re.compile(r"drill-([0-9]{8}T[0-9]{6}Z)-[0-9a-f]{12}", re.ASCII)
_RUNNING = re.compile(r"state: \w+ \(pid ([0-9]+);")  # the beginning of a capture's output
_PID = re.compile(r"pid ([0-9]+)")
_EVIDENCE_SECONDS = 60.0  # a capture takes at most 20 s
NOTHING = "nothing was changed"


@dataclass
class Drill:
    """One drill, with its results so far. `vm_fate` says what happened to the VM."""

    signer: Signer
    vm: str
    id: str
    as_json: bool
    is_continued: bool = False
    vm_fate: str = NOTHING
    steps: list[dict[str, object]] = field(default_factory=list)
    capture: str = ""
    page: str = ""  # the page's address for the capture, from the alert's answer
    proven: object = None

    @property
    def again(self) -> str:
        """The command that runs the same drill again."""
        return f"to continue the same drill (it acts at most once): breakglass drill --vm {self.vm} --id {self.id}"

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[list[str]]:
        """Show a finished step with its duration, and with the texts that its block adds to the yielded list."""
        notes: list[str] = []
        began = time.monotonic()
        with Progress(f"drill: {name}"):
            yield notes
        seconds = round(time.monotonic() - began, 1)
        self.steps.append({"step": name, "seconds": seconds, "sentence": "; ".join(notes)})
        if not self.as_json:
            say(f"{seconds:6.1f} s  {name:<9} {'; '.join(notes)}")

    def verb(self, verb: str, msg_id: str = "", again: bool = False, **more: str) -> Event:
        """Run a verb on the VM; raise CommandError unless it is done."""
        request = VerbCall(verb, self.vm, again=again, **more)
        try:
            result = send(self.signer, msg_id or new_id(), request, lambda _: None)
        except HandlerError as error:
            if verb == "cycle" and error.error.get("reached") is False and not error.sent:
                self.vm_fate = f"no cycle of {self.vm} was sent"
            raise
        if result["outcome"] != "done":
            raise Undone(result)
        return result


class Undone(Exception):
    """Raised if a verb is not done; `result` is its answer."""

    def __init__(self, result: Event) -> None:
        super().__init__(str(result["outcome"]))
        self.result = result


# --- one step each ---


def send_alert(one: Drill) -> None:
    """Send an alert as a monitoring system would. Store the started capture's id and page address.

    A handler without [server] url does not know its address, so the address that this command uses is taken.
    """
    match = ID.fullmatch(one.id)
    assert match is not None
    begins = datetime.strptime(match[1], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)  # the same id always has the same begin
    payload = {"status": "firing", "labels": {"drill": one.vm}, "annotations": {"summary": "a drill"}}
    payload |= {"fingerprint": one.id, "starts_at": begins.isoformat()}
    [answer] = post(one.signer, "/alert/generic", new_id(), payload)
    accepted, failed = answer.get("accepted"), answer.get("failed")
    if isinstance(failed, list) and failed:
        raise CommandError(
            f"the host refused the capture: {failed[0].get('code')}", f"breakglass call status --vm {one.vm}"
        )
    if not isinstance(accepted, list) or not accepted:
        hint = f"set drill = true under [vms.{one.vm}] if it may be power-cycled at any time, and reload the handler"
        raise CommandError(f"{one.vm} is not a VM for drills", hint)
    one.capture, page = str(accepted[0].get("job")), accepted[0].get("page")
    own = normal_url(one.signer.url) or f"{one.signer.url}/"
    one.page = str(page or page_link(own, one.vm, one.capture))


def wait_for_evidence(one: Drill) -> tuple[str, str]:
    """Return the QEMU process that the capture saw, and the capture's verdict."""
    until = time.monotonic() + _EVIDENCE_SECONDS
    while True:
        job = one.verb("history", job=one.capture).get("job")
        if isinstance(job, dict) and job.get("outcome"):
            break
        if time.monotonic() > until:
            raise CommandError(f"the capture {one.capture} did not end", f"breakglass call history --job {one.capture}")
        time.sleep(0.5)
    verdict, output = job.get("verdict"), str(job.get("output"))
    if job["outcome"] != "done" or not isinstance(verdict, dict) or not output:
        raise CommandError(
            f"the capture is {job['outcome']}, without evidence", f"breakglass call forensics --vm {one.vm}"
        )
    match = _RUNNING.search(output)
    return match[1] if match else "", str(verdict.get("code"))


def prove(one: Drill, before: str, cycle: Event) -> list[str]:
    """Return what proves that the cycle was real. Raises CommandError if something contradicts it."""
    status = one.verb("status")
    found = _PID.search(str(status.get("stdout")))
    if status["state"] != "running" or found is None:
        raise CommandError(f"{one.vm} is {status['state']} after the cycle", f"breakglass call start --vm {one.vm}")
    if found[1] == before:
        raise CommandError(
            f"QEMU is the same process as before the cycle, {before}",
            "report this, because a cycle has to end that process",
        )
    history = one.verb("history", job=one.id)
    job, place, chain = history.get("job"), cycle.get("chain"), history.get("chain")
    if not isinstance(job, dict) or (job.get("verb"), job.get("outcome")) != ("cycle", "done"):
        raise CommandError("history does not list the cycle as done", "breakglass-pve check, on the host as root")
    if not isinstance(place, dict) or not isinstance(chain, dict) or not is_in_chain(place, chain):
        raise CommandError("the chain of jobs does not contain the cycle", "breakglass-pve check, on the host as root")
    new = f"process {found[1]} of QEMU runs" + (f", {before} has ended" if before else "")
    return [
        "it runs again",
        new,
        f"line {place['n']} of the chain of {place['node']} is this job",
        "the job's record says done",
    ]


def is_in_chain(place: Mapping[str, object], chain: Mapping[str, object]) -> bool:
    """Return whether the chain is unbroken and has the job's line at its place."""
    hashes, newest, number = chain.get("hashes"), chain.get("n"), place.get("n")
    if chain.get("broken") or not (isinstance(hashes, list) and isinstance(newest, int) and isinstance(number, int)):
        return False
    back = newest - number + 1
    return 1 <= back <= len(hashes) and hashes[-back] == str(place.get("head"))[:16]


def read_proven(one: Drill, cycle: Event) -> str:
    """Return when and by whom the host was proven, from the job. Raises CommandError unless by this drill.

    A status is not enough, because a doctor may have proven the host since.
    """
    proven, began = cycle.get("proven"), str(cycle.get("started"))
    if not isinstance(proven, dict) or proven.get("how") != "drill" or str(proven.get("at")) < began:
        raise CommandError("the host could not record that it is proven", "on the host: df /run; df -i /run")
    one.proven = proven
    return f"{one.vm} and its host are proven: {proven['at']}, by {proven['by']}"

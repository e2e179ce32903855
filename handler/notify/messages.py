"""What a message says, and the body that each kind of receiver takes. Pure.

A host's text is put on one line and cut. A guest's own words are in a message only for a receiver that wants them.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from urllib.parse import urlsplit

from ..agents.pve.words import LAST_WORDS
from ..auth.signing import secret_bytes, sign
from ..base.text import plain_line
from ..base.times import rfc3339
from ..base.verbs import CALM, VERBS
from ..base.verdict import Verdict, read_verdict
from ..config.notify import FAILED, NTFY, OUTCOME, READY, REPORT, VERDICT, Recipient
from ..config.server import page_link

OPINION = "opinion"  # the stage of a verdict's message that has a second opinion too
_SENTENCE, _WORDS = 300, 600  # characters
_PRIORITY = {"urgent": 4, "plain": 3, "quiet": 1}  # priorities of ntfy, where 1 makes no sound


@dataclass(frozen=True)
class Message:
    """One message. Of two messages with one `key`, the newer replaces the older if the receiver can do that.

    `key` and `stage` together name the message, however often it is sent. `events`: a receiver that wants one of them
    gets it. `guest` is what it says in the words of the guest or of a model that has read them. It is left out unless
    the receiver wants that, and a message whose stage is OPINION is not sent then.
    `one_of`: who wants messages about this VM gets it, although it is about several. `is_over`: nothing is left to do.
    """

    key: str
    stage: str
    events: tuple[str, ...]
    vm: str
    title: str
    text: str
    link: str = ""
    guest: str = ""
    is_urgent: bool = True
    code: str = ""
    one_of: str = ""
    is_over: bool = False

    def wanted_by(self, receiver: Recipient) -> bool:
        """Tell whether a receiver gets this message."""
        is_wanted = any(receiver.wants(event, self.one_of or self.vm) for event in self.events)
        return is_wanted and (receiver.guest_text or self.stage != OPINION)

    def text_for(self, receiver: Recipient) -> str:
        """Return the text for one receiver."""
        return f"{self.text} {self.guest}" if self.guest and receiver.guest_text else self.text


def verdict_message(vm: str, key: str, job: Mapping[str, object], urls: Sequence[str]) -> Message:
    """Return the message about a capture that has ended; `key` is its id, and `job` what its host knows of it."""
    found = read_verdict(job)
    sentence, advice, at = _sentence(found), found.advice, str(job.get("started"))[11:16]
    helps = f" {advice.capitalize()} helps." if advice in VERBS and VERBS[advice].mutating else ""
    words = job.get("last_words")
    log = " / ".join(map(str, words[-5:])) if isinstance(words, list) else ""
    # of a panic, the last lines of the log are registers, so the line that the verdict chose says more
    last = plain_line(found.sentence.partition(LAST_WORDS)[2] or log)[-_WORDS:]
    said = [f"Last words: {last}"] if last else []
    opinion = job.get("opinion")
    if isinstance(opinion, dict):
        said.append(
            f"Claude, {plain_line(str(opinion.get('at')))[11:16]}: {plain_line(str(opinion.get('text')))[:_SENTENCE]}"
        )
    return Message(
        key=key,
        stage=VERDICT,
        events=(VERDICT,),
        vm=vm,
        title=f"{vm} at {plain_line(at)} UTC",
        text=f"{sentence[:1].upper()}{sentence[1:]}.{helps}",
        link=page_link(urls[0], vm, key) if urls else "",
        guest=" ".join(said),
        is_urgent=found.code not in CALM,
        code=found.code,
    )


def summary_message(jobs: Sequence[tuple[str, str]], urls: Sequence[str]) -> Message:
    """Return the one message about many captures: the VM and the job of each. The same receivers want each VM."""
    vms = ", ".join(dict.fromkeys(vm for vm, _ in jobs))
    key = hashlib.sha256("".join(sorted(job for _, job in jobs)).encode()).hexdigest()[:32]
    text = f"{len(jobs)} captures have ended, and no message was sent about them: {vms[:_SENTENCE]}."
    link, title = urls[0] if urls else "", "Evidence was collected"
    return Message(f"summary-{key}", VERDICT, (VERDICT,), "", title, text, link, one_of=jobs[0][0])


def outcome_message(
    vm: str, answer: Mapping[str, object], reason: str, key: str, is_drill: bool, urls: Sequence[str]
) -> Message:
    """Return the message about a verb that has ended; `key` is the key of the message that this one replaces."""
    verb, outcome, caller, job = (plain_line(str(answer[name]))[:64] for name in ("verb", "outcome", "by", "id"))
    found, is_good = read_verdict(answer), outcome == "done"
    why = f" ({plain_line(reason)[:_SENTENCE]})" if reason else ""
    state = f" The VM is {plain_line(str(answer.get('state')))[:32]}." if answer.get("state") != "unknown" else ""
    sentence = f" {_sentence(found)}." if found.sentence else ""
    events = (OUTCOME,) if is_good else (OUTCOME, FAILED)
    return Message(
        key=key or job,
        stage=f"{job[-24:]}-{outcome}",
        events=(*events, *(["drill"] if is_drill and not is_good else [])),
        vm=vm,
        title=f"{vm}: {verb} {outcome}",
        text=f"{caller}{why}: {verb} {outcome}.{state}{sentence}",
        link=page_link(urls[0], vm, job) if urls else "",
        is_urgent=not is_good,
        code=found.code,
        is_over=is_good,
    )


def ready_message(key: str, reasons: Sequence[str], urls: Sequence[str]) -> Message:
    """Return the message that the handler is not ready or, if there is no reason, that it is ready again."""
    text = plain_line(" ".join(reasons))[:_WORDS] or "The handler is ready again."
    title = "Breakglass is not ready" if reasons else "Breakglass is ready again"
    stage, is_over = ("lost", False) if reasons else ("back", True)
    link = urls[0] if urls else ""
    return Message(key, stage, (READY,), "", title, text, link, is_urgent=not is_over, is_over=is_over)


def report_message(day: date, found: Mapping[str, str], receiver: Recipient, urls: Sequence[str]) -> Message:
    """Return the message of a morning, with one line for each VM; its text is empty if nothing happened."""
    lines = [f"{vm}: {text}" if vm else text for vm, text in found.items() if receiver.wants(REPORT, vm)]
    text = "\n".join(plain_line(line)[:_SENTENCE] for line in lines)[: 2 * _WORDS]
    title, link = f"Breakglass, the report of {day}", urls[0] if urls else ""
    return Message(f"report-{day}", REPORT, (REPORT,), "", title, text, link, is_urgent=False)


def _sentence(verdict: Verdict) -> str:
    """Return a verdict's sentence without the guest's words at its end."""
    return verdict.sentence.partition(LAST_WORDS)[0][:_SENTENCE].rstrip(" .") or "no verdict"


# --- The request that carries a message ---


def request_for(message: Message, receiver: Recipient, now: float, is_quiet: bool) -> tuple[str, bytes, dict[str, str]]:
    """Return the URL, the body and the headers for ntfy or a webhook."""
    headers = {"content-type": "application/json", "user-agent": "breakglass"}
    if receiver.to == NTFY:
        loudness = "urgent" if message.is_urgent else "quiet" if is_quiet else "plain"
        return receiver.url, _ntfy_body(message, receiver, _PRIORITY[loudness]), headers | _login(receiver)
    msg_id = f"{message.key}_{message.stage}"
    body = _encoded(
        {
            "type": f"breakglass.{message.events[0]}",
            "timestamp": rfc3339(now),
            "data": {
                "key": message.key,
                "stage": message.stage,
                "vm": message.vm,
                "title": message.title,
                "text": message.text_for(receiver),
                "url": message.link,
                "code": message.code,
                "urgent": message.is_urgent,
                "quiet": is_quiet,
            },
        }
    )
    signature = sign(secret_bytes(receiver.secret), msg_id, int(now), body)
    headers |= {"webhook-id": msg_id, "webhook-timestamp": str(int(now)), "webhook-signature": signature}
    return receiver.url, body, headers


def clearing_for(message: Message, receiver: Recipient) -> tuple[str, bytes, dict[str, str]]:
    """Return the URL, the body and the headers of the PUT with which ntfy 2.16 takes a message off the screens.

    The message stays in the list of its topic.
    """
    return f"{receiver.url.rstrip('/')}/{receiver.topic}/{message.key}/clear", b"", _login(receiver)


def _login(receiver: Recipient) -> dict[str, str]:
    return {"authorization": f"Bearer {receiver.secret}"} if receiver.secret else {}


def _ntfy_body(message: Message, receiver: Recipient, priority: int) -> bytes:
    """Return the JSON that ntfy takes at its root (ntfy's docs, publish.md). Its button only opens the page."""
    fields: dict[str, object] = {"topic": receiver.topic, "title": message.title, "message": message.text_for(receiver)}
    fields |= {"priority": priority, "sequence_id": message.key}
    if message.link:
        fields |= {"click": message.link, "actions": [{"action": "view", "label": "Open", "url": message.link}]}
    return _encoded(fields)


def _encoded(fields: Mapping[str, object]) -> bytes:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def head_of(method: str, url: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    """Return a request's bytes. The caller has checked that `url` is valid and that no header contains a line break."""
    parts = urlsplit(url)
    lines = [f"{method} {parts.path or '/'} HTTP/1.1", f"host: {parts.netloc.rpartition('@')[2]}", "connection: close"]
    lines += [f"content-length: {len(body)}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + body

"""The report of a night, from nights as their hosts remember them."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from breakglass.report.night import Night, compose_report, read_job
from breakglass.report.render import render_html, render_markdown

from ..support.record import check_record

UNTIL = datetime(2026, 12, 1, 8, tzinfo=UTC)
PNG = "iVBORw0KGgo="
BEFORE = "Proxmox's statistics show no disk write since 02:57 UTC (5 min ago)"
PANIC = "the guest's kernel panicked: look at the console, then reset it"


def job(at: str, verb: str, outcome: str | None = "done", **more: Any) -> dict[str, Any]:
    """A job that began at a time of the night. `code` and `sentence` are those of its verdict, `evidence` its lines."""
    verdict = {name: more.pop(name, "") for name in ("code", "sentence")} | {"evidence": more.pop("evidence", [])}
    name = f"msg_{at[:8]}".replace(":", "")
    listed = {"id": name, "verb": verb, "by": "anna", "why": "", "seconds": 3.2, "outcome": outcome}
    return listed | {"started": f"2026-12-01T{at}Z", "verdict": verdict if verdict["code"] else None} | more


def alert(at: str, code: str, sentence: str, **more: Any) -> dict[str, Any]:
    name = f"alert-{at}".replace(":", "")
    return job(at, "forensics", id=name, by="prometheus", code=code, sentence=sentence, **more)


def healthy(at: str, **more: Any) -> dict[str, Any]:
    return job(at, "forensics", code="healthy", sentence="the guest completes disk requests", **more)


HUGE = (float("inf"), float("nan"), 1e300, 10**400)
RESET = job("03:04:10", "reset", why="it panicked")
# each night's jobs, newest first as hosts list them
NIGHTS: dict[str, list[Any]] = {
    "a guest that lives": [job("03:00:00", "forensics", code="guest-alive", sentence="s")],
    "an alert, a reset, healthy": [
        healthy("03:05:00", evidence=["the guest's kernel answered 9 s ago"], screen_png=PNG),
        RESET,
        alert(
            "03:02:00",
            "qemu-guest-panicked",
            PANIC,
            evidence=[BEFORE],
            last_words=["a", "Kernel panic"],
            opinion={"text": "reset, <b>because</b>\x1b it panicked", "at": "2026-12-01T03:02:40Z"},
            seen=[{"by": "anna", "at": "2026-12-01T03:03:00Z"}],
            screen_png=PNG,
        ),
    ],
    "nothing": [],
    "a look alone": [healthy("01:00:00")],
    "only an alert": [alert("03:00:00", "guest-hung", "h")],
    "no look after the verb": [RESET],
    "a verb that failed": [job("03:00:00", "cycle", "failed", code="stranded", sentence="the VM is off")],
    "a verb under way": [job("07:59:00", "stop", None, seconds=60.0)],
    "a verb that was refused": [
        healthy("03:02:00"),
        job("03:00:00", "cycle", "refused", code="storage-hung", sentence="s"),
    ],
    "another had it": [healthy("03:02:00"), job("03:00:00", "reset", "busy", code="vm-held", sentence="bob: cycle")],
    "a cycle of the night before": [healthy("00:10:00"), job("00:00:00", "cycle", seconds=76.2)],
    "a start": [healthy("00:10:00"), job("00:00:00", "start")],
    "a quick job": [healthy("00:00:00", seconds=0.4)],
    "two verbs": [
        healthy("03:09:00", evidence=["the guest's kernel answered 1 s ago"]),
        job("03:06:00", "cycle"),
        RESET,
    ],
    "a heartbeat from before the verb": [healthy("03:05:00", evidence=["the guest's kernel answered 99 s ago"]), RESET],
    "words twice": [
        alert("03:05:00", "guest-hung", "h", last_words=["new"]),
        alert("03:00:00", "guest-hung", "h", last_words=["old"]),
    ],
    "an injected heading": [job("03:00:00", "reset", why="x\n# you are root\n")],
    "an injected link": [job("03:00:00", "reset", why="[a](http://b)")],
    "an entity": [job("03:00:00", "reset", why="&#x202e;")],
    "an injected tag": [job("03:00:00", "reset", why="<script>")],
    "escapes of a terminal": [job("03:00:00", "reset", why="\x1b[31m\u202e")],
    "a guest's words with marks": [alert("03:00:00", "guest-hung", "h", last_words=["# x", "\x1b"])],
    "a job without a time": [job("03:00:00", "reset", started="yesterday"), healthy("02:00:00")],
    "a time without a zone": [job("03:00:00", "reset", started="2026-12-01T03:00:00")],
    "fields of the wrong kind": [job("03:00:00", "reset", verdict=[1], seconds="x", seen=3, last_words={}, by=None)],
    "a verb that is not known": [job("03:00:00", "ex*plode")],
    "lines in words": [job("03:00:00", "reset", "no\n\n# root\x1b", by="x\n\n    y", why="half \ud800")],
    "an id with a line of the protocol": [job("03:00:00", "reset", id="msg_0\n9 cycle vm=100 id=msg_00000 by=x")],
    "no verb, no id, no job": [{"id": "msg_00000"}, {"verb": "reset"}, 3],
    "numbers that no clock has": [
        *(healthy("03:05:00", seconds=many, evidence=["the guest's kernel answered 1 s ago"]) for many in HUGE),
        healthy("03:05:00", evidence=[f"the guest's kernel answered {'9' * 5000} s ago"]),
        RESET | {"seen": [{"by": "x", "at": "0001-01-01T00:00:00+14:00"}]},
        RESET | {"started": "9999-12-31T23:59:59-14:00"},
    ],
    "no picture after": [healthy("03:05:00"), RESET, alert("03:02:00", "guest-hung", "h", screen_png=PNG)],
}


FACTS = {
    "only an alert": "the last verdict is guest-hung, and no verb came after it",
    "no look after the verb": "no evidence was taken after the last reset",
    "a verb that failed": "cycle msg\\_030000 is failed",
    "a verb under way": "stop msg\\_075900 is running",
    "a verb that was refused": "power-cycle, anna: refused after 3 s",
    "another had it": "reset, anna: busy after 3 s. bob: cycle",
    "an alert, a reset, healthy": "reset, anna (it panicked): done after 3 s",
    "two verbs": "the guest's kernel answers, at most 182 s later",
    "nothing": "Nothing happened to devvm.",
}
OPEN = set(list(FACTS)[:4])


def test_the_facts_of_a_night() -> None:
    """tests/data/nights.txt has each report. What hosts, guests and callers wrote is text there, and no markup."""
    found = ""
    for name, jobs in NIGHTS.items():
        known = [job for job in map(read_job, reversed(jobs)) if job]
        text = render_markdown(compose_report([Night("devvm", known)], UNTIL - timedelta(hours=8), UNTIL))
        assert text.replace("\n", "").isprintable(), name
        assert re.findall(r"(?<!\\)[<>]|(?<!\\)\[|http://|^# (?!Breakglass)", text, re.MULTILINE) == [], name
        assert FACTS.get(name, "") in text
        assert name not in FACTS or ("Still open" in text) == (name in OPEN), name
        assert ("answers, at most" in text) == (name in ("an alert, a reset, healthy", "two verbs")), name
        found += f"<!-- {name} -->\n{text}\n"
    check_record("tests/data/nights.txt", found)


def test_the_file_loads_nothing_and_has_its_pictures() -> None:
    """What hosts and callers wrote is text there, and a picture that is not base64 is left out."""
    jobs = [RESET | {"why": '"><img src=x>', "screen_png": '"onload="x'}, healthy("03:05:00", screen_png=PNG)]
    page = render_html(compose_report([Night("devvm", jobs)], UNTIL - timedelta(hours=8), UNTIL))
    assert re.findall(r"src=[^ >]*", page.partition("</style>")[2].replace("&lt;img src=x&gt;", "")) == [
        'src="data:image/png;base64,"', f'src="data:image/png;base64,{PNG}"']  # fmt: skip
    assert "<img src=x" not in page
    assert "default-src 'none'; img-src data:" in page


def test_a_host_that_does_not_tell() -> None:
    blocks = compose_report([Night("a", [], "This report is incomplete, because x."), Night("b", [])], UNTIL, UNTIL)
    text = render_markdown(blocks)
    assert "Nothing is known of a. Nothing happened to b." in text
    assert "## a\n\nThis report is incomplete, because x." in text

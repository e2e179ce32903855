"""The report of a night, from nights as their hosts remember them."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from breakglass.report.night import Night, compose_report, read_job
from breakglass.report.render import render_html, render_markdown

from ..support.record import check_record
from ..support.rows import read_rows

UNTIL = datetime(2026, 12, 1, 8, tzinfo=UTC)
PNG = "iVBORw0KGgo="


# each night's jobs, newest first as hosts list them
BASE = {"by": "anna", "why": "", "seconds": 3.2, "outcome": "done", "verdict": None}
NIGHTS: dict[str, list[Any]] = {
    name: [BASE | job if isinstance(job, dict) and "started" in job else job for job in jobs]
    for name, jobs in read_rows("night_jobs.yaml")["nights"].items()
}
HEALTHY, RESET = NIGHTS["an alert, a reset, healthy"][:2]
NIGHTS["numbers that no clock has"] = [
    *(HEALTHY | {"seconds": many} for many in (float("inf"), float("nan"), 1e300, 10**400)),
    HEALTHY | {"verdict": HEALTHY["verdict"] | {"evidence": [f"the guest's kernel answered {'9' * 5000} s ago"]}},
    RESET | {"seen": [{"by": "x", "at": "0001-01-01T00:00:00+14:00"}]},
    RESET | {"started": "9999-12-31T23:59:59-14:00"},
]


OPEN = {"only an alert", "no look after the verb", "a verb that failed", "a verb under way"}
ANSWERED = {"an alert, a reset, healthy", "two verbs"}
CLOSED = {*ANSWERED, "a verb that was refused", "another had it", "nothing"}


def test_the_facts_of_a_night() -> None:
    """tests/data/nights.txt has each report. What hosts, guests and callers wrote is text there, and no markup."""
    found = ""
    for name, jobs in NIGHTS.items():
        known = [job for job in map(read_job, reversed(jobs)) if job]
        text = render_markdown(compose_report([Night("devvm", known)], UNTIL - timedelta(hours=8), UNTIL))
        assert text.replace("\n", "").isprintable(), name
        assert re.findall(r"(?<!\\)[<>]|(?<!\\)\[|http://|^# (?!Breakglass)", text, re.MULTILINE) == [], name
        assert ("answers, at most" in text) == (name in ANSWERED), name
        assert name not in OPEN | CLOSED or ("Still open" in text) == (name in OPEN), name
        found += f"<!-- {name} -->\n{text}\n"
    check_record("tests/data/nights.txt", found)


def test_the_file_loads_nothing_and_has_its_pictures() -> None:
    """What hosts and callers wrote is text there, and a picture that is not base64 is left out."""
    jobs = [RESET | {"why": '"><img src=x>', "screen_png": '"onload="x'}, HEALTHY]
    page = render_html(compose_report([Night("devvm", jobs)], UNTIL - timedelta(hours=8), UNTIL))
    assert re.findall(r"src=[^ >]*", page.partition("</style>")[2].replace("&lt;img src=x&gt;", "")) == [
        'src="data:image/png;base64,"', f'src="data:image/png;base64,{PNG}"']  # fmt: skip
    assert "<img src=x" not in page
    assert "default-src 'none'; img-src data:" in page


def test_a_host_that_does_not_tell() -> None:
    blocks = compose_report([Night("a", [], "This report is incomplete, because x."), Night("b", [])], UNTIL, UNTIL)
    text = render_markdown(blocks)
    assert ("known of a." in text, "happened to b." in text, "## a\n\nThis report" in text) == (True, True, True)

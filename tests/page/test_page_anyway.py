"""The page's view of a running job, and the override button after a refusal, which only the host can offer."""

import re
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from breakglass.agents.pve.words import ANYWAY

from ..support.browser import (
    Stage,
    Visit,
    ask,
    axe_finds_in_both_schemes,
    confirm,
    phase,
    press,
    text_of,
    wait_for_text,
)
from ..support.scripted import HUNG, STORAGE_HUNG, Scripted, output, result, scripted, stage
from ..support.selection import sampled

pytestmark = pytest.mark.real("chromium", "sshd", "qemu")
OFFER = "#outcome-act[data-act=anyway]"
PLACES = "() => [...document.querySelectorAll('[data-verb]')].map(b => b.getBoundingClientRect().y + scrollY)"


@pytest.fixture(scope="module")
def host(stage: Stage) -> Iterator[Scripted]:
    stage.settle()
    with scripted(stage.world, stage.sshd, stage.service) as script:
        yield script


@pytest.fixture
def page(stage: Stage, host: Scripted) -> Iterator[tuple[Page, Visit]]:
    """An operator at the page, on a host where the VM's storage hangs."""
    host.say(STORAGE_HUNG)
    visit = Visit(stage)
    try:
        yield visit.open(), visit
    finally:
        visit.close()


def local(since: str, seconds: float) -> str:
    """Return a time of the host as the page shows it."""
    return f"{datetime.fromisoformat(since).astimezone() + timedelta(seconds=seconds):%H:%M:%S}"


# --- anyway ---


@pytest.mark.parametrize(
    ("verb", "label"), sampled([("reset", "Reset"), ("cycle", "Power-cycle")], ("cycle", "Power-cycle"))
)
def test_a_refusal_offers_what_the_host_offers(page: tuple[Page, Visit], host: Scripted, verb: str, label: str) -> None:
    """A refusal shows one button, named for the verb, and its dialog says what may be lost.

    Esc changes nothing and returns the focus to the button. A script's press does nothing. A look at the VM ends the
    offer, because it may be wrong now, and the host must offer it again. A yes sends the verb once with `anyway`, under
    a new id, and bound to the state that the page showed.
    """
    at, visit = page
    confirm(at, verb)
    phase(at, "refused")
    button = at.locator(OFFER)
    expect(button).to_have_text(f"{label} anyway…")
    button.click()
    at.evaluate("() => document.getElementById('yes').click()")
    at.keyboard.press("Escape")
    at.wait_for_selector("#confirm", state="hidden")
    assert at.evaluate("() => document.activeElement.dataset.act") == "anyway"
    press(at, "status")
    phase(at, "idle")
    expect(button).to_be_hidden()
    assert len(visit.mutating) == 1
    confirm(at, verb)
    phase(at, "refused")
    button.click()
    at.wait_for_selector("#yes[aria-disabled=false]")
    assert text_of(at, "confirm-title") == f"{label} devvm anyway?"
    assert f"Unsaved work in the VM. {ANYWAY['storage-hung']}" in text_of(at, "confirm-facts")
    assert at.evaluate("() => document.activeElement.id") == "keep"
    at.click("#yes")
    phase(at, "done")
    expect(button).to_be_hidden()
    first, again, last = visit.mutating
    assert (again, last) == (first, {**first, "anyway": "storage-hung"})
    ids = [re.search(r" id=(\S+)", line) for line in host.asked(verb)]
    assert len({each[1] for each in ids if each}) == 3
    assert all(each and each[1].startswith("msg_") for each in ids)


def test_each_refusal_that_can_be_lifted_says_what_that_costs(page: tuple[Page, Visit], host: Scripted) -> None:
    """For `would-not-start`, the dialog has its cost, and the request has its code."""
    at, visit = page
    verdict = {**HUNG, "code": "would-not-start", "sentence": "the VM was not stopped, because a start would fail"}
    refused = result(12, "refused", verdict=verdict, stage="preflight", anyway="would-not-start")
    host.say([("anyway=would-not-start", [result()]), ("cycle", [refused]), ("", [result(jobs=[])])])
    confirm(at, "cycle")
    phase(at, "refused")
    at.click(OFFER)
    at.wait_for_selector("#yes[aria-disabled=false]")
    assert f"Unsaved work in the VM. {ANYWAY['would-not-start']}" in text_of(at, "confirm-facts")
    at.click("#yes")
    phase(at, "done")
    assert visit.mutating[-1]["anyway"] == "would-not-start"


OFFERS: tuple[Any, ...] = (None, "", "locked", "constructor", True, ["storage-hung"])


@pytest.mark.all
def test_a_refusal_with_another_offer_has_no_button(page: tuple[Page, Visit], host: Scripted) -> None:
    """There is no button after a refusal without an offer, or with an unknown one."""
    at, _ = page
    for offer in OFFERS:
        host.say([("reset", [result(12, "refused", verdict=HUNG, anyway=offer)]), ("", [result(jobs=[])])])
        confirm(at, "reset")
        phase(at, "refused")
        expect(at.locator(OFFER)).to_be_hidden()
        press(at, "status")
        phase(at, "idle")


def test_start_of_a_running_vm_sends_no_anyway_field(page: tuple[Page, Visit], host: Scripted) -> None:
    """While the VM runs, Start works and says why it is pointless, and its dialog says `anyway`.

    The word is about the page's own knowledge. The request has no such field.
    """
    at, visit = page
    assert text_of(at, "start-more") == "It is running"
    assert at.get_attribute("[data-verb=start]", "aria-describedby") == "start-more"
    ask(at, "start")
    assert text_of(at, "confirm-title") == "Start devvm anyway?"
    at.click("#yes")
    phase(at, "done")
    assert ["anyway" in body for body in visit.mutating] == [False]
    assert "anyway" not in host.asked("start")[0]


@pytest.mark.all
def test_the_anyway_button_and_its_dialog_pass_axe(page: tuple[Page, Visit]) -> None:
    """axe-core finds nothing in the button or its dialog.

    Both are 48 px high, no wider than the screen, and move no verb's button.
    """
    at, _ = page
    before = at.evaluate(PLACES)
    confirm(at, "reset")
    phase(at, "refused")
    assert at.evaluate(PLACES) == before
    found = axe_finds_in_both_schemes(at, "refused, with an offer")
    box = at.locator(OFFER).bounding_box()
    assert box
    assert box["height"] >= 48
    at.set_viewport_size({"width": 320, "height": 740})
    assert at.evaluate("() => document.documentElement.scrollWidth") <= 320
    at.click(OFFER)
    at.wait_for_selector("#yes[aria-disabled=false]")
    assert axe_finds_in_both_schemes(at, "its dialog") + found == []
    assert at.evaluate("() => document.documentElement.scrollWidth") <= 320


# --- the stages ---


def test_a_running_verb_shows_its_stage_and_deadline(page: tuple[Page, Visit], host: Scripted) -> None:
    """While a verb runs, the page shows its stage and the latest time of its end, both from the host.

    Lines of an unknown type are no error, and no verb's button moves.
    """
    at, _ = page
    begun = stage("preflight", 420)
    later = {**begun, "stage": "forensics", "deadline": 480.0}
    host.say(
        [
            ("cycle", [begun, output("a\n"), {"wait": "go-2"}, later, {"wait": "go-3"}, result(deadline=480.0)]),
            ("", [result(jobs=[])]),
        ]
    )
    before = at.evaluate(PLACES)
    at.clock.set_fixed_time(time.time())  # however late the test looks, the stage is young
    confirm(at, "cycle")
    wait_for_text(at, "why", f"it ends by {local(begun['started'], 420)}.")
    assert text_of(at, "outcome-word") == "Power-cycle sent"
    expect(at.locator("#steps li")).to_have_text(["Evidence", "Stop", "Start", "Check"])
    assert at.evaluate(PLACES) == before
    host.let_go("go-2")
    wait_for_text(at, "why", f"it ends by {local(begun['started'], 480)}.")
    assert text_of(at, "outcome-word") == "Power-cycle: evidence"
    assert re.fullmatch(r"\d+ s, usually up to 20 s", text_of(at, "outcome-timer"))
    expect(at.locator("#steps [data-tone=busy]")).to_have_text("Evidence")
    assert at.evaluate(PLACES) == before
    host.let_go("go-3")
    phase(at, "done")
    expect(at.locator("#steps [data-tone=good]").first).to_contain_text("Evidence")


@pytest.mark.all
def test_lines_of_an_unknown_type_are_ignored(page: tuple[Page, Visit]) -> None:
    """A newer handler may send more types of lines. They are ignored, and the result counts."""
    at, _ = page
    lines = '{"type":"accepted"}\n{"type":"mood","text":"fine"}\n{"type":"stage"}\n{}\n'
    lines += '{"type":"result","verb":"reset","outcome":"done","reached":true,"state":"running","last":"none"}\n'
    at.route("**/pve", lambda route: route.fulfill(status=200, content_type="application/x-ndjson", body=lines))
    confirm(at, "reset")
    phase(at, "done")
    at.unroute("**/pve")


@pytest.mark.all
def test_a_busy_answer_shows_the_holder_and_its_deadline(page: tuple[Page, Visit], host: Scripted) -> None:
    """The holder's deadline counts from when it began."""
    at, _ = page
    holder = {
        "job": "msg_other000",
        "verb": "cycle",
        "by": "operator2",
        "since": stage("x")["started"],
        "stage": "stop",
        "deadline": 420.0,
    }
    host.say([("reset", [result(11, "busy", holder=holder)]), ("", [result(jobs=[])])])
    confirm(at, "reset")
    phase(at, "busy")
    since, by = (local(str(holder["since"]), seconds) for seconds in (0, 420))
    doing = f"operator2 has been power-cycling it since {since}"
    wait_for_text(at, "dock", f"{doing}; the job ends by {by} (stage: stop).")

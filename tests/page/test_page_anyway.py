"""The page's view of a running job, and the override button after a refusal, which only the host can offer."""

import re
import time
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
from playwright.sync_api import Page, expect

from breakglass.agents.pve.words import ANYWAY

from ..support.browser import Stage, Visit, confirm, phase, press, text_of, wait_for_text
from ..support.scripted import STORAGE_HUNG, Scripted, output, result, scripted, stage

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


def test_a_refusal_offers_what_the_host_offers(page: tuple[Page, Visit], host: Scripted) -> None:
    """A refusal shows one button, named for the verb, and its dialog says what may be lost.

    Esc changes nothing and returns the focus to the button. A script's press does nothing. A look at the VM ends the
    offer, because it may be wrong now, and the host must offer it again. A yes sends the verb once with `anyway`, under
    a new id, and bound to the state that the page showed.
    """
    at, visit = page
    confirm(at, "cycle")
    phase(at, "refused")
    button = at.locator(OFFER)
    expect(button).to_have_text("Power-cycle anyway…")
    button.click()
    at.evaluate("() => document.getElementById('yes').click()")
    at.keyboard.press("Escape")
    at.wait_for_selector("#confirm", state="hidden")
    assert at.evaluate("() => document.activeElement.dataset.act") == "anyway"
    press(at, "status")
    phase(at, "idle")
    expect(button).to_be_hidden()
    assert len(visit.mutating) == 1
    confirm(at, "cycle")
    phase(at, "refused")
    button.click()
    at.wait_for_selector("#yes[aria-disabled=false]")
    assert text_of(at, "confirm-title") == "Power-cycle devvm anyway?"
    assert f"Unsaved work in the VM. {ANYWAY['storage-hung']}" in text_of(at, "confirm-facts")
    assert at.evaluate("() => document.activeElement.id") == "keep"
    at.click("#yes")
    phase(at, "done")
    expect(button).to_be_hidden()
    first, again, last = visit.mutating
    assert (again, last) == (first, {**first, "anyway": "storage-hung"})
    ids = [re.search(r" id=(\S+)", line) for line in host.asked("cycle")]
    assert len({each[1] for each in ids if each}) == 3
    assert all(each and each[1].startswith("msg_") for each in ids)


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

"""The page on a device that slept, with a kept key: its own actions, and its questions before them."""

import re

import pytest
from playwright.sync_api import Page, Route, expect

from ..support.browser import (
    KEPT_KEYS,
    Visit,
    confirm,
    fall_asleep,
    forget_key,
    held_requests,
    keep_key,
    open_key,
    phase,
    see_headline,
    wait_for,
    wake,
)
from ..support.stages import until

pytestmark = pytest.mark.real("chromium", "sshd", "qemu")
ASK_AGAIN = "#outcome-act[data-act=ask-again]"


def looks_of(visit: Visit) -> list[str]:
    """Return the reasons of the evidence that the page has asked for."""
    return [body.get("reason", "") for body in visit.posts if body.get("verb") == "forensics"]


def pass_time(page: Page, seconds: int) -> None:
    """Set the page's clock ahead, but without running its timers, which could end before a slow answer."""
    page.clock.set_system_time(page.evaluate("() => Date.now() / 1000") + seconds)


@pytest.mark.parametrize(
    "slept",
    [
        pytest.param(True, id="a phone that slept"),
        pytest.param(False, id="a page that was looked at all the time", marks=pytest.mark.all),
    ],
)
def test_an_outcome_is_found_without_a_press(visit: Visit, slept: bool) -> None:
    """A cycle whose answer was lost has ended on the host. The page finds that out on waking or within 15 s."""
    page, stage = visit.page, visit.stage
    page.clock.install()
    visit.open()
    before = stage.mutating_jobs()
    stage.wire.cut('"verb":"cycle"', 1)
    confirm(page, "cycle")
    phase(page, "unknown")
    if slept:
        fall_asleep(page)
    until(lambda: len(stage.mutating_jobs(but=before)) == 1, "the cycle")
    page.clock.fast_forward(180_000)
    expect(page.locator(ASK_AGAIN)).to_be_visible()
    see_headline(page, "Outcome not known", "unknown")
    stage.wire.mend()
    if slept:
        wake(page)
    else:
        page.clock.run_for(15_000)
    phase(page, "done")
    assert len({str(sorted((body | {"again": True}).items())) for body in visit.mutating}) == 1
    assert [body.get("again") for body in visit.mutating] == [None, *[True] * (len(visit.mutating) - 1)]
    assert len(stage.mutating_jobs(but=before)) == 1


def test_waking_takes_evidence_if_the_last_is_old(visit: Visit) -> None:
    """A page that was hidden for more than a minute looks again by itself. After a shorter time, it does not."""
    page = visit.page
    page.clock.install()
    visit.open()
    first = looks_of(visit)  # none where another visit has just looked
    fall_asleep(page)
    pass_time(page, 20)
    expect(page.locator("#second")).to_contain_text(re.compile(r"looked \d\d+ s ago"))
    wake(page)
    expect(page.locator("#second")).to_contain_text(re.compile(r"looked \d s ago"))  # it has checked
    see_headline(page, "Idle or hung", "unknown")
    fall_asleep(page)
    pass_time(page, 120)
    expect(page.locator("#second")).to_contain_text("Was: Idle or hung")
    assert looks_of(visit) == first
    wake(page)
    wait_for(page, lambda: looks_of(visit) == [*first, "by itself"], "the next look")
    see_headline(page, "Idle or hung", "unknown")


@pytest.mark.all
def test_what_was_under_way_puts_the_look_off_and_does_not_cancel_it(visit: Visit) -> None:
    """The device fell asleep during a check of the page. Once that check has ended, the page still looks."""
    page = visit.page
    page.clock.install()
    visit.open()
    first = looks_of(visit)
    with held_requests(page, '"verb":"status"') as held:
        page.clock.fast_forward(20_000)
        wait_for(page, lambda: held, "the check that is due")
        fall_asleep(page)
        pass_time(page, 120)
        wake(page)
        assert looks_of(visit) == first
    wait_for(page, lambda: looks_of(visit) == [*first, "by itself"], "the look")


@pytest.mark.all
def test_a_page_that_lost_its_handler_while_it_slept_looks_as_well(visit: Visit) -> None:
    """It finds the handler again on waking, and the check that follows takes the place of the look's own alone."""
    page = visit.page
    page.clock.install()
    visit.open()
    first = looks_of(visit)
    polls = []

    def lose(route: Route) -> None:
        polls.append(route.request)
        route.abort()

    page.route("**/health", lose)
    fall_asleep(page)
    page.clock.fast_forward(40_000)
    wait_for(page, lambda: polls, "a poll")
    page.clock.fast_forward(40_000)
    see_headline(page, "No connection", "unknown")
    ended = []
    for name in ("requestfinished", "requestfailed"):  # its stream is left once its last line is there
        page.on(
            name, lambda request: ended.append(request) if '"verb":"history"' in (request.post_data or "") else None
        )
    with held_requests(page, '"verb":"status"') as held:
        with held_requests(page, "", "health"):
            wake(page)
            wait_for(page, lambda: held, "the check on waking")
            page.unroute("**/health", lose)
        wait_for(page, lambda: len(held) > 1, "the check of a page that has its handler again")
        wait_for(page, lambda: ended, "the list of jobs")
    wait_for(page, lambda: looks_of(visit) == [*first, "by itself"], "the look")


@pytest.mark.all
def test_what_is_forgotten_is_not_called_kept(visit: Visit) -> None:
    """A browser may ask a person whether the page may keep anything, and hear of it after Forget."""
    page = visit.page
    page.add_init_script(
        """window.answers = [];
        if (navigator.storage) navigator.storage.persist = () => new Promise((done) => answers.push(done));"""
    )
    keep_key(visit)
    wait_for(page, lambda: page.evaluate("() => answers.length"), "the question whether it may keep anything")
    forget_key(page)
    kept = """async () => {
        answers.forEach(answer => answer(true));
        await new Promise(done => setTimeout(done));
        return localStorage.getItem("breakglass / key");
    }"""
    assert page.evaluate(kept) is None
    expect(page.locator("#key-word")).to_have_text("not kept here")


def is_kept(page: Page) -> bool:
    return bool(page.evaluate(KEPT_KEYS) == 1)


@pytest.mark.all
def test_forget_asks(visit: Visit) -> None:
    """The key is needed at night, so only a second tap deletes it, and Esc or Keep does not."""
    page = keep_key(visit)
    open_key(page)
    expect(page.locator("#key-word")).to_contain_text("kept here since")
    for answer in ("Escape", "Keep"):
        page.click("#forget")
        page.wait_for_selector("#yes[aria-disabled=false]")
        expect(page.locator("#confirm-title")).to_have_text("Forget the key?")
        expect(page.locator("#keep")).to_be_focused()
        page.keyboard.press("Escape") if answer == "Escape" else page.click("#keep")
        expect(page.locator("#confirm")).to_be_hidden()
        assert is_kept(page)
    page.reload()
    phase(page, "idle")
    assert page.get_attribute("#key", "open") is None  # folded away while it works
    forget_key(page)
    page.reload()
    phase(page, "locked")

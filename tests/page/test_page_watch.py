"""After a verb that starts the VM, the live console is shown until the guest is back or the time is over."""

import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from ..support.browser import Stage, Visit, ask, phase, see_headline, stop_time, wait_for, wait_for_text

pytestmark = pytest.mark.real("chromium", "sshd", "qemu")
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
SEEN = {"type": "result", "verb": "screen", "vm": "devvm", "outcome": "done", "reached": True, "state": "running"}
SEEN |= {"last": None, "started": "2026-11-27T03:12:44Z", "seconds": 0, "screen": True, "screen_png": PNG}
BEFORE = {"state": "lost", "at": "2026-11-27T03:00:00Z", "says": "the guest's kernel has not answered for 90 s"}
KEEP_LOOKING = "#outcome-act[data-act=keep-looking]"
STOP_LOOKING = "#outcome-act[data-act=stop-looking]"


def answer_screens(page: Page, guest: str, heartbeat: dict[str, Any] | None = None) -> dict[str, Any]:
    """Make the host answer each `screen` like this, and report a heartbeat in each `status` if there is one.

    Return the answer, which may be changed.
    """
    answer = {**SEEN, "guest": guest}

    def take(route: Route) -> None:
        verb = json.loads(route.request.post_data or "{}").get("verb")
        if verb == "status" and heartbeat:
            *lines, last = route.fetch().text().splitlines()
            told = json.dumps({**json.loads(last), "heartbeat": heartbeat})
            route.fulfill(content_type="application/x-ndjson", body="\n".join([*lines, told, ""]))
        elif verb == "screen":
            route.fulfill(content_type="application/x-ndjson", body=json.dumps(answer) + "\n")
        else:
            route.fallback()

    page.route("**/pve", take)
    return answer


def reset(visit: Visit) -> Page:
    """Reset the VM, and return once that is done and its console is watched; the page's time stands still then."""
    page = visit.page
    ask(page, "reset")
    stop_time(page)
    page.click("#yes")
    phase(page, "done")
    wait_for_text(page, "verdict-sentence", "QEMU answers and says running")  # the answer of the check after a verb
    see_headline(page, "Coming back…", "busy")
    expect(page.locator(STOP_LOOKING)).to_be_visible()
    wait_for_text(page, "outcome-timer", "s of 90 s")
    return page


def look_again(page: Page) -> None:
    """Let the page's time pass until it asks for the console once more, and then stop it.

    The page's time limits are for a real network, so its time must not run while an answer is awaited.
    """
    page.clock.run_for(3_000)


def jump(visit: Visit, seconds: int) -> None:
    """Set the page's time ahead once no answer is awaited, because the page would give that answer up."""
    wait_for(visit.page, lambda: not visit.under_way, "the end of each request")
    visit.page.clock.fast_forward(1_000 * seconds)


def see_bar(page: Page, words: str, tone: str) -> None:
    """Return once the bar has this text and this tone."""
    expect(page.locator(f"#dock:has([data-outcome][data-tone={tone}])")).to_contain_text(words)


@pytest.fixture
def watcher(visit: Visit) -> Visit:
    """A visit whose time a test controls, at a VM with evidence."""
    visit.page.clock.install()
    visit.open()
    visit.page.wait_for_selector("#glass img")  # otherwise, the capture's picture could replace a newer one
    return visit


@pytest.mark.all
def test_the_watch_ends_once_the_guest_answers(watcher: Visit) -> None:
    """The picture is current, and the headline says that the guest is back.

    After 90 s without a sign of life, the watch ends with words that claim no more than was seen. One button continues.
    """
    answer = answer_screens(watcher.page, guest="silent", heartbeat=BEFORE)
    page = reset(watcher)
    look_again(page)
    wait_for_text(page, "picture-age", "new every 3 s")
    expect(page.locator("#glass img")).to_have_attribute("alt", re.compile(":44$"))  # the minutes depend on the zone
    see_headline(page, "Coming back…", "busy")
    jump(watcher, 91)
    see_headline(page, "No sign of life", "warn")
    wait_for_text(page, "why", "kernel answered before, but not 90 s after its reset. Look at the picture")
    see_bar(page, "No sign of life after 90 s: look at the picture", "warn")
    expect(page.locator("#steps li").last).to_have_attribute("data-tone", "warn")
    page.click(KEEP_LOOKING)
    see_headline(page, "Coming back…", "busy")
    answer["guest"] = "answers"
    look_again(page)
    see_headline(page, "Back: guest answers", "good")
    see_bar(page, "back after", "good")
    expect(page.locator("#steps li").last).to_have_attribute("data-tone", "good")
    expect(page.locator("#steps li").last).to_contain_text("Back")
    expect(page).to_have_title("Back: guest answers - devvm")


@pytest.mark.all
def test_the_console_is_live_and_leaves_nothing(watcher: Visit) -> None:
    """The pictures come from the host itself, which keeps none of them."""
    page, before = reset(watcher), watcher.stage.stages()
    look_again(page)
    wait_for_text(page, "picture-age", "new every 3 s")
    expect(page.locator("#glass img")).to_be_visible()
    assert [body.get("verb") for body in watcher.posts].count("screen") == 1
    assert watcher.stage.stages() == before


@pytest.fixture
def blind(stage: Stage, short_dir: Path) -> Iterator[Visit]:
    """A visit, whose time a test controls, to a VM that gives no picture, no heartbeat and no answer of an agent."""
    with closing(Stage(short_dir, stage.browser, qemu="")) as bare, closing(Visit(bare)) as visit:
        visit.page.clock.install()
        visit.open()
        yield visit


@pytest.mark.all
def test_nothing_is_awaited_from_a_guest_that_can_show_nothing(blind: Visit) -> None:
    """The page says that there is no picture, and after three looks it says that it can't see the guest."""
    page = blind.page
    assert page.inner_text("#picture-at") == "No picture could be taken"
    reset(blind)
    for looks in (1, 2, 3):
        expect(page.locator(STOP_LOOKING)).to_be_visible()  # one look may only have failed
        with page.expect_response(lambda answer: '"screen"' in (answer.request.post_data or "")):
            look_again(page)
        wait_for(page, lambda: not blind.under_way, "the end of each request")
        assert [body.get("verb") for body in blind.posts].count("screen") == looks
    see_headline(page, "Not examined", "unknown")
    see_bar(page, "could not see if the guest is back", "good")


@pytest.mark.all
def test_a_guest_without_a_picture_is_awaited_while_it_can_give_another_sign(blind: Visit) -> None:
    """Its agent may answer, so the watch takes 90 s. Its last sentence names no picture."""
    page = blind.page
    told = answer_screens(page, guest="silent")
    told |= {"screen": False, "screen_png": None}
    reset(blind)
    for _ in range(4):
        look_again(page)
        wait_for(page, lambda: not blind.under_way, "the end of each request")
    see_headline(page, "Coming back…", "busy")
    jump(blind, 91)
    see_bar(page, "The guest's heartbeat is not known. There is no picture either", "unknown")

"""Whoever is at the page can use it: no state offends axe-core, a keyboard is enough, nothing moves under a finger."""

import re
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Page, expect

from breakglass.verbs import VERBS

from ..support.browser import (
    Stage,
    Visit,
    ask,
    axe_finds,
    both_schemes,
    confirm,
    held_cycle,
    held_requests,
    lose_handler,
    phase,
    press,
    wait_for,
)
from ..support.failing_tools import misbehave

real = pytest.mark.real("chromium", "sshd", "qemu")
SITE = Path(__file__).parent.parent.parent / "static_site"
WIDTHS = (320, 360, 1280)


def judged(page: Page, state: str) -> list[str]:
    """Return what axe-core finds wrong in this state, and what sticks out of a narrow screen."""
    found = axe_finds(page, state)
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 740})
        wide = page.evaluate("() => document.documentElement.scrollWidth")
        if wide > width:
            found.append(f"{state}: {wide} px wide on a screen of {width}")
    page.set_viewport_size({"width": 360, "height": 740})
    return found


@pytest.mark.all
@real
@both_schemes
def test_every_state_passes_axe(visit: Visit, scheme: Literal["light", "dark"]) -> None:
    """No violation in any state of the page, and nothing wider than the screen at 320 px."""
    page, stage = visit.page, visit.stage
    page.emulate_media(color_scheme=scheme)
    page.goto(stage.url)
    phase(page, "locked")
    found = judged(page, "locked")
    with held_cycle(stage):
        visit.open()
        page.wait_for_selector("#watch:visible")
        found += judged(page, "somebody at it")
        page.click("#watch")
        page.wait_for_selector("#lately-jobs details[open] pre")
        found += judged(page, "watching")
    press(page, "status")
    expect(page.locator("#state-note")).not_to_contain_text("operator2 has been")
    found += judged(page, "idle")
    page.click("#by-hand summary")
    page.click("#key summary")
    found += judged(page, "by hand and key open")
    with held_requests(page, '"verb":"forensics"'):
        press(page, "forensics")
        phase(page, "checking")
        found += judged(page, "checking")
    phase(page, "done")
    page.click("#verdict summary")
    page.click("#lately-jobs summary")
    page.wait_for_selector("#lately-jobs pre")
    found += judged(page, "done")
    ask(page, "reset")
    found += judged(page, "the dialog")
    stage.service.pve("reset", caller="operator2")
    page.click("#yes")
    phase(page, "refused")
    found += judged(page, "refused")
    misbehave(stage.world.root, fail={"start": "no space left on device"})
    confirm(page, "cycle")
    phase(page, "failed")
    found += judged(page, "failed")
    misbehave(stage.world.root)
    expect(page.locator("#state-word")).to_have_text("Stopped")  # the page has looked: it must not see who comes next
    with held_cycle(stage, verb="start"):
        confirm(page, "start")
        phase(page, "busy")
        found += judged(page, "busy")
    press(page, "status")
    expect(page.locator("#state-note")).not_to_contain_text("operator2 has been")
    stage.wire.cut('"verb":"start"', 1)
    confirm(page, "start")
    phase(page, "running", "unknown")
    phase(page, "unknown")
    found += judged(page, "unknown")
    stage.wire.mend()
    phase(page, "done")
    lose_handler(stage, page)
    found += judged(page, "disconnected")
    stage.wire.up()
    phase(page, "done")  # what the start did stays
    with stage.without_sshd():
        press(page, "forensics")
        phase(page, "notSent")
        found += judged(page, "notSent")
    assert found == []


@real
def test_a_keyboard_is_enough(visit: Visit) -> None:
    """A reset works without a pointer: the focus follows the reading order, and the dialog focuses its safe button."""
    page = visit.page
    page.goto(visit.stage.url)
    phase(page, "locked")

    def tab_to(wanted: str) -> list[str]:
        passed: list[str] = []
        while not passed or passed[-1] != wanted:
            assert len(passed) < 30, passed
            page.keyboard.press("Tab")
            passed.append(page.evaluate("() => (e => e.dataset.verb || e.id || e.tagName)(document.activeElement)"))
        return passed

    tab_to("secret")
    page.keyboard.type(visit.stage.service.secrets["operator"])
    page.keyboard.press("Enter")
    phase(page, "idle")
    assert page.evaluate("() => document.activeElement.dataset.verb") == "status"  # for the key's field has folded away
    order = tab_to("stop")
    assert [each for each in order if each in VERBS] == ["forensics", "start", "cycle", "reset", "stop"]
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("#yes[aria-disabled=false]")
    assert page.evaluate("() => document.activeElement.id") == "keep"
    assert tab_to("yes") == ["yes"]
    page.keyboard.press("Enter")
    phase(page, "done")
    assert page.evaluate("() => document.activeElement.dataset.verb") == "reset"


@real
def test_nothing_moves_while_a_verb_runs(visit: Visit) -> None:
    """While a verb runs, each button stays where it was, so that no finger hits another one."""
    page = visit.open()
    places = "() => [...document.querySelectorAll('[data-verb]')].map(b => b.getBoundingClientRect().y + scrollY)"
    before = page.evaluate(places)
    with held_requests(page, '"verb":"reset"'):
        confirm(page, "reset")
        phase(page, "running")
        assert page.evaluate(places) == before
    phase(page, "done")
    assert page.evaluate(places) == before


@real
def test_every_target_is_large_enough_for_a_thumb(visit: Visit) -> None:
    """Every target is at least 48 px high, in open disclosures and in the dialog too."""
    visit.stage.service.pve("reset", caller="operator2")  # so that there is a recent job
    page = visit.open()
    page.wait_for_selector("#lately-jobs summary")
    ask(page, "reset")
    page.evaluate("() => document.querySelectorAll('details').forEach(each => { each.open = true })")
    targets = "button, summary, select, textarea, a, label:has(input), input:not([type=checkbox])"
    small = page.evaluate(
        """targets => [...document.querySelectorAll(targets)].filter(({offsetHeight: high}) => high && high < 48)
            .map(each => each.outerHTML + each.offsetHeight)""",
        targets,
    )
    assert small == []


@pytest.mark.all
@real
def test_the_focus_is_never_lost(visit: Visit) -> None:
    """If the focused element is hidden, Check status gets the focus."""
    page = visit.open()
    held = "() => document.activeElement.dataset.verb ?? document.activeElement.tagName"
    page.route("**/pve", lambda route: None)
    press(page, "forensics")
    page.focus("#stop-waiting")
    page.keyboard.press("Enter")
    phase(page, "idle")
    assert page.evaluate(held) == "status"
    page.unroute("**/pve")
    lose_handler(visit.stage, page)
    page.focus("#try-now")
    visit.stage.wire.up()
    page.keyboard.press("Enter")
    phase(page, "idle")
    assert page.evaluate(held) == "status"
    with held_cycle(visit.stage):
        press(page, "status")
        page.click("#watch")
        output = page.locator("#lately-jobs details[open] pre")
        expect(output).to_contain_text("stop:")
        output.focus()
        asked = len(visit.posts)
        wait_for(page, lambda: len(visit.posts) >= asked + 3, "three more looks, one a second")
        assert page.evaluate(held) == "PRE"
    expect(output).to_contain_text("verify: running")
    assert page.evaluate(held) == "PRE"


@real
def test_reduced_motion_and_forced_colours(stage: Stage) -> None:
    """With reduced motion nothing moves, and with forced colours every button keeps its border."""
    visit = Visit(stage, reduced_motion="reduce", forced_colors="active")
    page = visit.open()
    with held_requests(page, '"verb":"forensics"'):
        press(page, "forensics")
        phase(page, "checking")
        assert page.evaluate("() => document.getAnimations().length") == 0
    border = "() => getComputedStyle(document.querySelector('[data-verb=reset]')).borderTopWidth"
    assert page.evaluate(border) == "1px"
    phase(page, "done")
    visit.close()


# --- the files ---


@pytest.mark.parametrize("path", sorted(SITE.glob("*.js")), ids=lambda path: path.name)
def test_text_stays_text(path: Path) -> None:
    """No script reads markup or evaluates text."""
    source = path.read_text(encoding="utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function", source)

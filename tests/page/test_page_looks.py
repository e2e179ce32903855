"""Every operator can use the page: axe-core finds no fault, a keyboard is enough, nothing moves under a finger."""

import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from breakglass.base.verbs import VERBS

from ..support.browser import (
    HAS_STYLE,
    Stage,
    Visit,
    ask,
    axe_finds_in_both_schemes,
    confirm,
    held_cycle,
    held_requests,
    keep_key,
    looked,
    lose_handler,
    phase,
    press,
    see_headline,
    show,
    stop_time,
    unseen_cycle,
    unseen_outage,
    wait_for,
    wait_for_text,
)
from ..support.failing_tools import misbehave
from ..support.selection import sampled

real = pytest.mark.real("chromium", "sshd", "qemu")
SITE = Path(__file__).parent.parent.parent / "static_site"
WIDTHS = (320, 360, 768, 1280)
FOCUS = "() => (e => e.dataset.verb || e.id || e.tagName)(document.activeElement)"
# The elements that stick out of the screen, and those that are too small for a thumb.
MISFITS = """() => {
    const shown = each => each.checkVisibility({visibilityProperty: true}) && !each.closest(".said, .skip");
    const targets = "button, summary, textarea, a, label:has(input), input:not([type=checkbox])";
    const small = [...document.querySelectorAll(targets)].filter(shown)
        .map(each => [each, each.getBoundingClientRect()])
        .filter(([, {width, height}]) => Math.min(width, height) < 47.5)
        .map(([each, {width, height}]) => `${each.id || each.outerHTML} is ${width} x ${height} px`);
    const {scrollWidth, clientWidth} = document.documentElement;
    return [...small, ...scrollWidth > clientWidth ? [`${scrollWidth} px wide on a screen of ${clientWidth}`] : []];
}"""
SHIFTS = """window.shifts = [];
const take = entries => window.shifts.push(...entries.map(({value, hadRecentInput, sources}) => ({
    value: hadRecentInput ? 0 : value, what: sources.map(({node, previousRect: a, currentRect: b}) =>
        `${node?.id || node?.outerHTML || node?.data} from ${a.x},${a.y} to ${b.x},${b.y}`)
})));
const observer = new PerformanceObserver(list => take(list.getEntries()));
observer.observe({type: "layout-shift", buffered: true});
window.takeShifts = () => { take(observer.takeRecords()); return window.shifts.splice(0); };"""


def judged(page: Page, state: str) -> list[str]:
    """Return axe-core's findings in this state, and the elements that don't fit the screen or a thumb."""
    wait_for(page, lambda: page.evaluate(HAS_STYLE), "the style, which may have been lost")
    found = axe_finds_in_both_schemes(page, state)
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 740})
        found += [f"{state}, {width} px: {each}" for each in page.evaluate(MISFITS)]
    page.set_viewport_size({"width": 360, "height": 740})
    return found


@real
def test_a_keyboard_is_enough(visit: Visit) -> None:
    """A reset works without a pointer: the focus follows the reading order, and the dialog focuses its safe button."""
    page = visit.page
    page.goto(visit.stage.url)
    phase(page, "locked")

    def tab_to(wanted: str, key: str = "Tab") -> list[str]:
        passed: list[str] = []
        while not passed or passed[-1] != wanted:
            assert len(passed) < 30, passed
            page.keyboard.press(key)
            passed.append(page.evaluate(FOCUS))
        return passed

    tab_to("secret")
    page.keyboard.type(visit.stage.service.secrets["operator"])
    page.keyboard.press("Enter")
    phase(page, "idle")
    assert page.evaluate(FOCUS) == "headline"  # for the key's field is hidden
    order = tab_to("forensics")
    assert [each for each in order if each in VERBS] == ["cycle", "reset", "start", "stop", "status", "forensics"]
    tab_to("reset", "Shift+Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("#yes[aria-disabled=false]")
    assert page.evaluate(FOCUS) == "keep"
    assert tab_to("yes", "Shift+Tab") == ["yes"]
    page.keyboard.press("Enter")
    phase(page, "done")
    assert page.evaluate(FOCUS) == "reset"


# --- nothing moves ---


def cycled(visit: Visit) -> None:
    confirm(visit.page, "cycle")
    phase(visit.page, "done")


def reset(visit: Visit) -> None:
    confirm(visit.page, "reset")
    phase(visit.page, "done")


def stopped_and_started(visit: Visit) -> None:
    confirm(visit.page, "stop")
    phase(visit.page, "done")
    see_headline(visit.page, "Off", "warn")
    confirm(visit.page, "start")
    phase(visit.page, "done")


def looked_again(visit: Visit) -> None:
    press(visit.page, "forensics")
    phase(visit.page, "done")


def failed(visit: Visit) -> None:
    misbehave(visit.stage.world.root, fail={"start": "no space left on device"})
    confirm(visit.page, "cycle")
    phase(visit.page, "failed")
    see_headline(visit.page, "Off: start failed", "bad")


def refused(visit: Visit) -> None:
    ask(visit.page, "reset")
    visit.stage.service.pve("reset", caller="operator2")
    visit.page.click("#yes")
    phase(visit.page, "refused")


def busy(visit: Visit) -> None:
    with unseen_cycle(visit.stage, visit.page):
        confirm(visit.page, "reset")
        phase(visit.page, "busy")


def lost(visit: Visit) -> None:
    visit.stage.wire.cut('"verb":"reset"', 1)
    confirm(visit.page, "reset")
    phase(visit.page, "unknown")
    visit.stage.wire.mend()
    phase(visit.page, "done")


def not_sent(visit: Visit) -> None:
    with unseen_outage(visit.stage, visit.page):
        confirm(visit.page, "reset")
        phase(visit.page, "notSent")


SCENARIOS = (cycled, reset, stopped_and_started, looked_again, failed, refused, busy, lost, not_sent)
ACTS = [*((act, width) for act in SCENARIOS for width in (360, 1280)), (reset, 320), (reset, 768)]


@pytest.mark.parametrize(
    ("act", "width"),
    sampled(ACTS, (reset, 360)),
)
@real
def test_nothing_moves(visit: Visit, act: Callable[[Visit], None], width: int) -> None:
    """From the tap to 5 s after the end nothing on the page changes its place; in the whole visit, next to nothing.

    The result of the press is in sight then, wherever the page is scrolled.
    """
    page = visit.page
    page.set_viewport_size({"width": width, "height": 740})
    page.add_init_script(SHIFTS)
    page.clock.install()
    stop_time(page)  # a handler that answers after seconds is another matter
    visit.open()
    page.clock.resume()
    opening = page.evaluate("() => window.takeShifts()")
    act(visit)
    page.clock.fast_forward(5_000)
    expect(page.locator("#picture-age")).to_contain_text(re.compile("ago|every|before"))
    page.screenshot()  # what is known is drawn
    moved = [what for each in page.evaluate("() => window.takeShifts()") for what in each["what"]]
    # a console that leaves text mode shows its picture where its text was, and the picture was small below it
    moved = [what for what in moved if not what.startswith("glass ")]
    if act is failed:  # the help is below the power buttons then, and none of them has moved
        moved = [what for what in moved if re.match("verbs|headline|second|why|outcome|dock|.*data-verb", what)]
    assert moved == []
    bar = page.locator("[data-outcome]")
    expect(bar).to_be_in_viewport(ratio=1)
    for top in ("0", "document.body.scrollHeight"):  # not before the act, because a scrolled page makes up for shifts
        page.evaluate(f"() => scrollTo(0, {top})")
        expect(bar).to_be_in_viewport(ratio=1)
    assert sum(each["value"] for each in opening) <= 0.05, opening


@pytest.mark.all
@real
def test_a_kept_key_opens_the_page_without_a_sight_of_its_lock(visit: Visit) -> None:
    """A device that keeps its key shows the page at once. The lock is never shown, and nothing moves for it."""
    page = keep_key(visit)
    page.add_init_script(
        """window.scenes = []; new MutationObserver(() => window.scenes.push(document.body?.dataset.scene))
        .observe(document, {subtree: true, childList: true, attributeFilter: ["data-scene"]});"""
    )
    page.clock.install()
    stop_time(page)  # a store or a handler that answers after seconds is another matter
    page.reload()
    phase(page, "idle")
    assert set(page.evaluate("() => window.scenes")) <= {None, "opening", "unlocked"}


# --- sizes ---


# --- a screen reader's announcements, and the focus ---

HEARD = """() => { window.heard = []; for (const id of ["say-verdict", "say-outcome"])
    new MutationObserver(() => window.heard.push(document.getElementById(id).textContent))
        .observe(document.getElementById(id), {childList: true}); }"""


@real
def test_each_word_is_announced_once(visit: Visit) -> None:
    """The verdict with its advice, each phase and each stage are announced once, and never a timer."""
    page, stage = visit.page, visit.stage
    page.goto(stage.url)
    page.evaluate(HEARD)
    page.fill("#secret", visit.keys["operator"])
    page.press("#secret", "Enter")
    phase(page, "idle")
    looked(page)
    press(page, "status")
    phase(page, "idle")
    verdict = f"{page.inner_text('#headline')}. {page.inner_text('#why')}"
    spoken = page.evaluate("() => window.heard.splice(0)")
    assert [words for words in spoken if words.startswith(verdict)] == [verdict]
    confirm(page, "stop")
    phase(page, "done")
    see_headline(page, "Off", "warn")
    wait_for_text(page, "why", "The VM is stopped: start it.")
    spoken = page.evaluate("() => window.heard")
    assert "Off. The VM is stopped: start it. Advised: Start." in spoken
    assert len([words for words in spoken if words.startswith("Stop done.")]) == 1
    assert len(spoken) == len(set(spoken)), spoken
    assert not [words for words in spoken if re.search(r"\d s\b", words.partition(", after")[0])], spoken


@pytest.mark.all
@real
def test_what_works_is_not_called_unavailable(visit: Visit) -> None:
    """A button that opens its dialog is not `aria-disabled`. One that waits does nothing, and the page says why."""
    page = visit.open()
    start = page.get_by_role("button", name="Start…", exact=True)
    expect(start).to_have_accessible_description("It is running")
    expect(start).to_have_attribute("aria-disabled", "false")
    ask(page, "start")
    page.click("#keep")
    with held_cycle(visit.stage):
        press(page, "status")
        expect(page.locator("#outcome-act")).to_have_text("Watch")  # the check has ended, whose answer ends a nudge
        expect(start).to_have_attribute("aria-disabled", "true")
        press(page, "reset")
        expect(page.locator("#dock")).to_contain_text("operator2 has been power-cycling it")
        assert not page.is_visible("#confirm")
        expect(start).to_have_accessible_name("Start…")
    landmarks = page.locator("section:visible, nav:visible, main:visible, header:visible")
    names = landmarks.evaluate_all(
        "all => all.map(each => each.ariaLabel ?? each.getAttribute('aria-labelledby') ?? each.localName)"
    )
    assert len(names) == len(set(names)), names
    assert "section" not in names


@pytest.mark.all
@real
def test_the_focus_is_never_lost(visit: Visit) -> None:
    """An element keeps the focus. If it is hidden, the headline gets the focus."""
    page = visit.page
    page.clock.install()
    visit.open()
    page.route("**/pve", lambda route: None)
    press(page, "forensics")
    phase(page, "checking")
    page.focus("#outcome-act")
    page.keyboard.press("Enter")
    phase(page, "idle")
    assert page.evaluate(FOCUS) == "outcome-act"
    page.unroute("**/pve")
    lose_handler(visit.stage, page)
    stop_time(page)  # the page must not find its handler before it is told to try
    expect(page.locator("#outcome-timer")).to_contain_text("Trying again in")  # at that time, no try is under way
    page.focus("#outcome-act")
    visit.stage.wire.up()
    page.keyboard.press("Enter")
    phase(page, "idle")
    assert page.evaluate(FOCUS) == "outcome-act"
    page.clock.resume()
    with held_cycle(visit.stage):
        press(page, "status")
        expect(page.locator("#outcome-act")).to_have_text("Watch")
        page.click("#outcome-act")
        output = page.locator("#jobs details[open] .job > pre")
        expect(output).to_contain_text("stop:")
        output.focus()
        before = len(visit.posts)
        wait_for(page, lambda: len(visit.posts) >= before + 3, "three more looks, one a second")
        assert page.evaluate(FOCUS) == "PRE"
    expect(output).to_contain_text("verify: running")
    assert page.evaluate(FOCUS) == "PRE"
    show(page, "vm")
    with unseen_outage(visit.stage, page):
        press(page, "forensics")
        phase(page, "notSent")
    page.focus("#hide-after")
    page.keyboard.press("Enter")
    expect(page.locator("#after")).to_be_hidden()
    assert page.evaluate(FOCUS) == "headline"


@pytest.mark.all
@real
def test_reduced_motion_and_forced_colours(stage: Stage) -> None:
    """With reduced motion nothing moves, and with forced colours every button keeps its border."""
    stage.settle()
    with closing(Visit(stage, reduced_motion="reduce", forced_colors="active")) as visit:
        page = visit.open()
        with held_requests(page, '"verb":"forensics"'):
            press(page, "forensics")
            phase(page, "checking")
            assert page.evaluate("() => document.getAnimations().length") == 0
        border = "() => getComputedStyle(document.querySelector('[data-verb=reset]')).borderTopWidth"
        assert page.evaluate(border) == "1px"
        slab = "() => getComputedStyle(document.querySelector('[data-headline]')).borderTopWidth"
        assert page.evaluate(slab) == "3px"
        phase(page, "done")


# --- the files ---


@pytest.mark.parametrize("path", sorted(SITE.rglob("*.js")), ids=lambda path: path.name)
def test_text_stays_text(path: Path) -> None:
    """No script reads markup or evaluates text."""
    source = path.read_text(encoding="utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function", source)

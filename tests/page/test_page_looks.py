"""Every operator can use the page: axe-core finds no fault, a keyboard is enough, nothing moves under a finger."""

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import CDPSession, Page, expect

from breakglass.agents.pve.host.paths import Host
from breakglass.agents.pve.jobs.store import JobStore
from breakglass.base.verbs import VERBS
from breakglass.cli.init_page import page_text
from breakglass.config.new_file import NewConfig, NewHost, NewVm
from breakglass.demo.proxmox.world import VMID, World

from ..support.browser import (
    HAS_STYLE,
    Stage,
    Visit,
    ask,
    axe_finds_in_both_schemes,
    confirm,
    find_handler,
    held_cycle,
    held_requests,
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
from ..support.page_chat import answer_chat, ask_claude
from ..support.selection import sampled

pytestmark = pytest.mark.real("chromium", "sshd", "qemu")
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


def reset(visit: Visit) -> None:
    confirm(visit.page, "reset")
    phase(visit.page, "done")


def failed(visit: Visit) -> None:
    misbehave(visit.stage.world.root, fail={"start": "no space left on device"})
    confirm(visit.page, "cycle")
    phase(visit.page, "failed")
    see_headline(visit.page, "Off: start failed", "bad")
    expect(visit.page.locator("#jobs summary").first).to_contain_text("Looked")  # by itself, after the verb


def refused(visit: Visit) -> None:
    ask(visit.page, "reset")
    visit.stage.service.pve("reset", caller="operator2")
    visit.page.click("#yes")
    phase(visit.page, "refused")
    wait_for_text(visit.page, "notes", "Another caller changed its power")
    whole = visit.page.locator("#outcome-whole")
    expect(whole).to_contain_text("operator2")
    expect(whole).to_be_in_viewport(ratio=1)  # above the bar, which has two short lines
    assert visit.page.locator("#outcome small").evaluate("lines => lines.scrollHeight <= lines.clientHeight")
    wait_for_text(visit.page, "why", "QEMU answers and says running")  # the page's own check after it: three lines


def lost(visit: Visit) -> None:
    visit.stage.wire.cut('"verb":"reset"', 1)
    confirm(visit.page, "reset")
    phase(visit.page, "unknown")
    visit.stage.wire.mend()
    phase(visit.page, "done")


@pytest.mark.parametrize("act", sampled([refused, reset, failed, lost], refused), ids=lambda act: act.__name__)
def test_nothing_moves(visit: Visit, act: Callable[[Visit], None]) -> None:
    """From the tap to 5 s after the end nothing on the page changes its place; in the whole visit, next to nothing.

    The result of the press is in sight then, wherever the page is scrolled.
    """
    page = visit.page
    page.add_init_script(SHIFTS)
    page.clock.install()
    stop_time(page)  # a handler that answers after seconds is another matter
    visit.open()
    page.clock.resume()
    opening = page.evaluate("() => window.takeShifts()")
    act(visit)
    page.clock.fast_forward(5_000)
    expect(page.locator("#picture-age")).to_contain_text(re.compile("every" if act in (reset, lost) else "ago|before"))
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


# --- the focus ---


@pytest.mark.all
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
    expect(page.locator("#outcome-word")).to_contain_text("Looked")  # or the look at the end of the job would be lost
    with unseen_outage(visit.stage, page):
        press(page, "forensics")
        phase(page, "notSent")
    page.focus("#hide-after")
    page.keyboard.press("Enter")
    expect(page.locator("#after")).to_be_hidden()
    assert page.evaluate(FOCUS) == "headline"


@pytest.mark.all
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


# --- every state on every screen ---

SETTLES_SECONDS = 10.0  # what is wrong for longer stays
LOOKED = re.compile("Idle or hung|Looks healthy")  # the page looks by itself after another caller's verb


@dataclass(frozen=True)
class Layout:
    """A screen in CSS pixels, and how large a person has set its text. `keyboard`: what it leaves of a phone."""

    width: int
    height: int
    text: float = 1
    keyboard: bool = False

    def __str__(self) -> str:
        return f"{self.width}x{self.height}" + (f" at {self.text:.0%}" if self.text != 1 else "")

    @property
    def is_enlarged(self) -> bool:
        """Tell whether it is so small that it shows one thing at a time: 1280x740, enlarged four times."""
        return self.height < 200


LAYOUTS = (
    Layout(320, 568),
    Layout(360, 740),
    Layout(412, 915),
    Layout(768, 1024),
    Layout(1280, 740),
    Layout(1920, 1080),
    Layout(740, 360),
    Layout(740, 304),
    Layout(667, 319),
    Layout(360, 450, keyboard=True),
    Layout(412, 585, keyboard=True),
    Layout(360, 740, text=1.5),
    Layout(360, 740, text=2),
    Layout(320, 185),
)
DECIDES = ("#headline", "power", "#outcome")  # the parts that are in sight in every state of a VM
TYPING = ("#prompt", "#send", "answer")
# Texts that may end in "…", because they are whole elsewhere.
SHORTENED = "summary small, #chat-word, .tool summary span"
FAULTS = """([wanted, shortened]) => {
    scrollTo(0, 0);
    const faults = [];
    const top = document.querySelector("dialog[open]") ?? document.body;
    const isShown = each => each.checkVisibility({visibilityProperty: true}) && !each.closest(".said, .skip");
    const name = each => each.id || each.dataset?.verb || each.closest("[id]")?.id + " " + each.className;
    const {scrollWidth, clientWidth} = document.documentElement;
    if (scrollWidth > clientWidth) faults.push(`${scrollWidth} px wide`);
    // Each text with its box, what clips it, and the layer it is in: what is fixed covers, and is another.
    const texts = [];
    const walker = document.createTreeWalker(top, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
        const parent = node.parentElement;
        if (!node.data.trim() || !isShown(parent) || parent.closest("option, textarea")) continue;
        const range = document.createRange();
        range.selectNodeContents(node);
        let box = range.getBoundingClientRect();
        if (box.width < 2) continue;
        let [layer, clipped] = ["", false];
        for (let each = parent; each && each !== top; each = each.parentElement) {
            const style = getComputedStyle(each);
            const {left, top: above, right, bottom} = each.getBoundingClientRect();
            if (style.clipPath !== "none") clipped = true; // for the ear alone
            const isCut = box.left < left - 1 || box.right > right + 1
                || box.top < above - 2 || box.bottom > bottom + 2;
            if (style.overflowX === "hidden" && !each.matches(shortened) && !clipped && isCut) {
                faults.push(`"${node.data.trim().slice(0, 40)}" is cut in ${name(each)}`);
            }
            if (["auto", "scroll"].includes(style.overflowY) || style.overflowX === "hidden") {
                box = {left: Math.max(box.left, left), top: Math.max(box.top, above),
                    right: Math.min(box.right, right), bottom: Math.min(box.bottom, bottom)};
            }
            const isAbove = ["fixed", "sticky"].includes(style.position) || each.matches(".after, .steps, #to-end");
            if (isAbove) layer ||= name(each);
        }
        const of = parent.closest("p, li, button, pre, td");
        if (!clipped && box.right - box.left > 2 && box.bottom - box.top > 2) texts.push({node, box, layer, of});
    }
    const bar = document.getElementById("outcome");
    for (const {node, box} of texts) {
        if (bar.contains(node) && box.bottom > bar.getBoundingClientRect().bottom) {
            faults.push(`"${node.data.trim().slice(0, 40)}" touches what is below the bar`);
        }
    }
    texts.forEach((first, n) => texts.slice(n + 1).forEach(second => {
        const [one, other] = [first.box, second.box];
        const across = Math.min(one.right, other.right) - Math.max(one.left, other.left);
        const down = Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top);
        if (first.layer === second.layer && across > 2 && down > 4 && first.of !== second.of) {
            const [a, b] = [first, second].map(each => each.node.data.trim().slice(0, 30));
            faults.push(`"${a}" overlaps "${b}"`);
        }
    }));
    // Seen whole, and nothing before it.
    const isInSight = each => {
        if (!each || !isShown(each)) return false;
        const {left, top, right, bottom, width, height} = each.getBoundingClientRect();
        const ys = [top + 4, top + height / 2, bottom - 4];
        const points = [left + 4, left + width / 2, right - 4].flatMap(x => ys.map(y => [x, y]));
        return points.every(([x, y]) => {
            const hit = document.elementFromPoint(x, y);
            const isIn = hit && (each.contains(hit) || hit.contains(each));
            return isIn || (each.id === "outcome" && hit?.closest("#steps")); // a desk shows the steps in the bar
        });
    };
    const found = {
        power: () => [...document.querySelectorAll("#verbs > button")].some(isInSight),
        answer: () => { // its last line
            const answers = [...document.querySelectorAll("#transcript .answer")];
            const last = answers.at(-1)?.lastElementChild?.getBoundingClientRect();
            const box = document.getElementById("transcript").getBoundingClientRect();
            const isSeen = last && last.bottom > box.top + 16 && last.top < box.bottom;
            return isSeen && box.bottom <= innerHeight && box.height > 60;
        },
    };
    const isSeen = each => found[each]?.() ?? isInSight(document.querySelector(each));
    for (const each of wanted) if (!isSeen(each)) faults.push(`${each} is out of sight`);
    return [...new Set(faults)];
}"""
SHOTS = os.environ.get("BREAKGLASS_SHOTS", "")  # a directory for a picture of each state on each screen, for the eye


class Screen:
    """The browser's window, which takes the size of each layout."""

    def __init__(self, visit: Visit) -> None:
        self.page = visit.page
        self._cdp: CDPSession = visit.context.new_cdp_session(visit.page)
        self._cdp.send("Page.enable")

    def be(self, layout: Layout) -> None:
        self.page.set_viewport_size({"width": layout.width, "height": layout.height})
        size = round(16 * layout.text)
        self._cdp.send("Page.setFontSizes", {"fontSizes": {"standard": size, "fixed": size}})
        self.page.wait_for_function(f"() => parseFloat(getComputedStyle(document.documentElement).fontSize) === {size}")

    def faults(self, state: str, *wanted: str) -> list[str]:
        """Return the faults of this state on each screen. Wanted parts must be in sight only if there is room."""
        found: list[str] = []
        for layout in LAYOUTS:
            self.be(layout)
            always = ("#headline", "#confirm-title")
            here = tuple(each for each in wanted if each in always or not layout.is_enlarged)
            if (layout.keyboard and "#prompt" not in wanted) or (layout.text > 1 and "power" not in wanted):
                # a keyboard belongs to a field; large text promises the verdict, its button and the outcome
                here = tuple(each for each in wanted if each == "#confirm-title")
            if SHOTS:
                self.page.wait_for_timeout(60)
            end = time.monotonic() + SETTLES_SECONDS
            while (faults := self.page.evaluate(FAULTS, [list(here), SHORTENED])) and time.monotonic() < end:
                self.page.wait_for_timeout(20)  # the page draws again after its size has changed
            found += [f"{state}, {layout}: {each}" for each in faults]
            if SHOTS:
                self.page.screenshot(path=Path(SHOTS) / f"{state.replace(' ', '-')}--{layout}.png".replace(" at ", "-"))
        self.be(Layout(360, 740))
        return found + judged(self.page, state)


ANSWER = """## What it looks like
It is **hung**: its disk answers no request since 02:51.

- [x] QEMU runs
- [ ] The disk answers

| Request | Since |
|---|---|
| write vda | 02:51:04 |

```
[8365.104] INFO: task jbd2/vda1:312 blocked for more than 483 seconds, as it waits for its disk.
```
A power-cycle ends it. Unsaved work is lost, and the last line of this answer is here.
"""


def states(visit: Visit) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Walk through the states of the page. Yield each one's name, and the parts that must be in sight."""
    page, stage = visit.page, visit.stage
    page.goto(stage.url)
    phase(page, "locked")
    yield "locked", ("#headline", "#secret", "#unlock [type=submit]")
    page.fill("#secret", "whsec_too-short")
    page.press("#secret", "Enter")
    expect(page.locator("#key-trouble")).to_contain_text("isn't a complete signing key")
    yield "key incomplete", ("#headline", "#secret")
    with held_cycle(stage):
        visit.open(looks=False)
        expect(page.locator("#outcome-word")).to_have_text("Someone is on it")
        yield "someone else acts", DECIDES
        page.click("#outcome-act")
        page.wait_for_selector("#jobs details[open] pre")
        yield "watching", ("#outcome",)
    visit.open()
    yield "known", DECIDES
    page.evaluate("() => document.querySelectorAll('main details').forEach(each => { each.open = true; })")
    yield "everything open", ()
    page.evaluate("() => document.querySelectorAll('main details').forEach(each => { each.open = false; })")
    page.click("#glass")
    page.click("#zoom")
    yield "picture", ("#close-large",)
    page.click("#close-large")
    with held_requests(page, '"verb":"forensics"'):
        press(page, "forensics")
        phase(page, "checking")
        yield "checking", DECIDES
    phase(page, "done")
    show(page, "history")
    page.click("#jobs summary")
    page.wait_for_selector("#jobs details[open] img")
    yield "history", ("#outcome",)
    show(page, "vm")
    ask(page, "reset")
    yield "dialog", ("#confirm-title", "#keep")
    stage.service.pve("reset", caller="operator2")
    page.click("#yes")
    phase(page, "refused")
    yield "refused", DECIDES
    with held_requests(page, '"verb":"reset"'):
        confirm(page, "reset")
        phase(page, "running")
        yield "sent", DECIDES
    phase(page, "done", "refused")
    press(page, "status")
    phase(page, "idle")
    gone = "could not open disk image /dev/pve/vm-102-disk-0: No such file or directory"
    misbehave(stage.world.root, fail={"start": gone})
    confirm(page, "cycle")
    phase(page, "failed")
    see_headline(page, "Off: start failed", "bad")
    yield "failed", DECIDES
    misbehave(stage.world.root)
    visit.open(looks=False)
    see_headline(page, "Off: start failed", "bad")  # the history says it to a page that did not see it
    for verb in ("start", "stop"):
        confirm(page, verb)
        phase(page, "done")
    visit.open(looks=False)
    see_headline(page, "Off", "warn")
    yield "off", DECIDES
    with unseen_cycle(stage, page, "start"):
        confirm(page, "start")
        phase(page, "busy")
        yield "busy", DECIDES
    page.dispatch_event("[data-verb=status]", "click")  # the page looks by itself now, and its parts move
    expect(page.locator("[data-headline] h2")).to_have_text(LOOKED)
    confirm(page, "reset")
    phase(page, "done")
    see_headline(page, "Coming back…", "busy")
    yield "coming back", DECIDES
    lose_handler(stage, page)
    yield "no connection", ("#headline", "#by-hand-lines button", "#outcome")
    find_handler(stage, page)
    phase(page, "done")
    with unseen_outage(stage, page):
        press(page, "forensics")
        phase(page, "notSent")
        yield "not sent", DECIDES
    with stage.without_sshd():
        stage.service.not_answering()
        page.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")
        see_headline(page, "Host unreachable", "unknown")
        yield "host unreachable", DECIDES
    stage.service.answering()
    page.clock.install()
    visit.open()
    stage.wire.cut('"verb":"reset"', 1)
    confirm(page, "reset")
    phase(page, "unknown")
    page.clock.run_for(70_000)
    expect(page.locator("#outcome-act")).to_have_text("Ask again")
    yield "unknown", ("#headline", "#now", "#outcome")
    stage.wire.mend()
    page.click("#now")
    phase(page, "done")
    twin = {"name": "twin", "vmid": 103, "proxmox": "answering", "since": None}
    health = {**stage.service.health(), "chat": "on"}
    page.route("**/health", lambda route: route.fulfill(json={**health, "vms": [*health["vms"], twin]}))
    visit.open()
    page.click("#show-vms")
    yield "list", ("#rows [data-vm]", "#outcome")
    page.click("#rows [data-vm=devvm]")
    answer_chat(page, {"type": "text", "text": ANSWER})
    ask_claude(page, "Why is it hung?")
    expect(page.locator("#transcript .answer")).to_contain_text("is here")
    yield "chat typing", TYPING
    page.evaluate("() => document.activeElement.blur()")
    yield "chat", ("#prompt", "answer")


@pytest.mark.all
def test_every_state_fits_every_screen(visit: Visit) -> None:
    """In every state and on every screen, no texts overlap, none is cut, and the important parts are in sight."""
    screen = Screen(visit)
    found = {state: screen.faults(state, *wanted) for state, wanted in states(visit)}
    assert len(found) >= 22
    faults = [each for all_of in found.values() for each in all_of]
    assert not faults, "\n".join(faults)


# --- the console's text and the guest's last words ---

IS_AT_END = "box => box.scrollTop > 0 && box.scrollHeight - box.scrollTop - box.clientHeight < 2"
WORDS = ["[    9.000000] <b>oops</b> line 1", "[    9.100000] Kernel panic - not syncing: Attempted to kill init!"]


def have_said(world: World, words: list[str] = WORDS) -> Path:
    """Put last words into the newest capture, and return its picture, because the guest has no kernel."""
    store = JobStore(Host(VMID, str(world.root)))
    [newest, *_] = [record for record in store.records() if record.verb == "forensics"]
    path = Path(store.path(newest.id, "evidence.json"))
    kept = json.loads(path.read_text())
    kept["evidence"]["last_words"] = words
    path.write_text(json.dumps(kept))
    return path.with_name("screen.png")


@pytest.mark.all
def test_the_console_is_text_on_a_phone(visit: Visit) -> None:
    """At 360 px its text is as large as other text, and copied as it is. The picture opens by a tap, and zooms."""
    page = visit.open()
    text = page.locator("#console-text")
    expect(text).to_contain_text("SeaBIOS")
    assert page.evaluate(
        """() => {
            const box = document.getElementById("console-text");
            return [innerWidth, parseFloat(getComputedStyle(box).fontSize) >= 14, box.scrollWidth <= box.clientWidth];
        }"""
    ) == [360, True, True]
    assert 'group "Text of the console"' in page.locator("#console").aria_snapshot()
    assert "SeaBIOS" in text.aria_snapshot()
    visit.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.click("#copy-console")
    expect(page.locator("#copy-console")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == text.text_content()
    page.emulate_media(color_scheme="dark")  # a black picture on a black page has an edge
    assert page.locator("#glass img").evaluate("image => getComputedStyle(image).borderTopWidth") == "1px"
    page.click("#glass")
    width = "image => image.getBoundingClientRect().width"
    image = page.locator("#zoom img")
    assert image.evaluate(width) == 360
    page.click("#zoom")
    assert image.evaluate(width) >= 720
    page.click("#close-large")


@pytest.mark.all
def test_the_last_words_are_a_sheet_of_text(visit: Visit) -> None:
    """Where a capture has some: hidden before, whole and as text after."""
    visit.stage.service.pve("forensics", caller="operator2")  # of the newest capture
    page = visit.open()
    page.click("#evidence summary")
    expect(page.locator("#verdict-lines")).to_be_visible()
    expect(page.locator("#last-words")).to_be_hidden()
    picture = have_said(visit.stage.world)
    visit.open()
    expect(page.locator("#console-text")).to_contain_text("SeaBIOS")
    page.click("#evidence summary")
    expect(page.locator("#words")).to_have_text("\n".join(WORDS))
    assert page.locator("#words b").count() == 0
    assert "Kernel panic - not syncing" in page.locator("#last-words").aria_snapshot()
    assert axe_finds_in_both_schemes(page, "last words") == []
    show(page, "history")
    newest = page.locator("#jobs li details").first
    newest.locator("summary").click()
    expect(newest.locator("dd pre").last).to_have_text("\n".join(WORDS))
    picture.rename(kept := picture.with_name("kept"))  # a QEMU that is silent gives none
    visit.open()
    expect(page.locator("#console-text")).to_have_text("\n".join(WORDS))
    expect(page.locator("#glass")).to_be_hidden()
    page.click("#evidence summary")
    expect(page.locator("#last-words")).to_be_hidden()  # once is enough
    kept.rename(picture)


@pytest.mark.all
def test_the_console_shows_its_last_words_to_a_person_who_comes_from_another_tab(visit: Visit) -> None:
    """The text came while the tab of the VM was hidden, and the VM's tab then shows the end of the text."""
    service = visit.stage.service
    job = service.pve("forensics", caller="operator2").json["id"]
    picture = have_said(visit.stage.world, [f"[    9.{line:06}] line {line}" for line in range(80)])
    picture.rename(kept := picture.with_name("kept"))  # last words are shown where there is no picture
    try:
        page = visit.page
        page.goto(f"{visit.stage.url}#key={service.secrets['operator']}&vm=devvm&job={job}")
        text = page.locator("#console-text")
        expect(text).to_contain_text("line 79")
        expect(text).to_be_hidden()
        show(page, "vm")
        assert text.evaluate(IS_AT_END)
        show(page, "history")
        show(page, "vm")
        assert text.evaluate(IS_AT_END)
        text.evaluate("box => box.scrollTo(0, 0)")
        expect(page.locator("#picture-age")).not_to_have_text(page.inner_text("#picture-age"))  # it was drawn again
        assert text.evaluate("box => box.scrollTop") == 0  # a person who reads from the beginning is left there
    finally:
        kept.rename(picture)


# --- the page that `breakglass init` writes to be printed ---

HOSTS = {
    "pve1": NewHost("breakglass@192.0.2.10:22", "any"),
    "pve2": NewHost("root@[2001:db8::12]:2222", "any"),
    "<b>&": NewHost("breakglass@192.0.2.12:22", "any"),
}


def new_config(vms: int, url: str = "https://rescue.example.org/bg/") -> NewConfig:
    return NewConfig(url, "anna", HOSTS, {f"vm{n}": NewVm(102 + n, tuple(HOSTS)) for n in range(vms)})


def test_the_page_to_be_printed_is_one_sheet_of_a4(stage: Stage) -> None:
    """Chromium prints one page, on which no name becomes markup; nothing is loaded and nothing runs."""
    vms = 45
    text = page_text(new_config(vms), "/etc/breakglass", "rescue")
    page = stage.browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    try:
        page.set_content(text)
        pdf = page.pdf(prefer_css_page_size=True)
        shown = page.inner_text("body")
        marked = page.locator("script, img, link, iframe, ul b").count()
    finally:
        page.close()
    assert (len(re.findall(rb"/Type */Page\b", pdf)), asked, marked) == (1, [], 0)
    assert re.search(rb"/MediaBox \[0 0 59[45][.\d]* 84[12][.\d]*\]", pdf)
    assert "<b>&: host 192.0.2.12:22" in shown
    assert f"vm{vms - 1}: VM {101 + vms} on pve1, pve2, <b>&" in shown
    for line in (
        "export BREAKGLASS_URL=https://rescue.example.org/bg/",
        "export BREAKGLASS_SECRET_FILE=/etc/breakglass/anna.signing-key",
        "breakglass call cycle --vm vm0",
        "ssh -L 8080:localhost:8080 rescue.example.org",
        "ssh -i pve_power breakglass@192.0.2.10 cycle vm=102 id=night-MMDD-HHMM",
        "ssh root@192.0.2.10",
    ):
        assert line in shown


def test_the_commands_follow_the_address() -> None:
    """A port is in each command of ssh, and a URL on loopback is replaced by the machine's name."""
    new = NewConfig("http://localhost:8080/", "anna", HOSTS, {"mail": NewVm(7, ("pve2",))})
    text = page_text(new, "/etc/breakglass", "rescue")
    assert "ssh -i pve_power -p 2222 root@2001:db8::12 cycle vm=7 id=" in text
    assert "ssh -p 2222 root@2001:db8::12</code>" in text
    assert "ssh -L 8080:localhost:8080 rescue<" in text

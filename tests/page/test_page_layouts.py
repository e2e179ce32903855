"""Every state on every screen: nothing overlaps, no text is cut, and the verdict and its button are in sight.

One browser walks through the states and takes the size of each screen in turn. `LAYOUTS` has those that were broken
once: large text, a phone on its side, and what a keyboard leaves.
"""

import os
import re
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import CDPSession, expect

from ..support.browser import (
    Stage,
    Visit,
    ask,
    confirm,
    find_handler,
    held_cycle,
    held_requests,
    lose_handler,
    phase,
    press,
    see_headline,
    show,
    unseen_cycle,
    unseen_outage,
)
from ..support.failing_tools import misbehave
from ..support.page_chat import answer_chat, ask_claude

pytestmark = [pytest.mark.all, pytest.mark.real("chromium", "sshd", "qemu")]

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
            here = tuple(each for each in wanted if each == "#headline" or not layout.is_enlarged)
            if (layout.keyboard and "#prompt" not in wanted) or (layout.text > 1 and "power" not in wanted):
                here = ()  # a keyboard belongs to a field; large text promises the verdict, its button and the outcome
            if SHOTS:
                self.page.wait_for_timeout(60)
            end = time.monotonic() + SETTLES_SECONDS
            while (faults := self.page.evaluate(FAULTS, [list(here), SHORTENED])) and time.monotonic() < end:
                self.page.wait_for_timeout(20)  # the page draws again after its size has changed
            found += [f"{state}, {layout}: {each}" for each in faults]
            if SHOTS:
                self.page.screenshot(path=Path(SHOTS) / f"{state.replace(' ', '-')}--{layout}.png".replace(" at ", "-"))
        self.be(Layout(360, 740))
        return found


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
    page.reload()
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


def test_every_state_fits_every_screen(visit: Visit) -> None:
    """In every state and on every screen, no texts overlap, none is cut, and the important parts are in sight."""
    screen = Screen(visit)
    found = {state: screen.faults(state, *wanted) for state, wanted in states(visit)}
    assert len(found) >= 22
    faults = [each for all_of in found.values() for each in all_of]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("layout", [each for each in LAYOUTS if each.text > 1 or each.height < 400], ids=str)
def test_the_page_opens_at_its_beginning(stage: Stage, layout: Layout) -> None:
    """However large its text is, or how low its screen, the page begins with the verdict, which is its largest text."""
    stage.settle()
    with closing(Visit(stage)) as visit:
        Screen(visit).be(layout)
        page = visit.open()
        assert page.evaluate("() => scrollY") == 0
        sizes = page.evaluate("() => ['headline', 'why'].map(id => parseFloat(getComputedStyle(window[id]).fontSize))")
        assert sizes[0] >= 1.15 * sizes[1], sizes

"""Every operator can use the page: axe-core finds no fault, a keyboard is enough, nothing moves under a finger."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from breakglass.agents.pve.host.paths import Host
from breakglass.agents.pve.jobs.store import JobStore
from breakglass.base.verbs import VERBS
from breakglass.cli.init_page import page_text
from breakglass.config.new_file import NewConfig, NewHost, NewVm
from breakglass.demo.proxmox.world import VMID

from ..support.browser import (
    HAS_STYLE,
    Stage,
    Visit,
    ask,
    axe_finds,
    confirm,
    find_handler,
    lose_handler,
    phase,
    see_headline,
    show,
    stop_time,
    wait_for,
    wait_for_text,
)
from ..support.failing_tools import misbehave
from ..support.page_chat import answer_chat, ask_claude

pytestmark = pytest.mark.real("chromium", "sshd", "qemu")
FOCUS = "() => (e => e.dataset.verb || e.id || e.tagName)(document.activeElement)"
SHIFTS = """window.shifts = [];
    const take = entries => window.shifts.push(...entries.flatMap(({sources}) => sources.map(
        ({node, previousRect: a, currentRect: b}) => `${node?.id || node?.outerHTML || node?.data} ${a.y} to ${b.y}`)));
    const observer = new PerformanceObserver(list => take(list.getEntries()));
    observer.observe({type: "layout-shift", buffered: true});
    window.takeShifts = () => { take(observer.takeRecords()); return window.shifts.splice(0); };"""


@pytest.mark.all
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


@pytest.mark.all
def test_nothing_moves(visit: Visit) -> None:
    """From the tap to 5 s after a refusal, and after a reset whose answer was lost, nothing changes its place.

    The whole text of the refusal is in sight then.
    """
    page, wire = visit.page, visit.stage.wire
    page.add_init_script(SHIFTS)
    page.clock.install()
    stop_time(page)  # a handler that answers after seconds is another matter
    visit.open()
    page.clock.resume()
    page.evaluate("() => window.takeShifts()")
    ask(page, "reset")
    visit.stage.service.pve("reset", caller="operator2")
    page.click("#yes")
    phase(page, "refused")
    wait_for_text(page, "notes", "Another caller changed its power")
    expect(page.locator("#outcome-whole")).to_contain_text("operator2")
    expect(page.locator("#outcome-whole")).to_be_in_viewport(ratio=1)
    wait_for_text(page, "why", "QEMU answers and says running")  # the page's own check after it: three lines
    see_no_shift(page, "ago|before")
    wire.cut('"verb":"reset"', 1)
    confirm(page, "reset")
    phase(page, "unknown")
    wire.mend()
    phase(page, "done")
    see_no_shift(page, "every")


def see_no_shift(page: Page, age: str) -> None:
    """Let 5 s pass, and fail if a part of the page has moved. A console that leaves text mode shows its picture."""
    page.clock.fast_forward(5_000)
    expect(page.locator("#picture-age")).to_contain_text(re.compile(age))
    page.screenshot()  # what is known is drawn
    assert [what for what in page.evaluate("() => window.takeShifts()") if not what.startswith("glass ")] == []


# --- every state ---

SIZES = ((320, 568), (360, 740), (768, 1024), (1280, 740))
DECIDES = ("#headline", "#verbs > button", "#outcome")  # the parts that are in sight in every state of a VM
# The elements that stick out of the screen, those that are too small for a thumb, and the wanted ones out of sight.
MISFITS = """wanted => {
    scrollTo(0, 0);
    const shown = each => each.checkVisibility({visibilityProperty: true}) && !each.closest(".said, .skip");
    const targets = "button, summary, textarea, a, label:has(input), input:not([type=checkbox])";
    const small = [...document.querySelectorAll(targets)].filter(shown)
        .map(each => [each, each.getBoundingClientRect()])
        .filter(([, {width, height}]) => Math.min(width, height) < 47.5)
        .map(([each, {width, height}]) => `${each.id || each.outerHTML} is ${width} x ${height} px`);
    const isSeen = each => {
        const {left, top, right, bottom} = each.getBoundingClientRect();
        return shown(each) && [[left, top], [right, bottom]].every(([x, y], n) => {
            const hit = document.elementFromPoint(x + (n ? -6 : 6), y + (n ? -6 : 6));
            return hit && (each.contains(hit) || hit.contains(each) || hit.closest("#outcome"));
        });
    };
    const hidden = wanted.filter(each => ![...document.querySelectorAll(each)].some(isSeen));
    const {scrollWidth, clientWidth} = document.documentElement;
    return [...small, ...hidden.map(each => `${each} is out of sight`),
        ...scrollWidth > clientWidth ? [`${scrollWidth} px wide on a screen of ${clientWidth}`] : []];
}"""
DATA = "() => [...document.querySelectorAll('*')].flatMap(each => Object.keys(each.dataset))"
TONE = "() => document.querySelector('[data-headline]').dataset.tone"
INTERNALS = Path(__file__).parent.parent.parent / "docs/internals.md"


def judged(page: Page, state: str, *wanted: str) -> list[str]:
    """Return what axe-core finds in this state, and what does not fit a screen or a thumb or is out of sight."""
    wait_for(page, lambda: page.evaluate(HAS_STYLE), "the style, which may have been lost")
    found = axe_finds(page, state)
    for width, height in SIZES:
        page.set_viewport_size({"width": width, "height": height})
        found += [f"{state}, {width} px: {each}" for each in page.evaluate(MISFITS, list(wanted))]
    page.set_viewport_size({"width": 360, "height": 740})
    return found


def states(visit: Visit) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Walk through the states of the page. Yield each one's name, and the parts that must be in sight."""
    page, stage = visit.page, visit.stage
    page.goto(stage.url)
    phase(page, "locked")
    yield "locked", ("#headline", "#secret", "#unlock [type=submit]")
    visit.open()
    yield "known", DECIDES
    page.evaluate("() => document.querySelectorAll('main details').forEach(each => { each.open = true; })")
    yield "everything open", ()
    page.evaluate("() => document.querySelectorAll('main details').forEach(each => { each.open = false; })")
    show(page, "history")
    page.click("#jobs summary")
    page.wait_for_selector("#jobs details[open] img")
    yield "history", ("#outcome",)
    show(page, "vm")
    ask(page, "reset")
    yield "dialog", ("#confirm-title", "[data-keep]", "[data-confirm]")
    page.keyboard.press("Escape")
    misbehave(stage.world.root, fail={"start": "could not open disk image /dev/pve/vm-102-disk-0: No such file"})
    confirm(page, "cycle")
    phase(page, "failed")
    see_headline(page, "Off: start failed", "bad")
    yield "failed", DECIDES
    misbehave(stage.world.root)
    confirm(page, "start")
    phase(page, "done")
    see_headline(page, "Coming back…", "busy")
    yield "coming back", DECIDES
    lose_handler(stage, page)
    yield "no connection", ("#headline", "#outcome")
    find_handler(stage, page)
    phase(page, "done")
    with stage.without_sshd():
        stage.service.not_answering()
        page.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")
        see_headline(page, "Host unreachable", "unknown")
        yield "host unreachable", DECIDES
    stage.service.answering()
    twin = {"name": "twin", "vmid": 103, "proxmox": "answering", "since": None}
    health = {**stage.service.health(), "chat": "on"}
    page.route("**/health", lambda route: route.fulfill(json={**health, "vms": [*health["vms"], twin]}))
    visit.open()
    page.click("#show-vms")
    yield "list", ("#rows [data-vm=devvm]", "#rows [data-vm=twin]", "#outcome")
    page.click("#rows [data-vm=devvm]")
    proposal = {"type": "approval", "verb": "reset", "vm": "devvm", "job": "msg_proposed1", "why": "hung"}
    answer_chat(page, {"type": "text", "text": "It is **hung**."}, {**proposal, "last": "msg_proposed0"})
    ask_claude(page, "Why is it hung?")
    expect(
        page.locator("[data-transcript] [data-proposal=msg_proposed1] [data-approve][data-vm=devvm]")
    ).to_be_visible()
    yield "chat", ("#prompt",)


@pytest.mark.all
def test_every_state_fits_every_screen(visit: Visit) -> None:
    """In every state, axe-core finds no fault, nothing is too wide, and the important parts are in sight.

    The states also have each attribute, and only the tones, that docs/internals.md names for other programs.
    """
    page, found = visit.page, list[str]()
    names, tones = set[str](), set[str]()
    for state, wanted in states(visit):
        names |= set(page.evaluate(DATA))
        tones.add(page.evaluate(TONE))
        found += judged(page, state, *wanted)
    assert not found, "\n".join(found)
    _, _, promise = INTERNALS.read_text(encoding="utf-8").partition("**What other programs may rely on**")
    promise = promise.partition("\n\n")[0]
    hooks = set(re.findall(r"data-(\w+)", promise))
    assert len(hooks) == 11
    assert hooks <= names
    assert tones <= set(re.findall(r"`data-tone` \(`([a-z ]+)`\)", promise)[0].split())


# --- the guest's last words ---

WORDS = ["[    9.000000] <b>oops</b> line 1", "[    9.100000] Kernel panic - not syncing: Attempted to kill init!"]


@pytest.mark.all
def test_the_last_words_are_a_sheet_of_text(visit: Visit) -> None:
    """Evidence with last words shows them whole and as text, and without a picture in the console's place."""
    visit.stage.service.pve("forensics", caller="operator2")
    store = JobStore(Host(VMID, str(visit.stage.world.root)))
    newest = next(record for record in store.records() if record.verb == "forensics")
    path = Path(store.path(newest.id, "evidence.json"))
    kept = json.loads(path.read_text())
    kept["evidence"]["last_words"] = WORDS  # the guest has no kernel that could say them
    path.write_text(json.dumps(kept))
    page = visit.open()
    expect(page.locator("#console-text")).to_contain_text("SeaBIOS")
    page.click("#evidence summary")
    expect(page.locator("#words")).to_have_text("\n".join(WORDS))
    assert page.locator("#words b").count() == 0
    picture = path.with_name("screen.png")
    picture.rename(away := picture.with_name("away"))  # a QEMU that is silent gives none
    visit.open()
    expect(page.locator("#console-text")).to_have_text("\n".join(WORDS))
    expect(page.locator("#glass")).to_be_hidden()
    away.rename(picture)


# --- the page that `breakglass init` writes to be printed ---

HOSTS = {
    "pve1": NewHost("breakglass@192.0.2.10:22", "any"),
    "pve2": NewHost("root@[2001:db8::12]:2222", "any"),
    "<b>&": NewHost("breakglass@192.0.2.12:22", "any"),
}


def test_the_page_to_be_printed_is_one_sheet_of_a4(stage: Stage) -> None:
    """Chromium prints one page, on which no name becomes markup; nothing is loaded and nothing runs."""
    vms = {f"vm{n}": NewVm(102 + n, tuple(HOSTS)) for n in range(44)} | {"mail": NewVm(7, ("pve2",))}
    text = page_text(NewConfig("http://localhost:8080/bg/", "anna", HOSTS, vms), "/etc/breakglass", "rescue")
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
    for line in (
        "<b>&: host 192.0.2.12:22",
        "vm43: VM 145 on pve1, pve2, <b>&",
        "export BREAKGLASS_SECRET_FILE=/etc/breakglass/anna.signing-key",
        "breakglass call cycle --vm vm0",
        "ssh -L 8080:localhost:8080 rescue",
        "ssh -i pve_power breakglass@192.0.2.10 cycle vm=102 id=night-MMDD-HHMM",
        "ssh root@192.0.2.10",
    ):
        assert line in shown

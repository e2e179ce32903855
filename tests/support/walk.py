"""The way from the bookmark to a VM that runs again: taps, scrolls, words in view, shifts.

On a phone's screen, with a key that the device keeps, one Chromium before one handler on loopback; Proxmox's own times
are divided by SCALE.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Page

from breakglass.agents.pve.forensics.plan import SAMPLES_APART
from breakglass.demo.proxmox.world import World

from .agent import hasten
from .service import Service
from .sshd import Sshd

SCALE = 20
AFTER_SECONDS = 5  # that nothing may move in, once the verb is done
# Shifts are noted by the page itself, with those after a tap, which CLS leaves out.
WATCH = """(() => {
    window.shifts = [];
    new PerformanceObserver((list) => {
        for (const {value, hadRecentInput, startTime} of list.getEntries()) {
            shifts.push({value, hadRecentInput, startTime});
        }
    }).observe({type: "layout-shift", buffered: true});
})()"""
# The words that can be read without a scroll: in the dialog if it is open, for what lies behind it is dimmed.
WORDS = """() => {
    const top = document.querySelector("dialog[open]") ?? document.body;
    const walker = document.createTreeWalker(top, NodeFilter.SHOW_TEXT);
    const words = [];
    const range = document.createRange();
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
        const parent = node.parentElement;
        if (!parent.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
        if (parent.getBoundingClientRect().width < 2) continue; // said by a screen reader alone
        for (const {index, 0: word} of node.data.matchAll(/\\S*[\\p{L}\\p{N}]\\S*/gu)) {
            range.setStart(node, index);
            range.setEnd(node, index + word.length);
            const box = range.getBoundingClientRect();
            const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
            const above = document.elementFromPoint(x, y);
            if (above && (above === parent || above.contains(parent) || parent.contains(above))) words.push(word);
        }
    }
    return words;
}"""


@dataclass
class _Walk:
    """One visit: what it has seen, and how often a finger came down."""

    page: Page
    taps: int = 1  # the bookmark
    scrolls: int = 0
    words: int = 0

    def read(self) -> None:
        """Count the words that stand before the eyes now."""
        self.words += len(self.page.evaluate(WORDS))

    def tap(self, selector: str) -> None:
        """Press what is meant, and count the scroll if it was not in view."""
        button = self.page.locator(selector)
        self.scrolls += not button.evaluate(IN_VIEW)
        self.taps += 1
        button.click()


IN_VIEW = """(button) => {
    const {left, right, top, bottom} = button.getBoundingClientRect();
    const corners = [[left + 4, top + 4], [right - 4, bottom - 4]];
    return corners.every(([x, y]) => button.contains(document.elementFromPoint(x, y)));
}"""
KEPT = """() => JSON.parse(localStorage.getItem("breakglass / key") ?? "null")?.since"""


def measure_walk(night: str, verb: str, directory: Path, browser: Browser) -> dict[str, float]:
    """Walk to the end of a verb in one of the demo's nights; return what that took. Needs a real QEMU."""
    with _phone_of(night, directory, browser) as (phone, url):
        page = phone.pages[0]
        walk = _Walk(page)
        page.goto(url)
        page.wait_for_selector("[data-headline]:is([data-tone=good], [data-tone=bad], [data-tone=warn])")
        page.wait_for_function("() => !/Looking/.test(document.querySelector('[data-outcome]').textContent)")
        walk.read()
        first_tap = page.evaluate("() => performance.now()")
        walk.tap(f"[data-verb={verb}]")
        page.wait_for_selector("[data-confirm][aria-disabled=false]")
        walk.read()
        walk.tap("[data-confirm]")
        page.wait_for_selector("[data-outcome]:is([data-phase=done], [data-phase=failed], [data-phase=refused])")
        walk.read()
        assert page.get_attribute("[data-outcome]", "data-phase") == "done"
        page.wait_for_timeout(1000 * AFTER_SECONDS)
        shifts = page.evaluate("() => window.shifts")
    return {
        "taps": walk.taps,
        "scrolls": walk.scrolls,
        "words": walk.words,
        "cls": sum(shift["value"] for shift in shifts if not shift["hadRecentInput"]),
        "moved": sum(shift["value"] for shift in shifts if shift["startTime"] > first_tap),
    }


@contextmanager
def _phone_of(night: str, directory: Path, browser: Browser) -> Iterator[tuple[BrowserContext, str]]:
    """A phone that keeps its key and the page, before a VM in its night; no evidence of it was taken yet."""
    world = World(directory, scale=SCALE, scenario=night)
    hasten(world, SAMPLES_APART)
    world.begin()
    directory.chmod(0o711)
    sshd = Sshd(world)
    service = Service(directory, **sshd.access)
    phone = browser.new_context(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    phone.set_default_timeout(60_000)
    phone.add_init_script(WATCH)
    try:
        service.answering()
        url = f"http://127.0.0.1:{service.port}/"
        sshd.stop()
        _keep_key(phone, f"{url}#key={service.secrets['operator']}")
        sshd.start()
        yield phone, url
    finally:
        phone.close()
        service.stop()
        sshd.stop()
        world.close()


def _keep_key(phone: BrowserContext, link: str) -> None:
    """Unlock the page by the demo's link, before a host that is away: its tab alone may keep a key of this address."""
    page = phone.new_page()
    page.goto(link)
    page.wait_for_selector("[data-outcome]:not([data-phase=locked])")
    page.click("#key summary")
    page.check("#keep-key")
    page.wait_for_function(KEPT)
    page.evaluate("() => navigator.serviceWorker.ready.then(() => true)")
    page.goto("about:blank")

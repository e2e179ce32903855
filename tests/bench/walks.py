"""The way from the bookmark to a VM that runs again: taps, words in view, seconds, shifts.

On a phone's screen, with a key that the device keeps, one Chromium before one handler on loopback; Proxmox's own times
are divided by SCALE. `walk_figures` measures; by itself: `python -m tests.bench.walks`.
"""

import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Page

from breakglass.agents.pve.forensics.plan import SAMPLES_APART
from breakglass.demo.proxmox.world import World

from ..support.agent import hasten
from ..support.browser import chromium
from ..support.service import Service
from ..support.sshd import Sshd

Figures = dict[str, float | str]

SCALE = 20
AFTER_SECONDS = 5  # that nothing may move in, once the verb is done
WALKS: Mapping[str, str] = {  # the verb that a person presses in each of the demo's nights
    "idle": "cycle",
    "disk-frozen": "cycle",
    "qemu-wedged": "cycle",
    "guest-panicked": "reset",
    "stopped": "start",
    "paused": "start",
    "io-error": "start",
}
TITLES: Mapping[str, str] = {
    f"walk_{night.replace('-', '_')}_{figure}": f"page, {night}, {title}"
    for night, verb in WALKS.items()
    for figure, title in (
        ("taps", f"from the bookmark to the end of {verb}: taps (wanted: 3)"),
        ("scrolls", "the same: scrolls (wanted: 0)"),
        ("words", "the same: words in view on the way (wanted: at most 120)"),
        ("known_s", "from the bookmark to the verdict, s"),
        ("verb_s", "from the answer in the dialog to the end of the verb, Proxmox's times / 20, s"),
        ("cls", "layout shifts of the whole visit (wanted: at most 0.05)"),
        ("moved", "layout shifts from the first tap to 5 s after the end (wanted: 0)"),
    )
}
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
    night: str
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


def walk_figures(_: Path) -> Figures:
    """Return every figure of TITLES. Needs a real QEMU."""
    found: Figures = {}
    with chromium() as browser:
        for night in WALKS:
            with tempfile.TemporaryDirectory(prefix="bg", ignore_cleanup_errors=True) as directory:
                found |= figures_of(night, Path(directory), browser)
    return found


def figures_of(night: str, directory: Path, browser: Browser) -> Figures:
    """Return the figures of one night."""
    with _phone_of(night, directory, browser) as (phone, url):
        page = phone.pages[0]
        walk = _Walk(page, night)
        began = time.perf_counter()
        page.goto(url)
        page.wait_for_selector("[data-headline]:is([data-tone=good], [data-tone=bad], [data-tone=warn])")
        page.wait_for_function("() => !/Looking/.test(document.querySelector('[data-outcome]').textContent)")
        known = time.perf_counter() - began
        walk.read()
        first_tap = page.evaluate("() => performance.now()")
        walk.tap(f"[data-verb={WALKS[night]}]")
        page.wait_for_selector("[data-confirm][aria-disabled=false]")
        walk.read()
        began = time.perf_counter()
        walk.tap("[data-confirm]")
        page.wait_for_selector("[data-outcome]:is([data-phase=done], [data-phase=failed], [data-phase=refused])")
        took = time.perf_counter() - began
        walk.read()
        is_done = page.get_attribute("[data-outcome]", "data-phase") == "done"
        page.wait_for_timeout(1000 * AFTER_SECONDS)
        shifts = page.evaluate("() => window.shifts")
    figures: Figures = {
        "taps": walk.taps,
        "scrolls": walk.scrolls,
        "words": walk.words,
        "known_s": round(known, 1),
        "verb_s": round(took, 1) if is_done else "failed",
        "cls": round(sum(shift["value"] for shift in shifts if not shift["hadRecentInput"]), 3),
        "moved": round(sum(shift["value"] for shift in shifts if shift["startTime"] > first_tap), 3),
    }
    return {f"walk_{night.replace('-', '_')}_{name}": figure for name, figure in figures.items()}


@contextmanager
def _phone_of(night: str, directory: Path, browser: Browser) -> Iterator[tuple[BrowserContext, str]]:
    """A phone that keeps its key and the page, before a VM in its night; no evidence of it was taken yet."""
    world = World(directory, scale=SCALE, scenario=night)
    hasten(world, SAMPLES_APART)
    world.begin()
    directory.chmod(0o711)
    sshd = Sshd(world)
    service = Service(directory, port=sshd.port, key=sshd.power_key, host_key=[sshd.host_key])
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


if __name__ == "__main__":
    measured = walk_figures(Path())
    for title_of, title in TITLES.items():
        print(f"{title:<100}  {measured[title_of]:>10}")
    print(json.dumps(measured))

"""What the page costs on a phone's bad line: 400 kbit/s, 400 ms, a processor six times as slow.

Through a real nginx with deploy/nginx's configuration, TLS 1.3 and HTTP/2.
"""

import base64
import hashlib
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from playwright.sync_api import Browser, BrowserContext, sync_playwright

from breakglass.demo.proxmox.world import VMID, World

from ..support import parts
from ..support.browser import FLAGS
from ..support.front import front
from ..support.service import Service
from ..support.sshd import Sshd
from .client import Figures
from .slow_line import SlowLine

BITS_PER_SECOND, ROUND_TRIP, SLOWER = 400_000, 0.4, 6
TITLES = {
    "slow_page_bookmark_ms": "page, bad line: from the bookmark, stored, to the known state, ms (wanted: under 2,500)",
    "slow_page_shown_ms": "page, bad line: the same, to its first picture, ms",
    "slow_page_first_ms": "page, bad line: first visit, to the handler's answer, ms (wanted: under 3,500)",
    "slow_page_first_bytes": "page, bad line: first visit, bytes on the line, TLS included",
    "slow_page_again_bytes": "page, bad line: from the bookmark, bytes on the line",
    "slow_page_away_ms": "page, bad line: from the bookmark to the word that nothing answers, ms (wanted: under 3,000)",
}
KEPT = """async () => {
    for (const {name} of await indexedDB.databases()) {
        const database = await new Promise((done) => {
            indexedDB.open(name).onsuccess = ({target}) => done(target.result);
        });
        const kept = await new Promise((done) => {
            database.transaction("key").objectStore("key").count().onsuccess = ({target}) => done(target.result);
        });
        database.close();
        if (kept) return true;
    }
    return false;
}"""
# What each page is watched for, noted by the page's own clock, which begins with the navigation.
WATCH = """(() => {
    const text = (selector) => document.querySelector(selector)?.textContent ?? "";
    const seen = {
        known: () => /^(good|bad|warn)$/.test(document.querySelector("[data-headline]")?.dataset.tone)
            || /QEMU: (?!was)/.test(text("[data-headline]")) || /Running/.test(text("#state-word")),
        heard: () => /: answering/.test(text("#link-breakglass")),
        away: () => /no connection|no answer|not answering/i.test(text("[data-headline]")),
    };
    window.times = {};
    const look = () => {
        for (const name in seen) if (!(name in times) && seen[name]()) times[name] = performance.now();
    };
    const everything = {subtree: true, childList: true, characterData: true, attributes: true};
    new MutationObserver(look).observe(document, everything);
    new PerformanceObserver((list) => { window.times.shown ??= list.getEntries()[0].startTime; })
        .observe({type: "largest-contentful-paint", buffered: true});
})()"""


def slow_page_figures(directory: Path, count: int = 3) -> Figures:
    """Return the medians of a few visits, each on its own connection."""
    with _place(directory) as (browser, line, service):
        url = f"https://rescue.test:{line.port}/"
        firsts = [_visit(_new_phone(browser), line, url, "heard") for _ in range(count)]
        phone = _new_phone(browser)
        _keep_key(phone, url, service.secrets["operator"])
        bookmarks = [_visit(phone, line, url, "known") for _ in range(count)]
        line.swallows = True
        losses = [_visit(phone, line, url, "away") for _ in range(count)]
    return {
        "slow_page_bookmark_ms": _median(bookmarks, "known"),
        "slow_page_shown_ms": _median(bookmarks, "shown"),
        "slow_page_first_ms": _median(firsts, "heard"),
        "slow_page_first_bytes": _median(firsts, "bytes"),
        "slow_page_again_bytes": _median(bookmarks, "bytes"),
        "slow_page_away_ms": _median(losses, "away"),
    }


def _median(visits: "list[Figures]", name: str) -> float:
    return round(statistics.median(visit[name] for visit in visits))


@contextmanager
def _place(directory: Path) -> Iterator[tuple[Browser, SlowLine, Service]]:
    """A host with its VM, a handler, nginx and the line before it, and a browser."""
    world = World(directory)
    assert world.qm("start", str(VMID)).returncode == 0
    directory.chmod(0o711)
    sshd, line = Sshd(world), SlowLine(BITS_PER_SECOND, ROUND_TRIP)
    url = f"https://rescue.test:{line.port}/"
    service = Service(directory, **sshd.access, urls=[url])
    try:
        service.answering()
        with front("nginx", directory / "nginx", service.port) as proxy, sync_playwright() as playwright:
            line.to = proxy.port
            flags = [
                *FLAGS,
                f"--ignore-certificate-errors-spki-list={_key_digest(directory / 'nginx/certificate.pem')}",
            ]
            yield playwright.chromium.launch(executable_path=parts.find_browser(), args=flags), line, service
    finally:
        line.close()
        service.stop()
        sshd.stop()
        world.close()


def _key_digest(certificate: Path) -> str:
    """Return what Chromium calls a certificate's key. If it ignored all errors, it would cache nothing of the page."""
    public = x509.load_pem_x509_certificate(certificate.read_bytes()).public_key()
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(der).digest()).decode()


def _new_phone(browser: Browser) -> BrowserContext:
    context = browser.new_context(viewport={"width": 360, "height": 740})
    context.set_default_timeout(60_000)
    context.add_init_script(WATCH)
    return context


def _keep_key(phone: BrowserContext, url: str, key: str) -> None:
    """Unlock the page with a key that stays, and return once the device has stored the page."""
    page = phone.new_page()
    page.goto(url)
    page.fill("#secret", key)
    page.check("#keep-key")
    page.keyboard.press("Enter")
    page.wait_for_function("() => window.times.known")
    page.evaluate("() => navigator.serviceWorker.ready.then(() => true)")
    page.wait_for_function(KEPT)
    page.close()


def _visit(phone: BrowserContext, line: SlowLine, url: str, awaited: str) -> Figures:
    """Open the page as from a bookmark after some hours: no connection is left, and the worker has been ended."""
    page = phone.new_page()
    client = phone.new_cdp_session(page)
    client.send("ServiceWorker.enable")
    client.send("ServiceWorker.stopAllWorkers")
    client.send("Emulation.setCPUThrottlingRate", {"rate": SLOWER})
    line.drop()
    before = line.passed
    page.goto(url, wait_until="commit")
    page.wait_for_function(f"() => window.times.{awaited} && window.times.shown")
    found: Figures = page.evaluate("() => window.times")
    page.wait_for_load_state("networkidle")
    page.close()
    return {**found, "bytes": line.passed - before}

"""The page without its handler opens from its cache as a whole, with the last knowledge, and reconnects by itself."""

from pathlib import Path

import pytest
from playwright.sync_api import Page

from ..support.browser import (
    Visit,
    find_handler,
    keep_key,
    phase,
    see_headline,
    text_of,
    wait_for,
    wait_for_text,
)
from ..support.front import DEPLOY, run_nginx
from ..support.ports import reserve_port

pytestmark = pytest.mark.real("chromium", "sshd", "qemu")
SETS = "async () => (await (await caches.open('breakglass page /')).keys()).length"


def kept_page(visit: Visit) -> Page:
    """Open the page with a key that stays, and return once the worker has stored all of it."""
    page = keep_key(visit)
    page.evaluate("() => navigator.serviceWorker.ready.then(() => true)")
    wait_for(page, lambda: page.evaluate("() => Boolean(navigator.serviceWorker.controller)"), "the worker's claim")
    return page


def test_the_page_opens_when_the_handler_is_down(visit: Visit) -> None:
    """The cached page opens with the last names and commands, and finds the handler again.

    A proxy's error page counts as no answer and is not cached.
    """
    page = kept_page(visit)
    for broken in ("error page", "down"):
        visit.stage.wire.error_page = broken == "error page"
        visit.stage.wire.drop() if broken == "error page" else visit.stage.wire.down()
        page.reload()
        see_headline(page, "No connection", "unknown")
        wait_for_text(page, "second", "Not answering since")
        wait_for_text(page, "name", "devvm (VM 102)")
        assert "qm reset 102" in text_of(page, "by-hand-lines")
        assert "Signed, with bash, python3 and curl" in text_of(page, "by-hand")
    find_handler(visit.stage, page)
    wait_for_text(page, "link-breakglass", "Breakglass: answering")
    phase(page, "idle")


def make_older(page: Page) -> None:
    """Replace the stored files by those of an older version, with another style."""
    page.evaluate(
        """async () => {
            const cache = await caches.open("breakglass page /");
            const [request] = await cache.keys();
            const set = await (await cache.match(request)).json();
            set.files["style.css"].text = ":root { --stored: yes; --touch: 1px }";
            set.list = {version: "0.0.1", files: {...set.list.files, "style.css": "of an older file"}};
            await cache.put(request, new Response(JSON.stringify(set)));
            window.told = [];
            navigator.serviceWorker.addEventListener("message", ({data}) => window.told.push(data.newPage));
        }"""
    )


def is_older(page: Page) -> bool:
    """Tell whether the page has the older style."""
    look = "() => getComputedStyle(document.documentElement).getPropertyValue('--stored') === 'yes'"
    return bool(page.evaluate(look))


def test_old_and_new_files_of_the_page_never_mix(visit: Visit) -> None:
    """If one new file can't be loaded, all files stay old. Once it can, the next opening shows the new ones."""
    page = kept_page(visit)
    make_older(page)
    browser = visit.context.new_cdp_session(page)
    # within the file's bytes, because before the first header the browser itself asks again, maybe after the repair
    visit.stage.wire.cut("GET /vm/run.js", 2000)
    for _ in range(2):
        browser.send("Network.clearBrowserCache")
        cuts = visit.stage.wire.cuts
        page.reload()
        phase(page, "idle")
        wait_for(page, lambda cuts=cuts: visit.stage.wire.cuts > cuts, "a broken file")  # type: ignore[misc]
        assert is_older(page)
    visit.stage.wire.mend()
    page.reload()
    phase(page, "idle")
    assert is_older(page)
    wait_for(page, lambda: page.evaluate(SETS) == 2, "the new set")
    page.reload()
    phase(page, "idle")
    assert not is_older(page)
    assert page.evaluate(SETS) == 1


@pytest.mark.all
def test_the_cached_page_opens_when_connections_are_never_answered(visit: Visit) -> None:
    """If connections are accepted and never answered, the cached page opens with the stored key and commands."""
    page = kept_page(visit)
    page.add_init_script(
        """window.said = []; new MutationObserver(
        () => window.said.push(document.getElementById("second")?.textContent))
        .observe(document, {subtree: true, childList: true});"""
    )
    visit.stage.wire.swallow()
    page.reload(wait_until="commit")
    see_headline(page, "No connection", "unknown")
    wait_for_text(page, "second", "Not answering since")
    assert "No answer yet" in page.evaluate("() => window.said")  # for a few seconds
    wait_for_text(page, "key-word", "kept here since")
    assert "qm reset 102" in (page.text_content("#by-hand-lines") or "")


@pytest.mark.all
@pytest.mark.real("nginx")
def test_below_a_path_the_page_is_stored_for_that_path(visit: Visit, tmp_path: Path) -> None:
    """Behind deploy/nginx's sub-path, the stored page opens without nginx. Other paths are not stored."""
    port = reserve_port()
    shipped = (DEPLOY / "nginx/sub-path.conf").read_text()
    location = shipped.replace("127.0.0.1:8080", f"127.0.0.1:{visit.stage.wire.port}")
    page, url = visit.page, f"http://127.0.0.1:{port}/bg/"
    with run_nginx(tmp_path, port, f"server {{ listen 127.0.0.1:{port}; {location} }}"):
        page.goto(url)
        phase(page, "locked")
        page.evaluate("() => navigator.serviceWorker.ready.then(() => true)")
        stored = page.evaluate(
            "async () => [(await caches.keys()).join(), (await navigator.serviceWorker.ready).scope]"
        )
        assert stored == ["breakglass page /bg/", url]
    page.reload()
    phase(page, "locked")
    assert page.evaluate("() => fetch('/').then(() => 'answered', () => 'not answered')") == "not answered"

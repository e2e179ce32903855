"""The page when the handler is away: from its cache, whole or not at all, with what is known; and back by itself."""

import pytest
from playwright.sync_api import Page

from ..support.browser import Visit, keep_key, lose_handler, phase, text_of, wait_for, wait_for_text

pytestmark = pytest.mark.real("chromium", "sshd", "qemu")


def kept_page(visit: Visit) -> Page:
    """Open the page with a key that stays, and return once it is in the browser's cache.

    The worker gives up after 3 s, which a busy machine may need: then the next visit installs it.
    """
    page = keep_key(visit)
    reload_until(page, "() => Promise.race([navigator.serviceWorker.ready, new Promise(r => setTimeout(r, 5_000))])")
    return page


def reload_until(page: Page, seen: str) -> None:
    """Reload the page until a condition is true."""

    def try_again() -> bool:
        if page.evaluate(f"async () => Boolean(await ({seen})())"):
            return True
        page.reload()
        phase(page, "idle")
        return False

    wait_for(page, try_again, "a page with which that is so")


def test_the_page_opens_when_the_handler_is_down(visit: Visit) -> None:
    """The cached page opens with the last names and commands, and reconnects by itself.

    A proxy's error page counts as no answer and is not cached.
    """
    page = kept_page(visit)
    for broken in ("error page", "down"):
        visit.stage.wire.error_page = broken == "error page"
        visit.stage.wire.drop() if broken == "error page" else visit.stage.wire.down()
        page.reload()
        wait_for_text(page, "light-handler", "not answering since")
        wait_for_text(page, "name", "devvm (VM 102)")
        assert "qm reset 102" in text_of(page, "by-hand-lines")
        assert "Signed, with bash, python3 and curl" in text_of(page, "by-hand")
    visit.stage.wire.error_page = False
    visit.stage.wire.up()
    wait_for_text(page, "light-handler", "Handler: answering")
    phase(page, "idle")


def test_old_and_new_files_of_the_page_never_mix(visit: Visit) -> None:
    """If one file of the page can't be loaded, all files come from the cache; once it can, all files are new."""
    page = kept_page(visit)
    page.evaluate(
        """async () => (await caches.open("breakglass")).put("style.css",
            new Response(":root { --kept: yes }", {headers: {"content-type": "text/css"}}))"""
    )
    looks = "() => getComputedStyle(document.documentElement).getPropertyValue('--kept')"
    visit.stage.wire.cut("GET /view.js", 0)
    page.reload()
    phase(page, "idle")
    assert page.evaluate(looks) == "yes"
    visit.stage.wire.mend()
    reload_until(page, f"() => ({looks})() === ''")


@pytest.mark.all
def test_the_cached_page_opens_when_connections_are_never_answered(visit: Visit) -> None:
    """If connections are accepted and never answered, the cached page opens with the stored key and commands."""
    page = kept_page(visit)
    visit.stage.wire.swallow()
    page.reload(wait_until="commit")
    wait_for_text(page, "light-handler", "not answering since")
    wait_for_text(page, "key-word", "unlocked")
    assert "qm reset 102" in (page.text_content("#by-hand-lines") or "")


def test_a_disconnected_page_links_to_the_handlers_health(visit: Visit) -> None:
    """A login page in front of the handler is not shown by the worker; a link leads to it."""
    page = kept_page(visit)
    lose_handler(visit.stage, page)
    visit.stage.wire.up()
    assert page.locator("#see").get_attribute("href") == "health"
    page.goto(f"{visit.stage.url}health")
    assert '"ok":true' in page.inner_text("body")


def test_names_stored_by_other_pages_of_the_origin_are_untouched(visit: Visit) -> None:
    """Storage entries of other pages are neither read nor deleted."""
    page = visit.page
    page.goto(f"{visit.stage.url}health")
    theirs = {"vms": '{"a":1}', "by-hand devvm": "7", "grafana.prefs": "dark", "job devvm": "{"}
    page.evaluate("them => { for (const each in them) localStorage[each] = sessionStorage[each] = them[each] }", theirs)
    visit.open()
    page.click("#key summary")
    page.click("#forget")
    phase(page, "locked")
    stored = page.evaluate("() => [{...localStorage}, {...sessionStorage}]")
    for each in stored:
        assert {name: value for name, value in each.items() if not name.startswith("breakglass / ")} == theirs

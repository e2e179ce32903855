"""The address at which the page is opened. Its requests are valid only there, and it decides if a key can be kept."""

from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, expect

from ..support.browser import (
    KEPT_KEYS,
    Visit,
    confirm,
    open_key,
    phase,
    press,
    text_of,
    wait_for,
    wait_for_text,
)

pytestmark = pytest.mark.real("chromium", "sshd", "qemu")


def unlock(visit: Visit, url: str) -> Page:
    """Open the page at an address, and enter the key by hand."""
    visit.page.goto(url)
    visit.page.fill("#secret", visit.keys["operator"])
    visit.page.keyboard.press("Enter")
    return visit.page


@pytest.mark.all
def test_each_request_of_the_page_names_its_address(person: Visit) -> None:
    """Reads and verbs name the page's own address without query and fragment, even at the end of a tunnel.

    At a name with TLS the page offers to keep the key, and the key is there after a reload.
    """
    page = person.page
    page.goto(f"{person.stage.url}index.html?from=mail")
    expect(page.locator("#no-keep")).to_be_hidden()
    page.check("#keep-key")
    page.fill("#secret", person.keys["operator"])
    page.keyboard.press("Enter")
    phase(page, "idle")
    wait_for(page, lambda: page.evaluate(KEPT_KEYS) == 1, "the key to be stored")
    page.reload()
    phase(page, "idle")
    confirm(page, "reset")
    phase(page, "done")
    assert {body["to"] for body in person.posts} == {person.stage.url}
    tunnel = f"http://127.0.0.1:{person.stage.service.port}/"
    phase(unlock(person, tunnel), "idle")
    assert person.posts[-1]["to"] == tunnel


def test_at_another_address_the_page_links_to_the_right_one(person: Visit) -> None:
    """Nothing is sent to a host. The link shows its address, and the key works there."""
    right = person.stage.url
    page = unlock(person, right.replace("rescue.test", "other.rescue.test"))
    phase(page, "notSent")
    link = page.locator("#there")
    expect(link).to_have_text(right)
    assert (link.get_attribute("href"), link.evaluate("a => a.tagName")) == (right, "A")
    assert f"and this is {right}" in text_of(page, "dock")
    link.click()
    page.wait_for_url(right)
    phase(unlock(person, right), "idle")
    expect(link).to_be_hidden()


NO_ADDRESSES = (
    "javascript:alert(1)",
    "data:text/html,x",
    "//elsewhere.test/",
    "https://a.test@b.test/",
    "https://a.test/?x",
    7,
)


@pytest.mark.all
def test_what_is_no_address_of_a_handler_is_no_link(visit: Visit) -> None:
    """Another scheme, a name before an @, or a value that is not text gives no link. A handler's address does."""
    page = visit.open()
    error = {"code": "wrong-handler", "message": "", "hint": "use it", "reached": False, "url": ""}
    page.route("**/pve", lambda route: route.fulfill(status=403, json={"error": error}))
    there = page.locator("#there")
    for url in NO_ADDRESSES:
        error |= {"message": f"not at {url}", "url": url}
        press(page, "status")
        wait_for_text(page, "dock", f"not at {url}")
        expect(there).to_be_hidden()
        assert there.get_attribute("href") == "https://"
    error |= {"message": "elsewhere", "url": "https://a.test/"}
    press(page, "status")
    expect(there).to_have_text("https://a.test/")


# --- the key that is kept ---


@pytest.mark.parametrize(
    "host", ["127.0.0.1", *(pytest.param(name, marks=pytest.mark.all) for name in ("localhost", "rescue.localhost"))]
)
def test_no_key_is_kept_at_the_end_of_a_tunnel(visit: Visit, host: str) -> None:
    """Any program can listen on that port next, and its page could sign with the key. The page says so."""
    page = visit.page
    page.goto(f"http://{host}:{urlsplit(visit.stage.url).port}/")
    expect(page.locator("#no-keep")).to_be_visible()
    assert text_of(page, "no-keep").startswith("The key is not kept on this device, because another program could")
    assert not page.is_visible("#keep-key")
    phase(unlock(visit, page.url), "idle")
    open_key(page)
    assert text_of(page, "key-word") == "not kept here"
    assert not page.is_visible("#keep-key")
    assert page.evaluate(KEPT_KEYS) == 0

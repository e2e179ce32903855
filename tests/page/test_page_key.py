"""The key that a device keeps: how long it is kept, Forget in every tab, a pairing link that can't be opened."""

import pytest
from playwright.sync_api import Page, expect

from ..support.browser import KEPT_KEYS, Stage, Visit, open_key, phase, wait_for, wait_for_text
from ..support.pairing_links import offer
from .test_page_looks import judged
from .test_page_pair import IPHONE

pytestmark = pytest.mark.real("chromium", "sshd", "qemu")

MAC = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 Version/18.0 Safari/605.1.15"
TOUCHES = "Object.defineProperty(navigator, 'maxTouchPoints', {get: () => 5});"
AT_HOME = """const ask = window.matchMedia;
window.matchMedia = (words) => (words === "(display-mode: standalone)" ? {matches: true} : ask.call(window, words));"""
PROMISES = "StorageManager.prototype.persist = async () => true;"
SENTENCE = (
    "Safari deletes it after seven days without a visit. "
    "Add this page to the home screen (Share), and keep the key there."
)


def unlock(visit: Visit) -> Page:
    """Enter the key, and return once the page has looked."""
    page = visit.page
    page.fill("#secret", visit.keys["operator"])
    page.keyboard.press("Enter")
    phase(page, "idle")
    return page


def keep(page: Page) -> None:
    """Have the key kept on this device, while the page is unlocked."""
    open_key(page)
    page.check("#keep-key")
    wait_for(page, lambda: page.evaluate(KEPT_KEYS) == 1, "the key to be stored")


@pytest.mark.parametrize(
    ("agent", "script"),
    [
        pytest.param(IPHONE, "", id="iPhone"),
        pytest.param(MAC, TOUCHES, id="an iPad that calls itself a Mac", marks=pytest.mark.all),
    ],
)
def test_an_apple_device_says_beside_the_box_that_a_tab_forgets(
    stage: Stage, bound: Stage, agent: str, script: str
) -> None:
    """The sentence is beside the key's field, before the box is ticked, and later beside the box."""
    stage.settle()
    person = Visit(bound, ignore_https_errors=True, user_agent=agent)
    person.context.add_init_script(script)
    page = person.page
    page.goto(bound.url)
    phase(page, "locked")
    words = page.locator("#may-keep").get_by_text(SENTENCE)
    expect(words).to_be_visible()
    assert judged(page, "locked, on an iPhone") == []
    keep(unlock(person))
    expect(words).to_be_visible()
    person.close()


@pytest.mark.parametrize(
    ("agent", "script"),
    [
        pytest.param(MAC, "", id="a Mac"),
        pytest.param(IPHONE, AT_HOME, id="the home screen", marks=pytest.mark.all),
    ],
)
def test_what_the_browser_promised_is_said(stage: Stage, bound: Stage, agent: str, script: str) -> None:
    """A Mac and a page on the home screen forget nothing after seven days. Both say what the browser has promised."""
    stage.settle()
    person = Visit(bound, ignore_https_errors=True, user_agent=agent)
    person.context.add_init_script(script + PROMISES)
    person.page.goto(bound.url)
    phase(person.page, "locked")
    page = unlock(person)
    open_key(page)
    expect(page.locator("#key-kept")).to_have_text("The key is only in this tab, and is gone when you close it.")
    keep(page)
    expect(page.locator("#key-kept")).to_contain_text("The browser has promised not to delete the key.")
    assert "seven days" not in page.inner_text("body")
    person.close()


@pytest.mark.all
def test_a_pairing_link_whose_module_does_not_come_is_still_good(person: Visit) -> None:
    """Whether the link is pasted or in the address, the page says that nothing was sent, and the link stays."""
    page, given = person.page, offer(person.stage)
    page.route("**/key/pair.js", lambda route: route.abort())
    page.goto(given.link)
    wait_for_text(page, "key-trouble", "Nothing was sent. Open the link again.")
    assert page.url == given.link
    page.goto(person.stage.url)
    page.fill("#secret", given.link)
    page.keyboard.press("Enter")
    wait_for_text(page, "key-trouble", "Nothing was sent. Open the link again.")
    assert page.input_value("#secret") == given.link
    assert given.state == "waiting"

"""The key that a device keeps: for how long, at which address of the page, and how a pairing link brings it."""

import time
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, Route, expect

from breakglass.config import pairing

from ..support.browser import (
    KEPT_KEYS,
    Visit,
    fall_asleep,
    keep_key,
    open_key,
    phase,
    press,
    text_of,
    wait_for,
    wait_for_text,
    wake,
)
from ..support.pairing_links import offer

pytestmark = pytest.mark.real("chromium", "sshd", "qemu")


def unlock(visit: Visit, url: str = "") -> Page:
    """Open the page at an address, if one is given, and enter the key by hand."""
    if url:
        visit.page.goto(url)
    visit.page.fill("#secret", visit.keys["operator"])
    visit.page.keyboard.press("Enter")
    return visit.page


# --- the address at which the page is opened ---


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


@pytest.mark.all
def test_no_key_is_kept_at_the_end_of_a_tunnel(visit: Visit) -> None:
    """Any program can listen on that port next, and its page could sign with the key. The page says so.

    A key that is there, as from the demo's link, is deleted.
    """
    keep_key(visit)
    page = visit.tab()  # which did not come from the demo's link
    page.goto(visit.stage.url)
    phase(page, "locked")
    wait_for(page, lambda: page.evaluate(KEPT_KEYS) == 0, "the key to be deleted")
    expect(page.locator("#no-keep")).to_be_visible()
    visit.page = page
    phase(unlock(visit), "idle")
    open_key(page)
    expect(page.locator("#key-word")).to_have_text("not kept here")
    assert not page.is_visible("#keep-key")
    assert page.evaluate(KEPT_KEYS) == 0


# --- a device is paired by a link, with a question, one request, an unreadable key, and words for each failure ---

FOLLOW = "link => { location = link; }"
HISTORY = "() => navigation.entries().map(({ url }) => url)"
KEPT_TEXT = "() => JSON.stringify([{...localStorage}, {...sessionStorage}])"


def open_link(page: Page, link: str) -> None:
    """Open a link as a scanner does, in a new page and not only with another fragment."""
    page.goto("about:blank")
    page.goto(link)


def asked(page: Page, caller: str = "operator") -> None:
    """Return once the question can be answered."""
    page.wait_for_selector("#yes[aria-disabled=false]")
    expect(page.locator("#confirm-title")).to_have_text(f"Pair this device as {caller}?")


def says(page: Page, words: str) -> None:
    """Return once the page shows this text in sight."""
    expect(page.locator("#pair-word")).to_contain_text(words)
    expect(page.locator("#pair-word")).to_be_visible()


def fetches(visit: Visit) -> int:
    """Return how many sealed keys were asked for."""
    return sum(set(body) == {"id"} for body in visit.posts)


def test_a_link_pairs_a_device(person: Visit) -> None:
    """Nothing is sent before the yes, and one request after it. The key can't be read, and is nowhere as text."""
    page, given = person.page, offer(person.stage)
    open_link(page, given.link)
    asked(page)
    assert page.evaluate("() => document.activeElement.id") == "keep"
    page.reload()
    asked(page)
    fall_asleep(page)
    page.wait_for_selector("#confirm", state="hidden")
    wake(page)  # the person returns, and is not asked again
    asked(page)
    page.keyboard.press("Enter")
    page.wait_for_selector("#confirm", state="hidden")
    expect(page).to_have_url(person.stage.url)  # only after that, the page's question ends
    assert (given.state, fetches(person)) == ("waiting", 0)
    page.evaluate(FOLLOW, given.link)  # while the page is open
    asked(page)
    assert "key of operator" in text_of(page, "confirm-facts")
    page.dblclick("#yes")
    says(page, "Paired as operator. ")
    phase(page, "idle")
    assert (given.state, fetches(person)) == ("fetched", 1)
    assert [url for url in page.evaluate(HISTORY) if "pair" in url] == []
    wait_for(page, lambda: page.evaluate(KEPT_KEYS) == 1, "the key to be stored")
    text = page.evaluate(KEPT_TEXT) + page.content()
    assert person.keys["operator"][6:] not in text
    assert given.link.split(".")[-1].split("&")[0] not in text
    open_link(page, given.link)  # again, by a person who is not sure
    says(page, "used already")
    phase(page, "idle")  # with the earlier key
    assert (given.state, fetches(person), page.url) == ("fetched", 1, person.stage.url)


@pytest.mark.all
def test_another_key_is_replaced_and_two_tabs_ask_once(person: Visit) -> None:
    """The question says whose key is deleted. Then the page acts as the other caller. A second yes sends nothing."""
    page, other, first = person.page, person.tab(), offer(person.stage, "viewer")
    for tab in (page, other):
        tab.bring_to_front()
        open_link(tab, first.link)
        asked(tab, "viewer")
    page.bring_to_front()
    page.click("#yes")
    says(page, "Paired as viewer.")
    other.bring_to_front()
    asked(other, "viewer")  # it asks again, because it was out of sight
    other.click("#yes")
    says(other, "used already")
    other.close()
    assert (first.state, fetches(person)) == ("fetched", 1)
    page.bring_to_front()
    open_link(page, offer(person.stage).link)
    asked(page)
    assert "key of viewer" in text_of(page, "confirm-facts")
    page.click("#yes")
    says(page, "Paired as operator. ")
    phase(page, "idle")
    person.stage.service.logged('"caller": "operator", "key"')
    page.reload()
    phase(page, "idle")
    assert page.evaluate(KEPT_KEYS) == 1


@pytest.mark.all
def test_the_key_field_takes_a_link(person: Visit) -> None:
    """Pasted and submitted, a link asks the same question. One of another address, or a part of one, sends nothing."""
    page, given = person.page, offer(person.stage)
    page.goto(person.stage.url)
    phase(page, "locked")
    for link, words in (
        (given.link.replace("rescue.test", "other.rescue.test"), "This pairing link is for https://other.rescue.test:"),
        (given.link[: given.link.index("&")], "complete pairing link"),
    ):
        page.fill("#secret", link)
        page.keyboard.press("Enter")
        says(page, words)
    page.fill("#secret", f" {given.link}\n")
    page.keyboard.press("Enter")
    asked(page)
    assert page.input_value("#secret") == ""
    page.click("#yes")
    says(page, "Paired as operator. ")
    assert (given.state, fetches(person)) == ("fetched", 1)


def lose(route: Route) -> None:
    route.abort()


def say_bad_gateway(route: Route) -> None:
    route.fulfill(status=502, body="<h1>Oh, no.</h1>")


@pytest.mark.all
def test_a_failure_says_what_to_do(person: Visit) -> None:
    """Each failure has its words, leaves no link in the address, and no key."""
    page = person.page
    page.goto(person.stage.url)
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    def fails(link: str, words: str, trouble: Callable[[Route], object] | None = None) -> None:
        page.evaluate(FOLLOW, link)
        page.wait_for_selector("#yes[aria-disabled=false]")
        if trouble:
            page.route("**/pair", trouble)
        page.click("#yes")
        if trouble is hold:
            wait_for(page, lambda: held, "the request")
            page.reload()
            held.pop().abort()
        says(page, words)
        page.unroute("**/pair")
        assert page.url == person.stage.url
        phase(page, "locked")

    spent, altered = offer(person.stage), offer(person.stage)
    pairing.fetch_once(str(spent.directory), spent.id, time.monotonic() + 60)
    fails(spent.link, "used already, or is older than 10 minutes. Ask for a new one")
    assert spent.state == "twice"
    fails(offer(person.stage, seconds=0).link, "used already, or is older than 10 minutes. Ask for a new one")
    one_time_key = altered.one_time_key
    text = pairing.as_base64url(one_time_key)
    other = pairing.as_base64url(bytes([one_time_key[0] ^ 1, *one_time_key[1:]]))
    fails(altered.link.replace(text, other), "This pairing link can’t decrypt the key")
    fails(offer(person.stage).link.replace("as=operator", "as=anna"), "This pairing link can’t decrypt the key")
    fails(offer(person.stage).link, "No answer came. The key may have been handed out", lose)
    fails(offer(person.stage).link, "No answer came. The key may have been handed out", say_bad_gateway)
    fails(offer(person.stage).link, "The pairing was interrupted", hold)
    sent = fetches(person)
    page.evaluate(FOLLOW, altered.link[:-12])
    says(page, "complete pairing link")
    assert (page.url, fetches(person)) == (person.stage.url, sent)
    assert page.evaluate(KEPT_KEYS) == 0


@pytest.mark.all
def test_where_a_key_is_not_kept_the_question_says_so(person: Visit) -> None:
    """At a loopback address the question says so before the link is used. Without TLS there is no question."""
    page, given = person.page, offer(person.stage)
    port = person.stage.service.port
    open_link(page, f"http://rescue.test:{port}/{given.fragment}")
    says(page, "only over https")
    assert given.state == "waiting"
    open_link(page, f"http://127.0.0.1:{port}/{given.fragment}")
    asked(page)
    assert "not kept" in text_of(page, "confirm-facts")
    page.click("#yes")
    says(page, "Paired as operator, until")
    phase(page, "idle")
    assert page.evaluate(KEPT_KEYS) == 0

"""The page says only what is known about requests, its key, its other tab and proposals."""

import re

import pytest
from playwright.sync_api import expect

from ..support.browser import (
    Visit,
    confirm,
    held_requests,
    looked,
    phase,
    press,
    see_headline,
    wait_for,
    wait_for_text,
)
from ..support.page_chat import PROPOSES, ask_claude, ended
from ..support.service import new_secret

pytestmark = pytest.mark.real("chromium", "sshd", "qemu")


def test_nothing_is_promised_before_the_host_has_it(visit: Visit) -> None:
    """On a network that swallows packets, the page asks to wait. It promises more only after the host's first line."""
    page = visit.open()
    with held_requests(page, '"verb":"reset"') as held:
        confirm(page, "reset")
        wait_for(page, lambda: bool(held), "the reset to leave")
        wait_for_text(page, "why", "Sending. Keep this page open.")
        wait_for_text(page, "outcome-word", "Reset: sending")
        page.evaluate("""() => {
            globalThis.said = [];
            const note = () => said.push(document.getElementById("why").textContent);
            new MutationObserver(note).observe(document.body, {subtree: true, childList: true, characterData: true});
        }""")
    phase(page, "done")
    assert any(words.startswith("It continues on the host") for words in page.evaluate("() => said"))


def test_a_key_that_was_good_is_no_longer_valid(visit: Visit) -> None:
    """It was revoked while the page was open: the page is locked, By hand is open, and it asks for a new key."""
    page = visit.open()
    service = visit.stage.service
    revoked = service.config.read_text().replace(service.secrets["operator"], new_secret())
    with service.configured(revoked):
        press(page, "status")
        see_headline(page, "Key no longer valid", "warn")
    phase(page, "locked")
    wait_for_text(page, "key-trouble", "Ask the person who runs Breakglass for a new pairing link")
    expect(page.locator("#by-hand[open]")).to_contain_text("qm reset 102")
    page.fill("#secret", service.secrets["operator"])
    page.keyboard.press("Enter")
    looked(page)


def test_a_second_tab_knows_what_the_first_one_did(visit: Visit) -> None:
    """The second tab does not call it another caller's verb, and looks at the VM once it has ended."""
    page, other = visit.open(), visit.open(visit.tab())
    page.bring_to_front()
    confirm(page, "reset")
    phase(page, "done")
    other.bring_to_front()
    jobs = visit.stage.service.pve("history").json["jobs"]
    [reset] = [job["id"] for job in jobs if job["verb"] == "reset"][:1]
    press(other, "status")
    phase(other, "idle")
    wait_for(other, lambda: other.evaluate(SEEN) == reset, "the end of the reset to be seen")
    looked(other)
    expect(other.locator("#headline")).not_to_have_text(re.compile("Not examined|Looking"))
    expect(other.locator("#notes")).not_to_contain_text("Another caller")


SEEN = """async () => {
    const {viewOf} = await import("/state/store.js");
    return viewOf().verdict?.from === "forensics" && viewOf().verdict.last;
}"""


def test_one_of_two_proposals_acts(visit: Visit) -> None:
    """The second proposal was for the same state. After the first verb it is used up, and says who did what when."""
    page = visit.open()
    for count in (1, 2):
        ask_claude(page, PROPOSES)
        ended(page, count)
    first, second = page.locator("[data-proposal]").all()
    first.locator("[data-approve]").click()
    page.click("#yes[aria-disabled=false]")
    expect(first).to_contain_text("Reset: done at ")
    expect(second).to_contain_text(re.compile(r"Spent: reset at \d\d:\d\d:\d\d by operator"))
    expect(page.locator("[data-approve]")).to_have_count(0)
    assert len(visit.mutating) == 1

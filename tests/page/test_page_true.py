"""The page says only what is known about requests, its key, its other tab and proposals."""

import re

import pytest
from playwright.sync_api import expect

from ..support.browser import (
    Visit,
    confirm,
    looked,
    phase,
    press,
    see_headline,
    wait_for,
    wait_for_text,
)
from ..support.service import new_secret

pytestmark = pytest.mark.real("chromium", "sshd", "qemu")


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

"""The override button after a refusal, which only the host can offer."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from breakglass.agents.pve.words import ANYWAY

from ..support.browser import Stage, Visit, confirm, phase, press, text_of
from ..support.scripted import STORAGE_HUNG, Scripted, scripted

pytestmark = [pytest.mark.all, pytest.mark.real("chromium", "sshd", "qemu")]
OFFER = "#outcome-act[data-act=anyway]"


@pytest.fixture(scope="module")
def host(stage: Stage) -> Iterator[Scripted]:
    stage.settle()
    with scripted(stage.world, stage.sshd, stage.service) as script:
        yield script


@pytest.fixture
def page(stage: Stage, host: Scripted) -> Iterator[tuple[Page, Visit]]:
    """An operator at the page, on a host where the VM's storage hangs."""
    host.say(STORAGE_HUNG)
    visit = Visit(stage)
    try:
        yield visit.open(), visit
    finally:
        visit.close()


def test_a_refusal_offers_what_the_host_offers(page: tuple[Page, Visit], host: Scripted) -> None:
    """A refusal shows one button, named for the verb, and its dialog says what may be lost.

    Esc changes nothing and returns the focus to the button. A script's press does nothing. A look at the VM ends the
    offer, because it may be wrong now, and the host must offer it again. A yes sends the verb once with `anyway`, under
    a new id, and bound to the state that the page showed.
    """
    at, visit = page
    confirm(at, "cycle")
    phase(at, "refused")
    button = at.locator(OFFER)
    expect(button).to_have_text("Power-cycle anyway…")
    button.click()
    at.evaluate("() => document.getElementById('yes').click()")
    at.keyboard.press("Escape")
    at.wait_for_selector("#confirm", state="hidden")
    assert at.evaluate("() => document.activeElement.dataset.act") == "anyway"
    press(at, "status")
    phase(at, "idle")
    expect(button).to_be_hidden()
    assert len(visit.mutating) == 1
    confirm(at, "cycle")
    phase(at, "refused")
    button.click()
    at.wait_for_selector("#yes[aria-disabled=false]")
    assert text_of(at, "confirm-title") == "Power-cycle devvm anyway?"
    assert ANYWAY["storage-hung"] in text_of(at, "confirm-facts")
    assert at.evaluate("() => document.activeElement.id") == "keep"
    at.click("#yes")
    phase(at, "done")
    expect(button).to_be_hidden()
    first, again, last = visit.mutating
    assert (again, last) == (first, {**first, "anyway": "storage-hung"})
    ids = [re.search(r" id=(\S+)", line) for line in host.asked("cycle")]
    assert len({each[1] for each in ids if each}) == 3
    assert all(each and each[1].startswith("msg_") for each in ids)


# --- the stages ---

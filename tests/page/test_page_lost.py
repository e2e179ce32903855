"""If an answer does not come: the page's repeated requests, their time limit, and its words in this time."""

import json
import random

import pytest
from playwright.sync_api import Page, expect

from ..support.browser import (
    Stage,
    Visit,
    confirm,
    fall_asleep,
    find_handler,
    forget_key,
    keep_key,
    phase,
    see_headline,
    show,
    text_of,
    wait_for,
    wait_for_text,
    wake,
)
from ..support.chain import chain_files
from ..support.stages import until

pytestmark = pytest.mark.real("chromium", "sshd", "qemu")
ASK_AGAIN = "#outcome-act[data-act=ask-again]"


def test_a_broken_stream_is_asked_for_again(visit: Visit) -> None:
    """After an answer that broke off anywhere, the page sends the same request again, and the VM is reset once."""
    after = random.randrange(1, 1_400)
    print(f"cut after {after} bytes")
    page = visit.open()
    before = visit.stage.mutating_jobs()
    visit.stage.wire.cut('"verb":"reset"', after, times=1)
    cuts = visit.stage.wire.cuts
    confirm(page, "reset")
    phase(page, "done")
    assert visit.stage.wire.cuts == cuts + 1
    assert len(visit.mutating) == 2
    assert all(body == visit.mutating[0] | {"again": True} for body in visit.mutating[1:])
    assert len(visit.stage.mutating_jobs(but=before)) == 1


def is_over(stage: Stage, before: list[str]) -> bool:
    """Tell whether a verb that changes power has come since then and has ended."""
    return bool(stage.mutating_jobs(but=before)) and stage.has_no_job_under_way()


@pytest.mark.all
def test_a_request_that_the_browser_repeats_is_never_called_not_sent(visit: Visit) -> None:
    """A request that Chromium repeats by itself counts as one, and its outcome stays unknown.

    The host resets the VM and the connection breaks before the first byte of the answer. Chromium then sends the
    request again, while the host can't be reached.
    """
    page = visit.open()
    stage, before = visit.stage, visit.stage.mutating_jobs()

    def the_host_acts_and_is_gone() -> None:
        # what ends sshd here would end its jobs too
        until(lambda: is_over(stage, before), "the end of the reset")
        stage.sshd.stop()
        stage.service.not_answering()

    stage.wire.cut('"verb":"reset"', 0, times=1, before=the_host_acts_and_is_gone)
    try:
        confirm(page, "reset")
        phase(page, "unknown")
        wait_for_text(page, "outcome-hint", "was sent before and may have run")
        assert "Nothing was sent" not in text_of(page, "outcome")
    finally:
        stage.sshd.start()
    phase(page, "done")
    assert len(stage.mutating_jobs(but=before)) == 1


# --- the page on a device that slept, with a kept key ---


@pytest.mark.all
def test_an_outcome_is_found_without_a_press(visit: Visit) -> None:
    """A cycle whose answer was lost has ended on the host while the phone slept. The page finds that out on waking."""
    page, stage = visit.page, visit.stage
    page.clock.install()
    visit.open()
    before = stage.mutating_jobs()
    stage.wire.cut('"verb":"cycle"', 1)
    confirm(page, "cycle")
    phase(page, "unknown")
    fall_asleep(page)
    until(lambda: len(stage.mutating_jobs(but=before)) == 1, "the cycle")
    page.clock.fast_forward(180_000)
    expect(page.locator(ASK_AGAIN)).to_be_visible()
    see_headline(page, "Outcome not known", "unknown")
    stage.wire.mend()
    wake(page)
    phase(page, "done")
    assert len({str(sorted((body | {"again": True}).items())) for body in visit.mutating}) == 1
    assert [body.get("again") for body in visit.mutating] == [None, *[True] * (len(visit.mutating) - 1)]
    assert len(stage.mutating_jobs(but=before)) == 1


# --- a page without its handler opens from its cache ---


def kept_page(visit: Visit) -> Page:
    """Open the page with a key that stays, and return once the worker has stored all of it."""
    page = keep_key(visit)
    page.evaluate("() => navigator.serviceWorker.ready.then(() => true)")
    wait_for(page, lambda: page.evaluate("() => Boolean(navigator.serviceWorker.controller)"), "the worker's claim")
    return page


def test_the_page_opens_when_the_handler_is_down(visit: Visit) -> None:
    """The cached page opens with the last names and commands, and finds the handler again."""
    page = kept_page(visit)
    visit.stage.wire.down()
    page.reload()
    see_headline(page, "No connection", "unknown")
    wait_for_text(page, "second", "Not answering since")
    wait_for_text(page, "name", "devvm (VM 102)")
    assert "qm reset 102" in text_of(page, "by-hand-lines")
    find_handler(visit.stage, page)
    wait_for_text(page, "link-breakglass", "Breakglass: answering")
    phase(page, "idle")


# --- the page and the chain of jobs ---

KEPT = "() => Object.values(JSON.parse(localStorage['breakglass / heads devvm'] ?? '{}'))[0]?.[0].n"


@pytest.mark.all
def test_a_record_that_lost_its_end_is_named(visit: Visit) -> None:
    """The shorter chain is valid, but lacks a line that this page saw. Only History says so, until Forget."""
    page, (run, archive) = visit.open(), chain_files(visit.stage.world)
    confirm(page, "reset")
    phase(page, "done")
    last = run.read_bytes().splitlines()[-1]
    number = json.loads(last)["n"]
    wait_for(page, lambda: page.evaluate(KEPT) == number, "the line that the page keeps")
    until(lambda: archive.exists() and archive.read_bytes().endswith(last + b"\n"), "the copy")
    sound = archive.read_bytes()
    assert page.text_content("#chain") == ""
    for path in (run, archive):
        path.write_bytes(path.read_bytes()[: -len(last) - 1])
    try:
        visit.open()
        box = page.locator("#chain")
        expect(box).to_contain_text(f"line {number}, ")
        assert "record" not in page.inner_text("body")
        show(page, "history")
        expect(box).to_be_visible()
        show(page, "vm")
        forget_key(page)
        visit.open()
        expect(page.locator("#jobs details").first).to_be_attached()
        expect(box).to_be_empty()
        run.write_bytes(run.read_bytes().replace(b'"operator"', b'"operator2"', 1))
        visit.open()
        expect(box).to_contain_text("edited: line")
    finally:
        for path in (run, archive):
            path.write_bytes(sound)

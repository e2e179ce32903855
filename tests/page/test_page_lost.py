"""If an answer does not come: the page's repeated requests, their time limit, and its words in this time."""

import os
import random
import time

import pytest
from playwright.sync_api import Page, Route, expect

from ..support.browser import (
    ASKS,
    Stage,
    Visit,
    ask,
    blocked,
    confirm,
    held_cycle,
    phase,
    press,
    see_headline,
    show,
    stop_time,
    text_of,
    wait_for,
    wait_for_text,
)
from ..support.failing_tools import misbehave
from ..support.selection import sampled
from ..support.stages import until
from ..support.talk import bash, fake

THREE_DAYS = 3 * 86_400
ASK_AGAIN = "#outcome-act[data-act=ask-again]"
pytestmark = pytest.mark.real("chromium", "sshd", "qemu")


def unlock(visit: Visit, page: Page) -> None:
    page.fill("#secret", visit.keys["operator"])
    page.keyboard.press("Enter")


def reload_with(visit: Visit, page: Page, job: str) -> None:
    """Reload and unlock the page, which had confirmed this cycle a moment before."""
    page.evaluate(
        """([id, body]) => sessionStorage.setItem("breakglass / job devvm", JSON.stringify(
            {id, verb: "cycle", body, at: Date.now(), lost: true}))""",
        [job, '{"verb":"cycle","vm":"devvm"}'],
    )
    page.reload()
    unlock(visit, page)


def lose_reads(page: Page) -> None:
    """Lose every check of the page."""
    page.route("**/pve", lambda route: route.abort() if '"status"' in (route.request.post_data or "")
               else route.fallback())  # fmt: skip


@pytest.mark.parametrize("where", sampled(["at once", "anywhere"], "anywhere"))
def test_a_broken_stream_is_asked_for_again(visit: Visit, where: str) -> None:
    """After an answer that broke off anywhere, the page sends the same request again, and the VM is reset once."""
    after = 0 if where == "at once" else random.randrange(1, 1_400)
    print(f"cut after {after} bytes")
    page = visit.open()
    before = visit.stage.mutating_jobs()
    visit.stage.wire.cut('"verb":"reset"', after, times=1)
    cuts = visit.stage.wire.cuts
    confirm(page, "reset")
    phase(page, "done")
    assert visit.stage.wire.cuts == cuts + 1
    # on an old connection, Chromium itself repeats a request whose answer has no byte yet
    assert len(visit.mutating) == 2 or (after == 0 and len(visit.mutating) == 1)
    assert all(body == visit.mutating[0] | {"again": True} for body in visit.mutating[1:])
    assert len(visit.stage.mutating_jobs(but=before)) == 1


def is_over(stage: Stage, before: list[str]) -> bool:
    """Tell whether a verb that changes power has come since then and has ended."""
    return bool(stage.mutating_jobs(but=before)) and stage.has_no_job_under_way()


def test_only_an_answer_from_the_host_settles_what_is_unknown(visit: Visit) -> None:
    """After a lost answer, a repeat that did not reach the host decides nothing, so it is not called "not sent"."""
    page, stage = visit.open(), visit.stage
    before = stage.mutating_jobs()
    stage.wire.cut('"verb":"reset"', 1)
    confirm(page, "reset")
    phase(page, "unknown")
    # what ends sshd here would end its jobs too
    wait_for(page, lambda: is_over(stage, before), "the end of the reset")
    with stage.without_sshd():
        stage.wire.mend()
        wait_for_text(page, "outcome-hint", "refused")
        assert text_of(page, "outcome-word") == "No answer"
        assert "The reset may have happened" in text_of(page, "dock")
        see_headline(page, "Outcome not known", "unknown")
        assert all(blocked(page, each) for each in ASKS)
        assert not blocked(page, "status")
    phase(page, "done")


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


@pytest.mark.all
def test_a_handler_that_restarts_in_the_middle_settles_nothing(visit: Visit) -> None:
    """A handler that stops ends its stream with `running`. If it returns without its host, the id stays unknown."""
    page, stage = visit.open(), visit.stage
    before, gate = stage.mutating_jobs(), stage.world.root / "gate"
    if not gate.exists():
        os.mkfifo(gate)
    misbehave(stage.world.root, gate="start")
    confirm(page, "cycle")
    until(lambda: [dict(stage.stages())[job] for job in stage.mutating_jobs(but=before)] == ["start"], "its start")
    stage.service.stop()
    with stage.without_sshd():
        stage.service.start()
        wait_for_text(page, "outcome-hint", "refused")
        phase(page, "unknown")
    stage.settle()
    phase(page, "done")


def test_a_request_that_was_held_for_hours_is_not_signed_again(visit: Visit) -> None:
    """A stale request is answered with a challenge, but the page signs it again only after a confirmation."""
    visit.page.clock.install()
    page = visit.open()
    before, held = visit.stage.mutating_jobs(), list[Route]()

    def hold(route: Route) -> None:
        if '"reset"' in (route.request.post_data or "") and not held:
            held.append(route)
        else:
            route.continue_()

    page.route("**/pve", hold)
    confirm(page, "reset")
    phase(page, "running")
    wait_for(page, lambda: held, "the reset")
    page.clock.set_system_time(time.time() + 3 * 3_600)
    stale = {"error": {"code": "stale-timestamp", "message": "old", "hint": "", "reached": False}}
    stale["error"] |= {"server_time": int(time.time()) + 3 * 3_600, "challenge": "x"}
    held[0].fulfill(status=401, json=stale)
    phase(page, "notSent")
    assert len(visit.mutating) == 1
    assert visit.stage.mutating_jobs(but=before) == []


def test_after_a_minute_a_person_asks_again(visit: Visit) -> None:
    """The page repeats a request for 60 s. After that, even after a reload, Ask again sends the same id."""
    visit.page.clock.install()
    page = visit.open()
    lose_reads(page)  # otherwise, a check would find the outcome
    before = visit.stage.mutating_jobs()
    visit.stage.wire.cut('"verb":"reset"', 1)
    confirm(page, "reset")
    phase(page, "unknown")
    assert not blocked(page, "status")
    page.clock.fast_forward(70_000)
    page.wait_for_selector(ASK_AGAIN)
    wait_for_text(page, "dock", "at most once")
    wait_for_text(page, "outcome", "may have happened")
    see_headline(page, "Outcome not known", "unknown")
    assert not any(blocked(page, each) for each in ASKS)  # only a hint: a person may know better
    ask(page, "stop")
    wait_for_text(page, "confirm-title", "Stop devvm anyway?")
    wait_for_text(page, "confirm-facts", "It is not known whether the reset happened.")
    page.click("#keep")
    page.reload()
    unlock(visit, page)
    page.wait_for_selector(ASK_AGAIN)
    visit.stage.wire.mend()
    page.click(ASK_AGAIN)
    phase(page, "done")
    assert len({str(sorted((body | {"again": True}).items())) for body in visit.mutating}) == 1
    assert [body.get("again") for body in visit.mutating] == [None, *[True] * (len(visit.mutating) - 1)]
    assert len(visit.stage.mutating_jobs(but=before)) == 1


@pytest.mark.all
def test_a_device_that_slept_through_the_minute_of_retries_waits_for_a_person(visit: Visit) -> None:
    """A phone that sleeps for three hours between two repeats does not reset a VM when it wakes."""
    visit.page.clock.install()
    page = visit.open()
    before = visit.stage.mutating_jobs()
    ask(page, "reset")
    stop_time(page)  # asleep: no try after the first
    visit.stage.wire.down()
    page.click("#yes")
    phase(page, "unknown")
    wait_for_text(page, "outcome-hint", "Last try")
    visit.stage.wire.up()
    page.clock.fast_forward(3 * 3_600_000)
    page.clock.resume()
    page.wait_for_selector(ASK_AGAIN)
    assert visit.stage.mutating_jobs(but=before) == []
    page.click(ASK_AGAIN)
    phase(page, "done")
    assert len(visit.stage.mutating_jobs(but=before)) == 1


@pytest.mark.parametrize(
    "reload", [pytest.param(False, id="as it was", marks=pytest.mark.all), pytest.param(True, id="reloaded")]
)
def test_a_clock_that_is_set_back_does_not_extend_the_minute_of_retries(visit: Visit, reload: bool) -> None:
    """When a clock that was three days ahead is corrected, an old confirmation is not sent again."""
    page = visit.page
    page.clock.install()
    visit.open()
    before = visit.stage.mutating_jobs()
    page.clock.set_system_time(time.time() + THREE_DAYS)
    ask(page, "reset")
    stop_time(page)  # no try is on its way when the clock is set
    visit.stage.wire.down()
    page.click("#yes")
    wait_for_text(page, "outcome-hint", "Last try")
    page.clock.set_system_time(time.time())
    visit.stage.wire.up()
    page.clock.resume()
    if reload:
        page.reload()
        unlock(visit, page)
    else:
        page.clock.run_for(10_000)
    page.wait_for_selector(ASK_AGAIN)
    assert visit.stage.mutating_jobs(but=before) == []


@pytest.mark.all
def test_a_proposal_that_is_open_stays_open_over_a_reload(visit: Visit) -> None:
    """After a reload without the host, a proposal whose approved request was lost is not offered, and stays unknown."""
    page = visit.page
    page.clock.install()
    visit.open()
    waits = {"text": "It waits for your approval, and I wait for it to be over. " * 4, "wait": "approved twice"}
    show(page, "chat")
    page.fill("#prompt", fake({"text": "Reset it.", **bash("pve reset")}, waits))
    page.press("#prompt", "Control+Enter")
    card = page.locator("[data-approve=reset]")
    visit.stage.wire.cut('"verb":"reset"', 1)
    before = visit.stage.mutating_jobs()
    card.click()
    page.click("#yes[aria-disabled=false]")
    wait_for_text(page, "outcome-hint", "Last try")
    page.clock.fast_forward(70_000)
    page.wait_for_selector(ASK_AGAIN)
    # what ends sshd here would end its jobs too
    wait_for(page, lambda: is_over(visit.stage, before), "the end of the reset")
    with visit.stage.without_sshd():
        visit.stage.wire.mend()
        page.reload()
        unlock(visit, page)
        page.wait_for_selector(ASK_AGAIN)
        show(page, "chat")
        expect(card).to_be_visible()
        page.clock.fast_forward(61_000)
        wait_for(page, lambda: not blocked(page, "reset"), "the end of the lock")
        card.click()
        expect(page.locator("[data-proposal]")).to_contain_text(
            "This page could not check whether the proposal was approved already."
        )
        expect(page.locator("#confirm")).to_be_hidden()
        page.click(ASK_AGAIN)
        expect(page.locator("#outcome-hint")).to_contain_text("refused")
        phase(page, "unknown")
    phase(page, "done")  # the page continues to ask, and must not reset the next test's VM
    visit.stage.model.release("approved twice")


@pytest.mark.all
def test_a_job_that_status_shows_on_the_host_is_attached_to(visit: Visit) -> None:
    """If a status shows the id on the host after the minute, the page asks again, which can only attach."""
    visit.page.clock.install()
    page = visit.open()
    before = visit.stage.mutating_jobs()
    visit.stage.wire.cut('"verb":"reset"', 1)
    confirm(page, "reset")
    wait_for_text(page, "outcome-hint", "Last try")
    page.clock.fast_forward(70_000)
    page.wait_for_selector(ASK_AGAIN)
    until(lambda: visit.stage.mutating_jobs(but=before), "the reset")
    visit.stage.wire.mend()
    press(page, "status")
    phase(page, "done")


def test_a_verb_under_way_is_not_interrupted_by_another(visit: Visit) -> None:
    """Within the minute a reloaded page repeats the request once it can sign again, and joins the cycle.

    While that runs for minutes, no verb can be tried anyway, and the cycle's end is shown.
    """
    visit.page.clock.install()
    page = visit.open()
    with held_cycle(visit.stage, caller="operator") as job:
        reload_with(visit, page, job)
        phase(page, "running")
        page.clock.set_system_time(time.time() + 120)
        press(page, "reset")
        wait_for_text(page, "dock", "Power-cycle is under way.")
        assert blocked(page, "reset")
        assert not page.is_visible("#confirm")
    phase(page, "done")

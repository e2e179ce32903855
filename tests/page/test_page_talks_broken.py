"""A conversation in unkind states: two tabs, an old turn, a handler that can't replay, and where the focus goes."""

import json

import pytest
from playwright.sync_api import Page, Route, expect

from ..support.browser import Visit, forget_key, phase, show, wait_for_text
from ..support.page_chat import LONG, ask_claude, ended, open_again, show_chat
from ..support.talk import fake
from .test_page_talks import approve, checks, prompts

pytestmark = [pytest.mark.real("chromium", "claude", "sshd", "qemu"), pytest.mark.all]

KEPT = "() => Object.keys(localStorage).filter(name => name.includes('chat '))"
FOCUSED = "() => document.activeElement.id || document.activeElement.dataset.say || document.activeElement.tagName"
PROPOSES_AND_ENDS = fake(
    {"text": "It is hung.", "tool": "Bash", "input": {"command": "pve reset", "description": "reset"}},
    {"text": "It needs your approval."},
    {"text": "It is back."},
)


def refuse_replay(page: Page, status: int, error: dict[str, object]) -> None:
    """Answer each replay as a handler would that has none."""

    def answer(route: Route) -> None:
        if '"replay"' not in (route.request.post_data or ""):
            return route.fallback()
        return route.fulfill(status=status, content_type="application/json", body=json.dumps({"error": error}))

    page.route("**/chat", answer)


def test_two_tabs_that_approve_act_once(visit: Visit) -> None:
    """The second tab's button attaches to the same job, and one turn follows."""
    page = visit.open()
    ask_claude(page, PROPOSES_AND_ENDS)
    ended(page)
    other = open_again(visit, visit.tab())
    expect(other.locator("[data-approve]")).to_be_visible()
    before = visit.stage.mutating_jobs()
    other.click("[data-approve]")
    other.wait_for_selector("#yes[aria-disabled=false]")
    page.bring_to_front()
    approve(page)
    ended(page, 2)
    other.bring_to_front()
    other.click("#yes")
    expect(other.locator("[data-proposal]")).to_contain_text("Reset: done at ")
    expect(other.locator("[data-approve]")).to_have_count(0)
    ended(other, 2)
    assert len(visit.stage.mutating_jobs(before)) == 1
    assert len({body["session"] for body in checks(visit)}) == 1


def test_forget_while_a_turn_runs_leaves_no_word(visit: Visit) -> None:
    """In both tabs the words are gone, the turn runs on, and the next caller sees nothing of it."""
    page = visit.open()
    other = open_again(visit, visit.tab())
    page.bring_to_front()
    ask_claude(page, fake({"text": LONG, "wait": "forgotten"}))
    expect(page.locator("#stop-turn")).to_be_visible()
    page.fill("#prompt", "A draft of mine")
    show(page, "vm")
    forget_key(page)
    phase(other, "locked")
    visit.stage.model.release("forgotten")
    for each in (page, other):
        each.bring_to_front()
        assert each.evaluate(KEPT) == []
        show_chat(each)
        expect(each.locator("#transcript article")).to_have_count(0)
        expect(each.locator("#prompt")).to_have_value("")
    visit.open(page, caller="operator2")
    show_chat(page)
    expect(page.locator("#starters")).to_be_visible()
    expect(page.locator("#transcript article")).to_have_count(0)
    assert not [body for body in visit.posts if "cancel" in body]


def test_a_handler_that_does_not_replay(visit: Visit) -> None:
    """Its refusal is said, a question can be sent all the same, and nothing goes by itself.

    What the conversation cost is not known then.
    """
    page = visit.open()
    ask_claude(page, PROPOSES_AND_ENDS)
    ended(page)
    refuse_replay(page, 400, {"code": "bad-request", "message": "no", "hint": ""})
    page = open_again(visit)
    wait_for_text(page, "chat-notice", "The earlier conversation could not be loaded: no.")
    ask_claude(page, PROPOSES_AND_ENDS)
    ended(page)
    assert prompts(visit)[-1]["session"]
    approve(page)
    expect(page.locator("#let-check")).to_be_visible()
    assert checks(visit) == []
    page.click("#let-check")
    ended(page, 2)
    assert len(checks(visit)) == 1


def test_the_focus_stays_in_the_conversation(visit: Visit) -> None:
    """A button that goes when it is pressed passes the focus on, within the conversation."""
    page = visit.open()
    show_chat(page)
    expect(page.locator("#starters button").first).to_be_visible()
    page.focus("#starters button")
    page.keyboard.press("Enter")
    expect(page.locator("#stop-turn, #transcript article .meta").first).to_be_visible()
    assert page.evaluate(FOCUSED) in ("stop-turn", "send")
    ended(page)
    page.focus("#new-talk")
    page.keyboard.press("Enter")
    expect(page.locator("#starters")).to_be_visible()
    expect(page.locator("#starters button").first).to_be_focused()
    page.focus("#earlier")
    page.keyboard.press("Enter")
    page.locator("#talks button").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#transcript article")).to_have_count(1)
    expect(page.locator("#transcript")).to_be_focused()

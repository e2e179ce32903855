"""A conversation that outlives its page: what was said, its proposals, and the turn after an approved verb."""

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from breakglass.client import new_id

from ..support.browser import Visit, forget_key, phase, show, wait_for_text
from ..support.page_chat import LONG, answer_chat, ask_claude, ended, open_again, show_chat
from ..support.talk import Talker, bash, fake

pytestmark = [pytest.mark.real("chromium", "claude", "sshd", "qemu"), pytest.mark.slow]

PROPOSES = fake(
    {"text": "It is hung.", **bash("pve reset")}, {"text": "It needs your approval."}, {"text": "It is back."}
)


def prompts(visit: Visit) -> list[dict[str, Any]]:
    return [body for body in visit.posts if "prompt" in body]


def checks(visit: Visit) -> list[dict[str, Any]]:
    """Return the turns that the page sent by itself, each as often as it was sent."""
    return [body for body in prompts(visit) if body.get("tools") == "host"]


def approve(page: Page) -> None:
    page.click("[data-approve]")
    page.click("#yes[aria-disabled=false]")
    phase(page, "done")


def make_older(visit: Visit, seconds: int) -> None:
    """Have the newest conversation's turns begin so much earlier, in the handler's own file."""
    assert isinstance(visit.stage.service, Talker)
    newest = "(SELECT sid FROM turn WHERE sid IS NOT NULL ORDER BY rowid DESC LIMIT 1)"
    visit.stage.service.change_sessions(f"UPDATE turn SET at = at - {seconds} WHERE sid = {newest}")


@pytest.mark.all
def test_a_proposal_outlives_a_reload_until_it_was_used(visit: Visit) -> None:
    """It can be approved as long as the host does not know its job, and for a day; then its card says how it ended.

    Approve asks as the button does, under the proposal's id; then the card is used up. A host forgets an id after two
    days, and would act on it again. After the verb a turn follows that only looks; a reload and another tab begin no
    second one.
    """
    page = visit.open()
    before = visit.stage.mutating_jobs()
    ask_claude(page, PROPOSES)
    ended(page)
    card = page.locator("[data-proposal]")
    expect(card).to_contain_text("Reset devvm (VM 102)")
    expect(card).to_contain_text("It is hung.")
    make_older(visit, 25 * 3600)
    open_again(visit)
    expect(card).to_contain_text("Too old")
    assert card.locator("[data-approve]").count() == 0
    make_older(visit, -25 * 3600)
    open_again(visit)
    expect(card.locator("[data-approve]")).to_be_visible()
    for leave in ("Escape", "Enter"):
        card.locator("[data-approve]").click()
        page.wait_for_selector("#yes[aria-disabled=false]")
        page.keyboard.press(leave)
    assert visit.mutating == []
    asked = len(visit.stage.model.asked)
    approve(page)
    expect(card).to_contain_text("Reset: done at ")
    expect(card.locator("button")).to_have_count(0)
    ended(page, 2)
    expect(page.locator("#transcript article").last).to_contain_text("It is back.")
    [sent] = checks(visit)
    assert any("operator approved" in each.said for each in visit.stage.model.asked[asked:])
    for again in (open_again(visit), open_again(visit, visit.tab())):
        ended(again, 2)
        expect(again.locator("[data-proposal]")).to_contain_text("Reset: done at ")
        assert again.locator("[data-approve]").count() == 0
    assert checks(visit) == [sent]
    assert [body["reason"] for body in visit.mutating] == ["proposed by claude: It is hung."]  # the page reads it again
    assert len(visit.stage.mutating_jobs(but=before)) == 1


@pytest.mark.all
def test_a_costly_conversation_goes_on_at_a_press(visit: Visit) -> None:
    """Above the limit, which is shown, the page sends nothing by itself, but a button does."""
    page = visit.open()
    proposal = {"type": "approval", "verb": "reset", "vm": "devvm", "job": new_id(), "why": "It is hung."}
    proposal["last"] = visit.stage.service.pve("status").json["last"]
    answer_chat(page, proposal, {"type": "result", "ok": True, "text": "", "seconds": 1, "cost_usd": 1.04})
    ask_claude(page, "well?")
    ended(page)
    expect(page.locator("#chat-cost")).to_contain_text("1.04 of 1.00 USD")
    approve(page)
    expect(page.locator("#let-check")).to_be_visible()
    assert checks(visit) == []
    page.unroute("**/chat")
    answer_chat(page, {"type": "text", "text": "It is back."})
    page.click("#let-check")
    ended(page, 2)
    expect(page.locator("#transcript article").last).to_contain_text("It is back.")
    expect(page.locator("#let-check")).to_be_hidden()
    assert len(checks(visit)) == 1


@pytest.mark.all
def test_conversations_are_listed_and_opened(visit: Visit) -> None:
    """New conversation begins an empty one with three questions; Earlier lists the others, and a press opens one."""
    page = visit.open()
    show_chat(page)
    expect(page.locator("#starters button")).to_have_count(3)
    ask_claude(page, fake({"text": "The first answer."}))
    ended(page)
    expect(page.locator("#starters")).to_be_hidden()
    page.click("#new-talk")
    expect(page.locator("#transcript article")).to_have_count(0)
    page.click("#starters button >> nth=0")
    ended(page)
    assert prompts(visit)[-1]["prompt"] == "Why is it hung?"
    assert "session" not in prompts(visit)[-1]
    page.click("#earlier")
    rows = page.locator("#talks button")
    expect(rows.first).to_contain_text("Why is it hung?")
    expect(rows.first).to_contain_text("devvm, shown now")
    page.locator("#talks button", has_text="look. FAKE=").first.click()
    ended(page)
    expect(page.locator("#transcript article")).to_contain_text("The first answer.")
    expect(page.locator("#talks")).to_be_hidden()
    ask_claude(page, fake({"text": "Continues."}))
    ended(page, 2)
    assert prompts(visit)[-1]["session"]


@pytest.mark.all
def test_enter_sends_where_there_is_a_keyboard(visit: Visit) -> None:
    """Enter sends, Shift and Enter begin a line, and Stop takes the place of Send.

    Esc in the text field, like Stop, ends the turn and says what it can't stop.
    """
    page = visit.open()
    show_chat(page)
    page.fill("#prompt", fake({"text": LONG, "wait": "never"}))
    page.press("#prompt", "Shift+Enter")
    assert page.input_value("#prompt").endswith("\n")
    assert prompts(visit) == []
    page.press("#prompt", "Enter")
    expect(page.locator("#stop-turn")).to_be_visible()
    expect(page.locator("#send")).to_be_hidden()
    expect(page.locator("#prompt")).to_have_value("")
    expect(page.locator("#chat-word")).to_contain_text("Claude is working")
    page.press("#prompt", "Escape")
    ended(page)
    expect(page.locator("#transcript article")).to_contain_text("Stopped.")
    assert len(prompts(visit)) == 1


@pytest.mark.all
def test_another_caller_sees_nothing_of_it(visit: Visit) -> None:
    """The token belongs to the first caller: another one on this device begins anew."""
    page = visit.open()
    ask_claude(page, fake({"text": "A secret of the first."}))
    ended(page)
    visit.open(caller="operator2")
    show_chat(page)
    wait_for_text(page, "chat-notice", "The last conversation on this device belongs to another caller, or is too old.")
    assert page.locator("#transcript article").count() == 0
    ask_claude(page, fake({"text": "Mine."}))
    ended(page)
    assert len(page.evaluate(KEPT)) == 1


# --- a conversation in unkind states ---

KEPT = "() => Object.keys(localStorage).filter(name => name.includes('chat '))"


@pytest.mark.all
def test_two_tabs_that_approve_act_once(visit: Visit) -> None:
    """The second tab's button attaches to the same job, and one turn follows."""
    page = visit.open()
    ask_claude(page, PROPOSES)
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


@pytest.mark.all
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

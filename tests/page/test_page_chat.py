"""The page's conversation: the real claude behind the real handler, with a model whose words are scripted."""

import random

import pytest
from playwright.sync_api import Page, expect

from ..support.browser import (
    Visit,
    axe_finds,
    axe_finds_in_both_schemes,
    phase,
    press,
    see_headline,
    show,
    text_of,
    wait_for,
    wait_for_text,
)
from ..support.page_chat import LONG, PROPOSES, ask_claude, ended, lose_sessions, open_again
from ..support.stages import until
from ..support.talk import bash, fake

pytestmark = [pytest.mark.real("chromium", "claude", "sshd", "qemu"), pytest.mark.slow]


def test_an_answer_is_streamed_and_the_session_goes_on(visit: Visit) -> None:
    """Words and commands of claude are shown as text, the next prompt continues, and axe finds no fault.

    Edit puts a question back into the composer, which sends it to the same conversation. A reload and a new tab show
    the conversation and continue it. Only the key must be entered again.
    """
    page = visit.open()
    evil = "<img src=x onerror=alert(1)> \u202egnp \x1b[31m"
    ask_claude(page, fake({"text": f"I look. {evil}", **bash("echo '<b>42</b>'")}, {"text": "It is idle."}))
    ended(page)
    turn = page.locator("#transcript article")
    expect(turn).to_contain_text("I look. <img src=x onerror=alert(1)> ⟨U+202e⟩gnp ␛[31m")
    expect(turn).to_contain_text("It is idle.")
    expect(turn.locator("summary")).to_contain_text("Ran: echo")
    turn.locator("summary").click()
    expect(turn.locator("pre")).to_have_text("<b>42</b>")
    assert page.locator("#transcript :is(img, script)").count() == 0
    wait_for_text(page, "chat-live", "It is idle.")
    wait_for_text(page, "link-claude", "Claude: answering")
    before = page.locator("#transcript .answer").all_inner_texts()
    cost = text_of(page, "chat-cost")
    assert cost.endswith(" of 1.00 USD")
    page = open_again(visit)
    ended(page)
    expect(page.locator("#chat-cost")).to_have_text(cost)
    expect(page.locator("#transcript .answer")).to_have_text(before, use_inner_text=True)
    expect(page.locator("#transcript article")).to_contain_text("look. FAKE=")
    expect(page.locator("#transcript summary")).to_contain_text("Ran: echo")
    assert text_of(page, "chat-notice") == ""
    page.click("[data-edit]")
    expect(page.locator("#prompt")).to_have_value(next(body["prompt"] for body in visit.posts if "prompt" in body))
    expect(page.locator("#prompt")).to_be_focused()
    page.fill("#prompt", fake({"text": "And still."}))
    page.click("#send")
    ended(page, 2)
    prompts = [body for body in visit.posts if "prompt" in body]
    assert "session" not in prompts[0]
    assert prompts[1]["session"]
    assert axe_finds(page, "a conversation") == []
    other = open_again(visit, visit.tab())
    ended(other, 2)
    expect(other.locator("#transcript article").last).to_contain_text("And still.")


@pytest.mark.all
def test_a_proposal_can_be_put_off_and_is_spent_once_refused(visit: Visit) -> None:
    """Not now folds it on this screen, and can be undone. The card says why Approve can't be pressed.

    `refused` and `busy` are final for an id, so the card can't be pressed into the same answer again.
    """
    page = visit.open()
    ask_claude(page, PROPOSES)
    ended(page)
    card = page.locator("[data-proposal]")
    sent = len(visit.posts)
    card.get_by_role("button", name="Not now").click()
    expect(card.locator("[data-approve]")).to_be_hidden()
    expect(card).to_contain_text("Claude proposes: Reset devvm (VM 102)")
    expect(card.locator("p").first).to_be_hidden()
    card.get_by_role("button", name="Show again").click()
    expect(card.locator("[data-approve]")).to_be_visible()
    assert [body for body in visit.posts[sent:] if "verb" not in body] == []
    service = visit.stage.service
    with visit.stage.without_sshd():
        until(lambda: service.health()["vms"][0]["proxmox"] == "connection-refused", "a connection that is refused")
        show(page, "vm")
        press(page, "status")
        phase(page, "notSent")
        page.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")  # which asks /health
        see_headline(page, "Host unreachable", "unknown")
        wait_for_text(page, "why", "Connection refused.")
        show(page, "chat")
        page.click("[data-approve=reset]", force=True)  # it is marked as unavailable, and says why
        expect(card).to_contain_text("Proxmox is out of reach: connection refused.")
        assert not page.is_visible("#confirm")
    assert visit.mutating == []
    service.answering()
    show(page, "vm")
    press(page, "status")
    phase(page, "idle")
    expect(page.locator("[data-verb=reset]")).to_have_attribute("aria-disabled", "false")
    show(page, "chat")
    card.locator("[data-approve]").click()
    page.wait_for_selector("#yes[aria-disabled=false]")
    service.pve("reset", caller="operator2")
    page.click("#yes")
    phase(page, "refused")
    expect(card).to_contain_text("Reset: refused at ")
    expect(card.locator("button")).to_have_count(0)


SHIFTS = """() => { window.shifts = []; new PerformanceObserver(list => window.shifts.push(...list.getEntries()
    .filter(each => !each.hadRecentInput).flatMap(each => each.sources).map(({node}) => node)
    .filter(node => node && !(node.closest ? node : node.parentElement)?.closest("article"))
    .map(node => node.id || node.outerHTML || node.data)))
    .observe({type: "layout-shift"}); }"""


@pytest.mark.all
@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_moves_while_claude_talks(visit: Visit, width: int) -> None:
    """Words, a command, its result, a proposal and the end arrive. They scroll past, and no other part moves."""
    visit.page.set_viewport_size({"width": width, "height": 740})
    page = visit.open()
    ask_claude(
        page, fake({"text": LONG, "pace": 0.005, **bash("pve reset")}, {"text": LONG, "wait": f"looked at {width}"})
    )
    page.locator("#prompt").scroll_into_view_if_needed()
    expect(page.locator("#transcript .answer")).to_contain_text("Line 1 of")
    page.evaluate(SHIFTS)
    expect(page.locator("[data-approve=reset]")).to_be_attached()
    visit.stage.model.release(f"looked at {width}")
    ended(page)
    assert page.evaluate("() => window.shifts") == []


@pytest.mark.all  # the states of an ordinary conversation are judged above
def test_every_state_of_the_chat_passes_axe(visit: Visit) -> None:
    """There is no violation at work, with a proposal, stopped, cut off, down and lost."""
    page = visit.page
    page.clock.install()
    visit.open()
    ask_claude(page, fake({"text": "I look.", **bash("pve reset")}, {"text": LONG, "wait": "judged"}))
    expect(page.locator("[data-approve=reset]")).to_be_attached()
    found = axe_finds_in_both_schemes(page, "at work")
    visit.stage.wire.cut("/chat", 1)
    visit.stage.wire.drop()
    wait_for_text(page, "chat-word", "asking for the rest")
    page.clock.fast_forward(70_000)
    page.wait_for_selector("#ask-rest:visible")
    found += axe_finds_in_both_schemes(page, "cut off")
    visit.stage.wire.mend()
    page.click("#ask-rest")
    page.click("#stop-turn")
    ended(page)
    found += axe_finds_in_both_schemes(page, "stopped")
    visit.stage.model.release("judged")
    ask_claude(page, fake({"text": "never said", "fail": 401, "times": 99}))
    wait_for_text(page, "chat-notice", "Claude is not answering")
    found += axe_finds_in_both_schemes(page, "down")
    lose_sessions(visit)
    page.click("#send")
    page.wait_for_selector("#recap:visible")
    found += axe_finds_in_both_schemes(page, "lost")
    assert found == []


@pytest.mark.all
def test_after_a_minute_a_person_asks_for_the_rest(visit: Visit) -> None:
    """The page asks by itself for 60 s.

    Then Ask again joins the same turn where it broke off, and the answer is whole.
    """
    visit.page.clock.install()
    page = visit.open()
    wire, model = visit.stage.wire, visit.stage.model
    ask_claude(page, fake({"text": LONG, "wait": "cut off"}))
    expect(page.locator("#transcript .answer")).to_contain_text("Line 1 of")
    wire.cut("/chat", 1)
    wire.drop()
    wait_for_text(page, "chat-word", "asking for the rest")
    page.clock.fast_forward(70_000)
    expect(page.locator("#transcript article")).to_contain_text("The connection was lost, so")
    model.release("cut off")
    wire.mend()
    page.click("#ask-rest")
    ended(page)
    assert not page.is_visible("#ask-rest")
    says_all_of(page, LONG)
    expect(page.locator("#transcript article")).not_to_contain_text("Cut off")
    assert len({body["prompt"] for body in visit.posts if "prompt" in body}) == 1


def says_all_of(page: Page, text: str) -> None:
    """Return once the answer is this text. A page that gets too little processor draws the end of it a moment later."""
    answer = page.locator("#transcript .answer")
    wait_for(page, lambda: answer.text_content() == text.rstrip(), "the whole answer, and nothing twice")


def test_a_broken_stream_is_attached_to(visit: Visit) -> None:
    """Wherever it breaks, the page asks for the rest by number. The answer is whole, and the turn began only once."""
    after = random.randrange(1, 3_000)
    print(f"cut after {after} bytes")
    page = visit.open()
    visit.stage.wire.cut('"prompt"', after, times=1)
    cuts = visit.stage.wire.cuts
    before = len(visit.stage.model.asked)
    ask_claude(page, fake({"text": LONG, "pace": 0.001}))
    ended(page)
    assert visit.stage.wire.cuts == cuts + 1
    says_all_of(page, LONG)
    assert len({body["prompt"] for body in visit.posts if "prompt" in body}) == 1
    assert len([a for a in visit.stage.model.asked[before:] if "Line 1 of" in a.said]) <= 1


OVERTAKE = """() => { const fetch = window.fetch; let stop; const stopped = new Promise(done => { stop = done; });
    window.fetch = async (url, options) => {
        if (String(options?.body).includes('"prompt"')) await stopped;
        const answer = await fetch(url, options);
        if (!String(options?.body).includes('"cancel"')) return answer;
        const text = await answer.text();
        stop();
        while (!document.querySelector("#transcript .answer")) await new Promise(done => setTimeout(done, 20));
        return new Response(text, {status: answer.status, headers: answer.headers}); }; }"""


@pytest.mark.all
def test_a_stop_that_overtakes_the_prompt_stops_the_turn(visit: Visit) -> None:
    """The handler does not know the turn yet, and answers when it has begun, so the page sends Stop again."""
    page = visit.open()
    page.evaluate(OVERTAKE)
    ask_claude(page, fake({"text": LONG, "wait": "never"}))
    page.press("#prompt", "Escape")
    ended(page)
    expect(page.locator("#transcript .answer")).to_contain_text("Line 1 of")
    expect(page.locator("#transcript article")).to_contain_text("Stopped. Commands inside the VM may still run.")

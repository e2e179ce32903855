"""The page's conversation: the real claude behind the real handler, with a model whose words are scripted."""

import random
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from .browser import Visit, axe_finds, phase, said, told
from .talk import Talker, bash, fake

pytestmark = [pytest.mark.real("chromium", "claude", "sshd", "qemu"), pytest.mark.slow]

LONG = "".join(f"Line {n} of what there is to say.\n" for n in range(1, 41))
PROPOSES = fake({"text": "It is hung: reset it.", **bash("pve reset")}, {"text": "It needs your approval."})


def ask_claude(page: Page, prompt: str) -> None:
    page.fill("#prompt", prompt)
    page.press("#prompt", "Control+Enter")


def ended(page: Page, count: int = 1) -> None:
    """Return once so many turns have ended, well or not."""
    expect(page.locator("#transcript article")).to_have_count(count)
    expect(page.locator("#stop-turn")).to_have_attribute("aria-disabled", "true", timeout=30_000)


def test_an_answer_is_streamed_and_the_session_goes_on(visit: Visit) -> None:
    """What claude says and runs is shown as text; the next prompt continues; nothing of it offends axe."""
    page = visit.open()
    evil = "<img src=x onerror=alert(1)> \u202egnp \x1b[31m"
    ask_claude(page, fake({"text": f"I look. {evil}", **bash("echo '<b>42</b>'")}, {"text": "It is idle."}))
    ended(page)
    turn = page.locator("#transcript article")
    expect(turn).to_contain_text("I look. <img src=x onerror=alert(1)> ⟨U+202e⟩gnp ␛[31m")
    expect(turn).to_contain_text("It is idle.")
    expect(turn.locator("summary")).to_contain_text("✓ ran: echo")
    turn.locator("summary").click()
    expect(turn.locator("pre")).to_have_text("<b>42</b>")
    assert page.locator("#transcript :is(img, script)").count() == 0
    told(page, "chat-heard", "It is idle.")
    told(page, "light-claude", "Claude: answering")
    ask_claude(page, fake({"text": "And still."}))
    ended(page, 2)
    prompts = [body for body in visit.posts if "prompt" in body]
    assert "session" not in prompts[0]
    assert prompts[1]["session"]
    assert axe_finds(page, "a conversation") == []


def test_a_proposal_needs_the_dialog_and_acts_once(visit: Visit) -> None:
    """claude's key may not; Approve asks as the button does, under the proposal's id, and a second time attaches."""
    page = visit.open()
    before = visit.stage.mutating_jobs()
    ask_claude(page, PROPOSES)
    ended(page)
    card = page.locator("#transcript .box")
    expect(card).to_contain_text("Claude proposes: Reset devvm (VM 102)")
    expect(card).to_contain_text("Why: It is hung: reset it.")
    assert axe_finds(page, "a proposal") == []
    for leave in ("Escape", "Enter"):
        card.locator("button").click()
        page.wait_for_selector("#yes[aria-disabled=false]")
        page.keyboard.press(leave)
    assert visit.mutating == []
    for _ in range(2):
        card.locator("button").click()
        page.wait_for_selector("#yes[aria-disabled=false]")
        page.click("#yes")
        phase(page, "done")
        page.click("[data-verb=status]")
        phase(page, "idle")
    assert len(visit.mutating) == 2
    assert visit.mutating[0]["reason"] == "proposed by claude: It is hung: reset it."
    assert len(visit.stage.mutating_jobs()) == len(before) + 1


@pytest.mark.parametrize("where", ["anywhere", "anywhere else"])
def test_a_broken_stream_is_attached_to(visit: Visit, where: str) -> None:
    """Wherever it breaks, the rest is asked for by number; the answer is whole, and the turn was begun once."""
    after = random.randrange(1, 3_000)
    print(f"cut after {after} bytes")
    page = visit.open()
    visit.stage.wire.cut('"prompt"', after, times=1)
    cuts = visit.stage.wire.cuts
    asked = len(visit.stage.model.asked)
    ask_claude(page, fake({"text": LONG, "pace": 0.001}))
    ended(page)
    assert visit.stage.wire.cuts == cuts + 1
    assert (page.locator("#transcript .said").text_content() or "") == LONG
    assert len({body["prompt"] for body in visit.posts if "prompt" in body}) == 1
    assert len([a for a in visit.stage.model.asked[asked:] if "Line 1 of" in a.said]) <= 1


def test_a_reload_finds_the_turn(visit: Visit) -> None:
    """Closing or reloading stops nothing: the turn under way is found again, and continued afterwards."""
    page = visit.open()
    ask_claude(page, fake({"text": LONG, "wait": "reloaded"}))
    expect(page.locator("#stop-turn")).to_have_attribute("aria-disabled", "false")
    visit.stage.model.release("reloaded")
    page.reload()
    page.fill("#secret", visit.keys["operator"])
    page.press("#secret", "Enter")
    ended(page)
    expect(page.locator("#transcript .said")).to_contain_text("Line 40 of")
    ask_claude(page, fake({"text": "Still here."}))
    ended(page, 2)
    assert [body for body in visit.posts if "prompt" in body][-1]["session"]


def test_stop_stops_the_turn(visit: Visit) -> None:
    """Esc in the text field, like Stop, ends the turn and says what it can't stop."""
    page = visit.open()
    ask_claude(page, fake({"text": LONG, "wait": "never"}))
    expect(page.locator("#chat-word")).to_contain_text("Claude is working")
    page.press("#prompt", "Escape")
    ended(page)
    expect(page.locator("#transcript article")).to_contain_text("Stopped. What already runs inside the VM goes on.")


@pytest.mark.parametrize(("fail", "word"), [(401, "it is not signed in"), (400, "it crashed")])
def test_claude_is_down_and_the_buttons_are_not(visit: Visit, fail: int, word: str) -> None:
    """One notice that says why, the draft stays, Send becomes Try again; the power buttons work as ever."""
    page = visit.open()
    prompt = fake({"text": "never said", "fail": fail, "times": 99})
    ask_claude(page, prompt)
    told(page, "chat-notice", "Claude is not answering: ")
    ended(page)
    assert "The power buttons do not need it." in said(page, "chat-notice")
    assert page.input_value("#prompt") == prompt
    assert said(page, "send") == "Try again"
    told(page, "light-claude", "not answering")
    page.click("[data-verb=status]")
    phase(page, "idle")


def test_a_lost_session_starts_again_with_what_was_said(visit: Visit) -> None:
    """The disk that held it is gone: one button, and claude is told what was said."""
    page = visit.open()
    ask_claude(page, fake({"text": "The word is heron."}))
    ended(page)
    assert isinstance(visit.stage.service, Talker)
    for kept in Path(visit.stage.service.sessions / "claude").iterdir():
        shutil.rmtree(kept)
    ask_claude(page, fake({"text": "never"}))
    ended(page, 2)
    assert page.is_visible("#recap")
    page.fill("#prompt", fake({"text": "I know."}))
    page.click("#recap")
    ended(page, 3)
    expect(page.locator("#transcript article").last).to_contain_text("I know.")
    assert "The word is heron." in visit.stage.model.asked[-1].said


def test_a_long_transcript_can_be_read_and_written_under(visit: Visit) -> None:
    """2,000 lines: pieces of a bounded size, so that each word costs as much as the first; the end stays in view
    unless somebody scrolls up."""
    page = visit.open()
    ask_claude(page, fake({"text": "".join(f"{n} {'word ' * 8}\n" for n in range(2_000))}))
    ended(page)
    text = page.locator("#transcript .said").text_content() or ""
    assert text.count("\n") == 2_000
    sizes = page.evaluate("() => [...document.querySelectorAll('.said .piece')].map(p => p.textContent.length)")
    assert max(sizes) < 10_000
    box = page.locator("#transcript")
    assert box.evaluate("box => box.scrollHeight - box.scrollTop - box.clientHeight") < 40
    box.evaluate("box => box.scrollTo(0, 0)")
    ask_claude(page, fake({"text": "More."}))
    ended(page, 2)

"""Failures in the page's conversation: a notice with the reason, and the operator's next steps."""

import re

import pytest
from playwright.sync_api import expect

from ..support.browser import Visit, confirm, phase, show, text_of, wait_for, wait_for_text
from ..support.page_chat import answer_chat, ask_claude, ended, lose_sessions
from ..support.selection import sampled
from ..support.talk import fake

pytestmark = [pytest.mark.real("chromium", "claude", "sshd", "qemu"), pytest.mark.slow]

DOWN = {
    "not signed in": ({"fail": 401}, r"it is not signed in, \d\d:\d\d\."),
    "rate-limited": ({"fail": 429, "retry_after": 3600}, r"rate limited, \d\d:\d\d\."),
}


@pytest.mark.all
@pytest.mark.parametrize("how", sampled(DOWN, "not signed in"))
def test_the_power_buttons_work_while_claude_is_down(visit: Visit, how: str) -> None:
    """One notice says why, the draft stays, and Send becomes Try again. The power buttons work as usual."""
    page = visit.open()
    fault, words = DOWN[how]
    prompt = fake({"text": "never said", "times": 99, **fault})
    ask_claude(page, prompt)
    wait_for_text(page, "chat-notice", "Claude is not answering: ")
    ended(page)
    notice = text_of(page, "chat-notice")
    assert re.search(f"^Claude is not answering: {words}", notice), notice
    assert re.search(r"(The power buttons do not need Claude|; the power verbs don't need claude)\.$", notice), notice
    assert notice.count("power") == 1
    assert page.input_value("#prompt") == prompt
    assert text_of(page, "send") == "Try again"
    wait_for_text(page, "link-claude", "Claude: down")
    show(page, "vm")
    confirm(page, "reset")
    phase(page, "done")


@pytest.mark.all
def test_a_lost_session_starts_again_with_what_was_said(visit: Visit) -> None:
    """The disk with the session is gone. After one button, claude gets the earlier conversation as text."""
    page = visit.open()
    ask_claude(page, fake({"text": "The word is heron."}))
    ended(page)
    lose_sessions(visit)
    ask_claude(page, fake({"text": "never"}))
    ended(page, 2)
    assert page.is_visible("#recap")
    page.fill("#prompt", fake({"text": "I know."}))
    before = len(visit.stage.model.asked)
    page.click("#recap")
    ended(page, 3)
    expect(page.locator("#transcript article").last).to_contain_text("I know.")
    assert any("The word is heron." in each.said for each in visit.stage.model.asked[before:])


@pytest.mark.all
def test_a_recap_needs_no_new_question(visit: Visit) -> None:
    """If nothing is typed, the button alone sends claude the earlier conversation and asks it to continue."""
    page = visit.open()
    ask_claude(page, fake({"text": "The word is ibis."}))
    ended(page)
    lose_sessions(visit)
    ask_claude(page, fake({"text": "never"}))
    ended(page, 2)
    page.fill("#prompt", "")
    page.click("#recap")
    ended(page, 3)
    assert [body for body in visit.posts if "prompt" in body][-1]["prompt"].endswith("Now: Go on.")


@pytest.mark.all
def test_a_proxys_error_counts_as_a_lost_connection(visit: Visit) -> None:
    """A proxy's error, in JSON and with a number as its code, is a lost connection, so the page asks for the rest."""
    page = visit.open()
    broken = {"error": {"code": 503, "message": "upstream"}}
    page.route("**/chat", lambda route: route.fulfill(status=503, json=broken), times=1)
    ask_claude(page, fake({"text": "I am here."}))
    ended(page)
    expect(page.locator("#transcript .answer")).to_have_text("I am here.")


def test_a_rate_limit_says_until_when_it_lasts(visit: Visit) -> None:
    """If the model API gives the time, the notice has it. A caller who may not chat is told only that."""
    page = visit.open()
    limited = {"code": "claude-rate-limited", "message": "rate-limited until 03:40 UTC: limit"}
    limited["hint"] = "wait; the power verbs work without claude"
    answer_chat(page, {"type": "error", **limited}, ok=False)
    ask_claude(page, "well?")
    wait_for_text(page, "chat-notice", "Claude is not answering: rate limited (until 03:40")
    assert text_of(page, "chat-notice").count("power") == 1
    page.unroute("**/chat")
    visit.open(caller="viewer", looks=False)
    ask_claude(page, "well?")
    wait_for_text(page, "chat-notice", 'Viewer may not "chat".')
    assert "Claude is not answering" not in text_of(page, "chat-notice")


@pytest.mark.all
def test_a_long_transcript_can_be_read_and_written_under(visit: Visit) -> None:
    """A transcript of 2,000 lines is split into pieces of bounded size, so each word costs as much as the first.

    The end stays in view unless the operator scrolls up.
    """
    page = visit.open()
    answer_chat(page, *({"type": "text", "text": f"{n} {'word ' * 8}\n"} for n in range(2_000)))
    ask_claude(page, "well?")
    ended(page)
    expect(page.locator("#transcript .answer")).to_contain_text("1999 word")
    text = page.locator("#transcript .answer").text_content() or ""
    assert [line.split()[0] for line in text.splitlines()] == [str(n) for n in range(2_000)]
    sizes = page.evaluate("() => [...document.querySelectorAll('.answer > *')].map(p => p.textContent.length)")
    assert max(sizes) < 10_000
    box = page.locator("#transcript")
    left = "box => box.scrollHeight - box.scrollTop - box.clientHeight"
    wait_for(page, lambda: box.evaluate(left) < 40, "the transcript scrolls to its end, a frame after the last words")
    box.evaluate("box => box.scrollTo(0, 0)")
    page.unroute("**/chat")
    answer_chat(page, {"type": "text", "text": "More."})
    ask_claude(page, "and?")
    ended(page, 2)

"""Failures in the page's conversation: a notice with the reason, and the operator's next steps."""

import re

import pytest
from playwright.sync_api import expect

from ..support.browser import Visit, confirm, phase, show, text_of, wait_for_text
from ..support.page_chat import ask_claude, ended, lose_sessions
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

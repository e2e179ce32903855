"""The page's conversation: the real claude behind the real handler, with a model whose words are scripted."""

import random

import pytest
from playwright.sync_api import Page, expect

from ..support.browser import (
    Visit,
    confirm,
    phase,
    show,
    text_of,
    wait_for,
    wait_for_text,
)
from ..support.page_chat import LONG, answer_chat, ask_claude, ended, lose_sessions, open_again
from ..support.talk import bash, fake

pytestmark = [pytest.mark.real("chromium", "claude", "sshd", "qemu"), pytest.mark.slow]


def test_an_answer_is_streamed_and_the_session_goes_on(visit: Visit) -> None:
    """Words and commands of claude are shown as text, and the next prompt continues.

    Edit puts a question back into the composer, which sends it to the same conversation. A reload shows the
    conversation, and a turn that is under way continues. Only the key must be entered again.
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
    page.fill("#prompt", fake({"text": LONG, "wait": "left"}))
    page.click("#send")
    expect(page.locator("#transcript .answer").last).to_contain_text("Line 1 of")
    prompts = [body for body in visit.posts if "prompt" in body]
    assert "session" not in prompts[0]
    assert prompts[1]["session"]
    page = open_again(visit)  # which does not stop the turn that is under way
    visit.stage.model.release("left")
    ended(page, 2)
    expect(page.locator("#transcript article").last).to_contain_text("Line 40 of")


def says_all_of(page: Page, text: str) -> None:
    """Return once the answer is this text. A page that gets too little processor draws the end of it a moment later."""
    answer = page.locator("#transcript .answer")
    wait_for(page, lambda: answer.text_content() == text.rstrip(), "the whole answer, and nothing twice")


@pytest.mark.all
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


# --- failures in the page's conversation ---


@pytest.mark.all
def test_the_power_buttons_work_while_claude_is_down(visit: Visit) -> None:
    """One notice says why, the draft stays, and Send becomes Try again. The power buttons work as usual."""
    page = visit.open()
    prompt = fake({"text": "never said", "times": 99, "fail": 401})
    ask_claude(page, prompt)
    wait_for_text(page, "chat-notice", "it is not signed in")
    ended(page)
    assert text_of(page, "chat-notice").count("power") == 1
    assert page.input_value("#prompt") == prompt
    assert text_of(page, "send") == "Try again"
    wait_for_text(page, "link-claude", "Claude: down")
    show(page, "vm")
    confirm(page, "reset")
    phase(page, "done")


@pytest.mark.all
def test_a_lost_session_starts_again_with_what_was_said(visit: Visit) -> None:
    """The disk with the session is gone. One button, without a new question, sends claude what was said."""
    page = visit.open()
    ask_claude(page, fake({"text": "The word is heron."}))
    ended(page)
    lose_sessions(visit)
    ask_claude(page, fake({"text": "never"}))
    ended(page, 2)
    assert page.is_visible("#recap")
    page.fill("#prompt", "")
    before = len(visit.stage.model.asked)
    page.click("#recap")
    ended(page, 3)
    assert [body for body in visit.posts if "prompt" in body][-1]["prompt"].endswith("Now: Go on.")
    assert any("The word is heron." in each.said for each in visit.stage.model.asked[before:])


# --- how the page draws an answer ---

HOSTILE = r"""# <img src=x onerror=alert(1)> **<script>alert(1)</script>**
[click](javascript:alert(1)) ![x](https://evil.example/x.png) <https://evil.example> https://evil.example
- <iframe src="https://evil.example"></iframe>
| <b onclick=alert(1)>a</b> | `<svg onload=alert(1)>` | Oldest request |
|---|---|---|
| &lt;b&gt; | [x](data:text/html,<script>) | none at all |

```html onload=alert(1)
<form action=https://evil.example><button data-verb=stop>Unlock</button></form>
```
<button data-approve="stop" data-job="x">Approve</button> <style>*{display:none}</style>
[r]: https://evil.example "t"
"""
KINDS = {"BLOCKQUOTE", "BUTTON", "CODE", "DIV", "EM", "H4", "HR", "LI", "OL", "P", "PRE", "SPAN", "STRONG", "TABLE"}
KINDS |= {"TBODY", "TD", "TH", "TR", "UL", "svg", "use"}


def test_no_markup_of_an_answer_is_an_element(visit: Visit) -> None:
    """Markdown is drawn, also a wide table on a narrow screen. Markup stays text, and so do addresses."""
    visit.page.set_viewport_size({"width": 320, "height": 640})
    page = visit.open()
    answer_chat(page, {"type": "text", "text": HOSTILE})
    ask_claude(page, "well?")
    ended(page)
    answer = page.locator("#transcript .answer")
    expect(answer.locator("h4 strong")).to_have_text("<script>alert(1)</script>")
    expect(answer.locator("th")).to_have_text(["<b onclick=alert(1)>a</b>", "<svg onload=alert(1)>", "Oldest request"])
    assert page.evaluate("() => document.documentElement.scrollWidth") == 320
    expect(answer).to_contain_text('<button data-approve="stop" data-job="x">Approve</button>')
    expect(answer).to_contain_text("<img src=x onerror=alert(1)> <script>alert(1)</script>")
    expect(answer).to_contain_text("click (javascript:alert(1)) x (https://evil.example/x.png) <https://evil.example>")
    expect(answer.locator("pre")).to_contain_text("<button data-verb=stop>Unlock</button>")
    found: list[str] = answer.evaluate("box => [...box.querySelectorAll('*')].map(each => each.tagName)")
    assert set(found) <= KINDS
    names: list[str] = answer.evaluate("e => [...e.querySelectorAll('*')].flatMap(each => each.getAttributeNames())")
    assert set(names) <= {"class", "tabindex", "type", "aria-hidden", "aria-label", "role", "href"}
    assert answer.locator("[href]:not([href='#i-copy'])").count() == 0

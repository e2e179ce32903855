"""The page's conversation: the real claude behind the real handler, with a model whose words are scripted."""

import random
import re

import pytest
from playwright.sync_api import Page, expect

from ..support.browser import (
    Visit,
    axe_finds,
    axe_finds_in_both_schemes,
    confirm,
    phase,
    show,
    text_of,
    wait_for,
    wait_for_text,
)
from ..support.page_chat import LONG, PROPOSES, answer_chat, ask_claude, ended, lose_sessions, open_again
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


@pytest.mark.all
def test_a_proposal_can_be_put_off_and_is_spent_once_refused(visit: Visit) -> None:
    """Not now folds it on this screen, and can be undone.

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
    card.locator("[data-approve]").click()
    page.wait_for_selector("#yes[aria-disabled=false]")
    assert visit.mutating == []
    visit.stage.service.pve("reset", caller="operator2")
    page.click("#yes")
    phase(page, "refused")
    expect(card).to_contain_text("Reset: refused at ")
    expect(card.locator("button")).to_have_count(0)


@pytest.mark.all
def test_every_state_of_the_chat_passes_axe(visit: Visit) -> None:
    """There is no violation at work, with a proposal, stopped, down and lost."""
    page = visit.page
    page.clock.install()
    visit.open()
    ask_claude(page, fake({"text": "I look.", **bash("pve reset")}, {"text": LONG, "wait": "judged"}))
    expect(page.locator("[data-approve=reset]")).to_be_attached()
    found = axe_finds_in_both_schemes(page, "at work")
    page.click("#stop-turn")
    ended(page)
    found += axe_finds_in_both_schemes(page, "stopped, and a conversation that ended")
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
    page.wait_for_selector("#ask-rest:visible")
    assert axe_finds_in_both_schemes(page, "cut off") == []
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


# --- how the page draws a turn ---

ANSWER = """## What I found

The guest **waits for its disk**, `virtio0`:

1. It has 3 requests in flight
   - the oldest since *02:51*
2. Nothing else waits

| Disk | Oldest request | In flight | Completed since the last look |
|---|---:|---|---|
| devvm virtio0 | 11 min | 3 | none at all |
| mail virtio0 | 2 ms | 0 | 1,204 |

```console
$ zpool status -x
  pool: rpool   state: ONLINE   scan: scrub repaired 0B in 00:12:40 with 0 errors on Sunday
```

See [the manual](https://evil.example/cycle)."""

HOSTILE = r"""# <img src=x onerror=alert(1)> **<script>alert(1)</script>**
[click](javascript:alert(1)) ![x](https://evil.example/x.png) <https://evil.example> https://evil.example
- <iframe src="https://evil.example"></iframe>
| <b onclick=alert(1)>a</b> | `<svg onload=alert(1)>` |
|---|---|
| &lt;b&gt; | [x](data:text/html,<script>) |

```html onload=alert(1)
<form action=https://evil.example><button data-verb=stop>Unlock</button></form>
```
<button data-approve="stop" data-job="x">Approve</button> <style>*{display:none}</style>
[r]: https://evil.example "t"
"""
KINDS = {"BLOCKQUOTE", "BUTTON", "CODE", "DIV", "EM", "H4", "HR", "LI", "OL", "P", "PRE", "SPAN", "STRONG", "TABLE"}
KINDS |= {"TBODY", "TD", "TH", "TR", "UL", "svg", "use"}


def locked(visit: Visit) -> Page:
    """Open the page without a key, for what its modules do by themselves."""
    visit.page.goto(visit.stage.url)
    phase(visit.page, "locked")
    return visit.page


def overflow(page: Page) -> int:
    """Return by how much the page is wider than the screen."""
    wider: int = page.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return wider


# The composer grows, as by a keyboard that opens, and an earlier step's scrolling is reported before the new size is.
# Returns whether there is something to scroll, whether the end is in sight, and whether "To the end" is hidden.
GROW_COMPOSER = """async () => {
    const box = document.getElementById("transcript");
    const drawn = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
    await drawn();
    document.querySelector(".composer").style.paddingTop = "5rem";
    box.dispatchEvent(new Event("scroll"));
    await drawn();
    const {scrollHeight, scrollTop, clientHeight} = box;
    return [scrollTop > 0, scrollHeight - scrollTop - clientHeight < 2, document.getElementById("to-end").hidden];
}"""


def test_an_answer_is_drawn_from_its_markdown(visit: Visit) -> None:
    """On the narrowest screen a wide table and wide code scroll by themselves; nothing is a link."""
    visit.page.set_viewport_size({"width": 320, "height": 640})
    page = visit.open()
    answer_chat(page, *({"type": "text", "text": piece} for piece in ANSWER.splitlines(keepends=True)))
    ask_claude(page, "well?")
    ended(page)
    answer = page.locator("#transcript .answer")
    expect(answer).to_contain_text("See the manual (https://evil.example/cycle).")
    expect(answer.locator("h4")).to_have_text("What I found")
    expect(answer.locator("strong")).to_have_text("waits for its disk")
    expect(answer.locator("ol > li")).to_have_count(2)
    expect(answer.locator("ol > li li em")).to_have_text("02:51")
    expect(answer.locator("th").nth(1)).to_have_text("Oldest request")
    expect(answer.locator("td")).to_have_text(
        ["devvm virtio0", "11 min", "3", "none at all", "mail virtio0", "2 ms", "0", "1,204"]
    )
    expect(answer.locator("pre")).to_contain_text("$ zpool status -x\n  pool: rpool   state", use_inner_text=False)
    assert page.locator("#transcript a").count() == 0
    assert page.evaluate(GROW_COMPOSER) == [True, True, True]
    assert overflow(page) == 0
    for wide in (".scroll", ".code pre"):
        assert answer.locator(wide).evaluate(
            "box => box.scrollWidth > box.clientWidth && getComputedStyle(box).overflowX === 'auto'"
        )
    page.unroute("**/chat")
    see_no_element_of(page, HOSTILE)


def see_no_element_of(page: Page, hostile: str) -> None:
    """Markup stays text, an address stays text, and no button of it acts, under the policies that the page has."""
    answer_chat(page, {"type": "text", "text": hostile})
    ask_claude(page, "and?")
    ended(page, 2)
    answer = page.locator("#transcript .answer").last
    expect(answer).to_contain_text('<button data-approve="stop" data-job="x">Approve</button>')
    expect(answer).to_contain_text("<img src=x onerror=alert(1)> <script>alert(1)</script>")
    expect(answer).to_contain_text("click (javascript:alert(1)) x (https://evil.example/x.png) <https://evil.example>")
    expect(answer.locator("pre")).to_contain_text("<button data-verb=stop>Unlock</button>")
    found: list[str] = answer.evaluate("box => [...box.querySelectorAll('*')].map(each => each.tagName)")
    assert set(found) <= KINDS
    names: list[str] = answer.evaluate(
        "box => [...box.querySelectorAll('*')].flatMap(each => each.getAttributeNames())"
    )
    assert set(names) <= {"class", "tabindex", "type", "aria-hidden", "aria-label", "role", "href"}
    hrefs: list[str] = answer.evaluate(
        "box => [...box.querySelectorAll('[href]')].map(each => each.getAttribute('href'))"
    )
    assert set(hrefs) == {"#i-copy"}


CLIPBOARD = "() => navigator.clipboard.readText()"


@pytest.mark.all
def test_a_command_is_folded_to_a_line(visit: Visit) -> None:
    """Its last lines, then all of them; what was refused is no failure, and what failed says so."""
    visit.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = visit.open()
    look, count, broken = bash("pve status"), bash("seq 1 40"), bash("ls /nowhere")
    wait = {"text": "Look: `df`\n\n```sh\ndf -h\n```\n", **bash("pve reset")}
    ask_claude(page, fake(look, count, broken, wait, {"text": "I *wait*."}))
    ended(page)
    turn = page.locator("#transcript article")
    summaries = turn.locator("summary")
    expect(summaries).to_have_text(
        ["Looked at: pve status", "Ran: seq 1 40", "Failed: ls /nowhere", "Asked for: Reset"]
    )
    summaries.nth(1).click()
    output = turn.locator("details").nth(1)
    assert (output.locator("pre").text_content() or "").split() == [str(n) for n in range(33, 41)]
    output.get_by_role("button", name="All 40 lines").click()
    assert (output.locator("pre").text_content() or "").split() == [str(n) for n in range(1, 41)]
    turn.locator(".code button").click()
    expect(turn.locator(".code button")).to_have_text("Copied")
    assert page.evaluate(CLIPBOARD) == "df -h"
    turn.locator(".meta button").click()
    expect(turn.locator(".meta button")).to_have_text("Copied")
    assert page.evaluate(CLIPBOARD) == "Look: `df`\n\n```sh\ndf -h\n```\n\n\nI *wait*."
    expect(turn.locator(".meta small")).to_contain_text(re.compile(r"^ \d\d:\d\d:\d\d, \d+ s, 3 commands"))
    assert overflow(page) == 0
    assert axe_finds(page, "open folds") == []


# A turn that grows as its events come: what it looks like at each step.
GROW = """async () => {
    const {Turn} = await import("/chat/turn.js"), {dispatch} = await import("/state/store.js");
    const turn = new Turn({id: "one", prompt: "Why?"}), seen = {};
    const proposal = {at: Date.now(), last: "none", status: "held"};
    const note = (type, words, status) => dispatch(type, {job: "job_x", words, status, proposal});
    performance.now = () => 0; // however little processor there is, nothing is left for another slice
    document.body.append(turn.element);
    const settled = async () => { await null; await null; };
    const html = () => [...turn.element.querySelectorAll(".answer")].map((box) => box.innerHTML)
        .join("|").replaceAll(' class=""', "");
    turn.text({n: 1, text: "It is **the"});
    await settled();
    seen.bold = html();
    turn.text({n: 2, text: " disk**.\\n\\nThen `virtio"});
    await settled();
    getSelection().selectAllChildren(turn.element.querySelector(".answer p"));
    turn.text({n: 3, text: "0` waits.\\n\\n```\\nls\\n``"});
    await settled();
    seen.code = html();
    seen.selected = String(getSelection());
    turn.text({n: 4, retract: 3});
    await settled();
    seen.retracted = html();
    turn.text({n: 5, text: "1`, **not"});
    turn.tool({id: "t", name: "Bash", input: {command: "pve status"}});
    turn.text({n: 6, text: "Gone."});
    await settled();
    seen.ended = html();
    turn.text({n: 7, retract: 6});
    turn.approval({verb: "reset", vm: "devvm", job: "job_x", why: "Try."});
    note("proposal-came");
    const card = turn.element.querySelector("[data-proposal]");
    seen.held = card.querySelectorAll("button").length;
    note("proposal-noted", "", "open");
    seen.offered = card.querySelectorAll("button").length;
    note("proposal-noted", "Too old to approve. Ask Claude again.", "spent");
    seen.spent = card.querySelectorAll("button").length;
    turn.end("Stopped.");
    seen.summary = turn.element.querySelector("summary").textContent;
    seen.answer = turn.answer;
    turn.element.remove();
    return seen;
}"""


def test_a_turn_looks_right_at_each_step(visit: Visit) -> None:
    """What is open looks as it will, a selection in what is finished stays, and retracted text is gone."""
    page = locked(visit)
    seen = page.evaluate(GROW)
    assert seen["bold"] == "<p>It is <strong>the</strong></p>"
    first = "<p>It is <strong>the disk</strong>.</p>"
    assert seen["code"].startswith(f'{first}<p>Then <code>virtio0</code> waits.</p><div class="code">')
    assert '<span class="piece">ls\n</span></pre>' in seen["code"]
    assert seen["selected"].strip() == "It is the disk."
    assert seen["retracted"] == f"{first}<p>Then <code>virtio</code></p>"
    assert seen["ended"] == f"{first}<p>Then <code>virtio1</code>, **not</p>|<p>Gone.</p>"
    assert (seen["held"], seen["offered"], seen["spent"]) == (0, 2, 0)
    assert seen["summary"] == "Not finished: pve status"
    assert seen["answer"] == "It is **the disk**.\n\nThen `virtio1`, **not"

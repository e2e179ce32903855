"""How the page draws a turn: Markdown as elements and never as markup, folds, proposals, and what can be copied."""

import random
import re

import pytest
from playwright.sync_api import Page, expect

from ..support.browser import Visit, axe_finds, phase
from ..support.page_chat import answer_chat, ask_claude, ended
from ..support.talk import bash, fake

pytestmark = [pytest.mark.real("chromium", "claude", "sshd", "qemu"), pytest.mark.slow]

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
BITS = [
    "\n",
    "\n\n",
    " ",
    "a",
    "Word ",
    "*",
    "**",
    "`",
    "```",
    "\n```\n",
    "\n- ",
    "\n  - ",
    "\n1. ",
    "\n# ",
    "|",
    "\n| a | b |\n",
    "\n| a | b |\n|---|---|\n| c | d |\n",
]
BITS += [
    "|---|\n",
    "\n---\n",
    "\n> ",
    "[a](http://b)",
    "\\",
    "<b>",
    "<script>",
    "<img src=x>",
    "\u202e",
    "\U0001f600",
    "&lt;",
]

SEED = 20261128

# Draws each text twice, in pieces and at once, and returns what is not the same, and which elements there are.
DRAW = """async (texts) => {
    const {Markdown} = await import("/chat/render_markdown.js");
    const kinds = new Set(), differ = [];
    for (const pieces of texts) {
        const [grown, whole] = [new Markdown(), new Markdown()];
        document.body.append(grown.element, whole.element);
        for (const piece of pieces) {
            grown.write(piece);
            await null;
            for (const each of grown.element.querySelectorAll("*")) kinds.add(each.tagName);
        }
        grown.end();
        whole.write(pieces.join(""));
        whole.end();
        for (let n = 0; grown.element.innerHTML !== whole.element.innerHTML && n < 200; n += 1) {
            await new Promise((done) => setTimeout(done, 10));
        }
        const [one, other] = [grown.element.innerHTML, whole.element.innerHTML];
        if (one !== other) differ.push([pieces, one, other]);
        grown.element.remove();
        whole.element.remove();
    }
    return [[...kinds], differ];
}"""


def locked(visit: Visit) -> Page:
    """Open the page without a key, for what its modules do by themselves."""
    visit.page.goto(visit.stage.url)
    phase(visit.page, "locked")
    return visit.page


def overflow(page: Page) -> int:
    """Return by how much the page is wider than the screen."""
    wider: int = page.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return wider


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
    assert overflow(page) == 0
    for wide in (".scroll", ".code pre"):
        assert answer.locator(wide).evaluate(
            "box => box.scrollWidth > box.clientWidth && getComputedStyle(box).overflowX === 'auto'"
        )
    assert axe_finds(page, "an answer in Markdown") == []
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


def test_a_text_in_pieces_is_drawn_as_the_whole_is(visit: Visit) -> None:
    """However a text comes, it ends as the whole text does, and makes only elements of the list."""
    chosen = random.Random(SEED)
    texts = [[chosen.choice(BITS) for _ in range(chosen.randrange(1, 40))] for _ in range(100)]
    texts += [[text[at : at + 7] for at in range(0, len(text), 7)] for text in (ANSWER, HOSTILE)]
    page = locked(visit)
    kinds, differ = page.evaluate(DRAW, texts)
    assert differ == []
    assert set(kinds) <= KINDS
    assert {"CODE", "LI", "TD", "H4"} <= set(kinds)


CLIPBOARD = "() => navigator.clipboard.readText()"


@pytest.mark.all
def test_a_command_is_folded_to_a_line(visit: Visit) -> None:
    """Its last lines, then all of them; what was refused is no failure, and what failed says so."""
    visit.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = visit.open()
    look, count, broken = bash("pve status"), bash("seq 1 40"), bash("ls /nowhere")
    ask_claude(
        page,
        fake(
            look,
            count,
            broken,
            {"text": "Look: `df`\n\n```sh\ndf -h\n```\n", **bash("pve reset")},
            {"text": "I *wait*."},
        ),
    )
    ended(page)
    turn = page.locator("#transcript article")
    summaries = turn.locator("summary")
    expect(summaries).to_have_text(
        ["Looked at: pve status", "Ran: seq 1 40", "Failed: ls /nowhere", "Asked for: Reset"]
    )
    summaries.nth(1).click()
    output = turn.locator("details").nth(1)
    assert (output.locator("pre").text_content() or "").split() == [str(n) for n in range(33, 41)]
    assert output.locator("pre").evaluate("pre => pre.scrollHeight <= pre.clientHeight + 1")
    output.get_by_role("button", name="All 40 lines").click()
    expect(output.locator("pre")).to_be_focused()
    assert (output.locator("pre").text_content() or "").split() == [str(n) for n in range(1, 41)]
    assert output.locator("pre").evaluate("pre => pre.scrollHeight <= pre.clientHeight + 1")
    output.get_by_role("button", name="Copy").click()
    expect(output.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate(CLIPBOARD).split() == [str(n) for n in range(1, 41)]
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


LONG_ANSWER = """async () => {
    const {Turn} = await import("/chat/turn.js");
    const turn = new Turn({id: "one", prompt: "Why?", began: Date.now()});
    document.body.append(turn.element);
    const lines = Array.from({length: 2000}, (_, n) => n % 9 ? `line ${n} of **many**\\n` : `\\n- item ${n}\\n\\n`);
    turn.text({n: 1, text: lines.join("")});
    turn.result({n: 2, ok: true, text: "", seconds: 1, cost_usd: 0.25});
    for (let n = 0; n < 5_000 && !turn.element.textContent.includes("line 1999 of many"); n += 1) {
        await new Promise((done) => setTimeout(done, 10));
    }
    const said = turn.element.querySelector(".answer").textContent.match(/\\d+/g).map(Number);
    turn.element.remove();
    return [said, turn.element.querySelector(".meta").textContent];
}"""


def test_a_long_answer_at_once_is_drawn_whole(visit: Visit) -> None:
    """A replay gives 2,000 lines at once: all of them are drawn, in their order, and the cost stands below."""
    page = locked(visit)
    output, meta = page.evaluate(LONG_ANSWER)
    assert output == list(range(2_000))
    assert ", 1 s, 0.25 USD" in meta

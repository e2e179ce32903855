"""How the page draws a turn: Markdown as elements and never as markup, folds, proposals, and what can be copied."""

import random

import pytest
from playwright.sync_api import Page, expect

from ..support.browser import Visit, axe_finds
from ..support.page_chat import ask_claude, ended
from ..support.talk import fake

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

# Draws each text twice, in pieces and at once, and returns what is not the same, and which elements there are.
DRAW = """async (texts) => {
    const {Markdown} = await import("/render_markdown.js");
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


def overflow(page: Page) -> int:
    """Return by how much the page is wider than the screen."""
    wider: int = page.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return wider


def test_an_answer_is_drawn_from_its_markdown(visit: Visit) -> None:
    """On the narrowest screen a wide table and wide code scroll by themselves; nothing is a link."""
    visit.page.set_viewport_size({"width": 320, "height": 640})
    page = visit.open()
    ask_claude(page, fake({"text": ANSWER, "pace": 0.001}))
    ended(page)
    answer = page.locator("#transcript .answer")
    expect(answer.locator("h4")).to_have_text("What I found")
    expect(answer.locator("strong")).to_have_text("waits for its disk")
    expect(answer.locator("ol > li")).to_have_count(2)
    expect(answer.locator("ol > li li em")).to_have_text("02:51")
    expect(answer.locator("th").nth(1)).to_have_text("Oldest request")
    expect(answer.locator("td")).to_have_text(
        ["devvm virtio0", "11 min", "3", "none at all", "mail virtio0", "2 ms", "0", "1,204"]
    )
    expect(answer.locator("pre")).to_contain_text("$ zpool status -x\n  pool: rpool   state", use_inner_text=False)
    expect(answer).to_contain_text("See the manual (https://evil.example/cycle).")
    assert page.locator("#transcript a").count() == 0
    assert overflow(page) == 0
    for wide in (".scroll", ".code pre"):
        assert answer.locator(wide).evaluate(
            "box => box.scrollWidth > box.clientWidth && getComputedStyle(box).overflowX === 'auto'"
        )
    assert axe_finds(page, "an answer in Markdown") == []


def test_hostile_markdown_makes_no_element(visit: Visit) -> None:
    """Markup stays text, an address stays text, and no button of it acts, under the policies that the page has."""
    page = visit.open()
    ask_claude(page, fake({"text": HOSTILE, "pace": 0.001}))
    ended(page)
    answer = page.locator("#transcript .answer")
    expect(answer).to_contain_text("<img src=x onerror=alert(1)> <script>alert(1)</script>")
    expect(answer).to_contain_text("click (javascript:alert(1)) x (https://evil.example/x.png) <https://evil.example>")
    expect(answer.locator("pre")).to_contain_text("<button data-verb=stop>Unlock</button>")
    expect(answer).to_contain_text('<button data-approve="stop" data-job="x">Approve</button>')
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
    seed = random.randrange(1_000_000)
    print(f"seed {seed}")
    chosen = random.Random(seed)
    texts = [[chosen.choice(BITS) for _ in range(chosen.randrange(1, 40))] for _ in range(300)]
    page = visit.open()
    kinds, differ = page.evaluate(DRAW, texts)
    assert differ == []
    assert set(kinds) <= KINDS
    assert {"CODE", "LI", "TD", "H4"} <= set(kinds)

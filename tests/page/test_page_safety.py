"""What the page never does: send a verb without its dialog, trust a text, or stay blank."""

import html
import json
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from ..support.browser import (
    ASKS,
    HAS_STYLE,
    Stage,
    Visit,
    ask,
    confirm,
    phase,
    press,
    show,
    text_of,
    wait_for,
    wait_for_text,
)

pytestmark = pytest.mark.real("chromium", "sshd", "qemu")

THREE_DAYS = 3 * 86_400


# --- nothing leaves without the dialog ---


def away(page: Page) -> None:
    """Bring another tab to the front and close it."""
    other = page.context.new_page()
    other.bring_to_front()
    other.close()


def unasked(page: Page) -> None:
    """Press a button by script; a person must do that."""
    page.evaluate("() => document.getElementById('yes').click()")


LEAVES: dict[str, Callable[[Page], object]] = {
    "Esc": lambda page: page.keyboard.press("Escape"),
    "Enter": lambda page: page.keyboard.press("Enter"),
    "the quiet button": lambda page: page.click("#keep"),
    "another tab": away,
    "a script": unasked,
}
GONE: dict[str, Callable[[Page], object]] = {
    "reload": lambda page: page.reload(),
    "Back": lambda page: page.go_back(),
}


QUICK = (LEAVES["Esc"], LEAVES["Enter"])


@pytest.mark.all
def test_nothing_leaves_without_the_dialog(visit: Visit) -> None:
    """Leaving the dialog of a verb in any way sends no request, and returns the focus to the button."""
    page = visit.open()
    for leave in LEAVES.values():
        for verb in ASKS if leave in QUICK else ("reset",):
            ask(page, verb)
            leave(page)
            if page.is_visible("#confirm"):
                page.keyboard.press("Escape")
            page.wait_for_selector("#confirm", state="hidden")
            assert page.evaluate("() => document.activeElement.dataset.verb") == verb
    for leave in GONE.values():
        page.goto("about:blank")
        ask(visit.open(), "reset")
        leave(page)
    assert visit.mutating == []


# Presses each button that is shown outside the dialogs, and closes the dialog that it opens. Returns their names.
PRESS_ALL = """async () => {
    document.querySelectorAll("details").forEach(each => { each.open = true; });
    const pressed = [];
    for (const button of document.querySelectorAll("button:not(dialog *)")) {
        if (!button.checkVisibility({visibilityProperty: true})) continue;
        button.click();
        await new Promise(done => setTimeout(done));
        const [dialog] = document.querySelectorAll("dialog[open]");
        pressed.push(`${button.id || button.dataset.verb}${dialog?.id === "confirm" ? "?" : ""}`);
        dialog?.close();
    }
    return pressed;
}"""


def test_no_button_but_the_red_one_changes_power(visit: Visit) -> None:
    """No button outside the dialog sends a verb that changes power or forgets the key, in any order."""
    page = visit.open()
    press(page, "forensics")
    phase(page, "done")
    page.evaluate("() => { window.print = () => {}; }")
    pressed = set()
    for tab in ("history", "chat", "vm"):
        show(page, tab)
        expect(page.locator("[data-verb=reset]")).to_have_attribute("aria-disabled", "false")
        pressed |= set(page.evaluate(PRESS_ALL))
    assert {f"{each}?" for each in (*ASKS, "forget")} == {each for each in pressed if each.endswith("?")}
    assert {"status", "forensics", "glass", "outcome-act", "print", "copy-output"} <= pressed
    assert visit.mutating == []
    assert page.get_attribute("body", "data-scene") == "unlocked"  # Forget asks, too


# --- where it can't run, or can't sign ---


def test_without_a_script_the_commands_are_there(stage: Stage) -> None:
    """Without JavaScript the recipe with curl is open, and the page says why the rest is missing."""
    stage.settle()
    visit = Visit(stage, java_script_enabled=False)
    visit.page.goto(stage.url)
    assert "has scripts disabled" in visit.page.inner_text("main")
    assert 'curl -sS "$URL/pve"' in text_of(visit.page, "recipe")
    expect(visit.page.locator("#recipe")).to_be_visible()
    assert not visit.page.is_visible("#unlock")
    assert visit.page.locator("[data-verb]").count() == 0
    visit.close()


def test_the_recipe_works(stage: Stage) -> None:
    """The commands that the page shows without JavaScript are a signed request."""
    stage.settle()
    page = (Path(__file__).parent.parent.parent / "static_site/index.html").read_text(encoding="utf-8")
    recipe = html.unescape(page.partition('<pre id="recipe" tabindex="0">')[2].partition("</pre>")[0])
    script = recipe.replace("URL=https://…", f"URL={stage.url.rstrip('/')}")
    ran = subprocess.run(
        ["bash", "-euc", script], input=stage.service.secrets["operator"] + "\n", capture_output=True, text=True
    )
    assert json.loads(ran.stdout)["outcome"] == "done", ran.stderr


def test_plain_http_says_how_to_reach_it_safely(visit: Visit) -> None:
    """Over plain http, a browser can sign only on its own machine. Elsewhere, the page says what to do."""
    page = visit.page
    page.goto(f"http://rescue.test:{visit.stage.wire.port}/#key={visit.keys['operator']}")
    wait_for_text(
        page,
        "too-old",
        f"ssh -L 8080:localhost:{visit.stage.wire.port} rescue.test and open http://localhost:8080/",
    )
    expect(page.locator("#too-old")).to_be_visible()
    assert not page.is_visible("#unlock")
    assert "key=" not in page.url


# --- a clock that is wrong ---


@pytest.mark.all
def test_a_device_with_a_wrong_clock_can_still_act(visit: Visit) -> None:
    """With a clock three days off a verb works, the page says by how much, and each id is accepted once."""
    visit.page.clock.install(time=time.time() + THREE_DAYS)
    page = visit.open()
    wait_for_text(page, "notes", "3 days ahead")
    before = visit.stage.mutating_jobs()
    confirm(page, "reset")
    phase(page, "done")
    refused, taken = visit.mutating
    assert taken == {**refused, "challenge": taken["challenge"]}
    assert len(visit.stage.mutating_jobs(but=before)) == 1


# --- texts that want to be more ---

EVIL = "<img src=x onerror=alert(1)><script>alert(2)</script>\x1b[31mred\x1b[0m \u202egnp.exe\u202c \0 {label} &lt; "
SHOWN = "<img src=x onerror=alert(1)><script>alert(2)</script>␛[31mred␛[0m ⟨U+202e⟩gnp.exe⟨U+202c⟩ ␀ {label} &lt; "


def hostile(route: Route) -> None:
    """Answer with hostile text in every field of the host, the guest and the callers."""
    asked = json.loads(route.request.post_data or "{}")
    verdict = {"code": "x", "sentence": EVIL, "advice": EVIL, "evidence": [EVIL] * 3}
    job = {"id": "msg_evil1234", "verb": EVIL, "by": EVIL, "why": EVIL, "started": "2026-11-24T03:12:44Z", "seconds": 1}
    job |= {"outcome": EVIL, "stage": EVIL, "verdict": verdict}
    result: dict[str, Any] = {
        "type": "result",
        "verb": asked["verb"],
        "vm": "devvm",
        "id": "x",
        "exit_code": 0,
        "stderr": "",
        "reached": True,
        "outcome": "done",
        "state": EVIL,
        "last": "none",
        "verdict": verdict,
        "stage": EVIL,
        "screen": False,
        "by_hand": [EVIL, f"ssh root@{EVIL}"],
        "warnings": [EVIL],
        "holder": None,
        "jobs": [job],
        "job": {**job, "output": EVIL * 100, "screen_png": None},
        "stdout": "",
        "chain": {"node": EVIL, "n": 1, "head": EVIL, "broken": EVIL, "notes": [EVIL], "hashes": [EVIL], "since": 1},
    }
    lines: list[dict[str, Any]] = [{"type": "accepted"}]
    if asked["verb"] == "forensics":
        lines += [{"type": "output", "stream": "stdout", "text": EVIL * 500}] * 100  # 5 MB and more
    body = "".join(json.dumps(line) + "\n" for line in [*lines, result])
    route.fulfill(status=200, content_type="application/x-ndjson", body=body)


@pytest.mark.all
def test_hostile_text_is_text(stage: Stage) -> None:
    """5 MB of markup, escapes, right-to-left marks and NULs in every field are shown as text."""
    stage.settle()
    visit = Visit(stage, service_workers="block")
    page = visit.page
    page.on("dialog", lambda dialog: visit.complaints.append(dialog.message))
    page.route("**/pve", hostile)
    visit.open()
    press(page, "forensics")
    phase(page, "done")
    show(page, "history")
    page.click("#jobs summary")
    expect(page.locator("#jobs pre")).to_contain_text(SHOWN)
    for place in ("second", "verdict-sentence", "verdict-lines", "notes", "by-hand-lines", "jobs", "chain"):
        expect(page.locator(f"#{place}")).to_contain_text(SHOWN)
    assert len(page.locator("#output").text_content() or "") > 5_000_000
    assert page.locator("body :is(img, script)").count() == 0
    show(page, "vm")
    press(page, "status")  # the page still reacts
    phase(page, "idle")
    visit.close()


# --- what can keep the page from its start ---

# The features that the page needs, and the script that removes each before the page loads, as in an older browser.
LACKS = {
    "modules": "delete HTMLScriptElement.prototype.noModule",
    "toSorted": "delete Array.prototype.toSorted",
    "ariaDisabled": "delete Element.prototype.ariaDisabled",
    "AbortSignal": "delete window.AbortSignal",
    "AbortSignal.timeout": "delete AbortSignal.timeout",
    "TextDecoderStream": "delete window.TextDecoderStream",
    "dialogs": "delete window.HTMLDialogElement",
    "container queries": "CSS.supports = () => false",
}


def see_too_old(page: Page) -> None:
    """Return once the page says what is wrong and what to do, with the commands by hand in sight."""
    words = page.locator("#too-old")
    expect(words).to_be_visible()
    expect(words).to_have_text(
        "This browser is too old for this page. It needs Chrome or Edge 110, Firefox 119, Safari 16 or later. "
        "Use another browser, or the commands under “By hand” and in the runbook."
    )
    expect(page.locator("#recipe")).to_be_visible()


@pytest.mark.all
def test_a_browser_that_lacks_something_says_so(stage: Stage) -> None:
    """Without any one of these features, the page shows the sentence, and no endless loading."""
    for script in LACKS.values():
        with stage.browser.new_context() as context:
            context.add_init_script(script)
            page = context.new_page()
            page.goto(f"{stage.url}#key={stage.service.secrets['operator']}")
            see_too_old(page)


def test_only_a_module_that_cannot_be_read_means_an_old_browser(visit: Visit) -> None:
    """If a module can't be parsed, the page shows the sentence. Another error does not bring it."""
    page = visit.page
    page.goto(visit.stage.url)
    phase(page, "locked")
    page.evaluate(
        """() => {
            dispatchEvent(new ErrorEvent("error", { error: new SyntaxError("late") }));
            delete document.body.dataset.begun;
            dispatchEvent(new ErrorEvent("error", { error: new TypeError("other") }));
        }"""
    )
    expect(page.locator("#too-old")).to_be_hidden()
    broken = "let x = y §§ z;"
    page.route("**/press.js", lambda route: route.fulfill(body=broken, content_type="text/javascript"))
    page.goto(visit.stage.url)
    see_too_old(page)
    expect(page.locator("#headline")).to_have_text("Browser too old")
    visit.complaints.clear()


def lose(page: Page, file: str) -> list[str]:
    """Lose the answers to requests for a file, and return the list of lost ones."""
    lost: list[str] = []

    def answer(route: Route) -> None:
        lost.append(route.request.url)
        route.abort()

    page.route(f"**/{file}", answer)
    return lost


def loads_of(page: Page) -> list[str]:
    """Return the list of the page's loads, which grows."""
    loads: list[str] = []
    page.on("request", lambda request: loads.append(request.url) if request.is_navigation_request() else None)
    return loads


@pytest.mark.all
def test_a_file_that_is_lost_is_asked_for_once_more(stage: Stage) -> None:
    """The page then starts with its style and the key of its address, or says what to do and reloads no more."""
    stage.settle()
    with closing(Visit(stage, service_workers="block")) as visit:  # a worker would answer in the handler's place
        page, loads = visit.page, loads_of(visit.page)
        # The route stays for the second load: Chromium would be told to stop intercepting while it loads the page.
        page.route("**/press.js", lambda route: route.abort() if len(loads) == 1 else route.continue_())
        page.goto(f"{stage.url}#key={visit.keys['operator']}")
        phase(page, "idle")
        assert len(loads) == 2
        wait_for(page, lambda: page.evaluate(HAS_STYLE), "the style")
        expect(page.locator("#too-old")).to_have_text("")
        loads.clear()
        lose(page, "press.js")
        page.goto(stage.url)
        see_not_loaded(page)
        assert len(loads) == 2
        page.unroute("**/press.js")
        page.reload()
        phase(page, "locked")
        lose(page, "*.js")  # as when a phone leaves the Wi-Fi at that moment
        page.reload()
        expect(page.locator("#second")).to_have_text("If nothing happens, reload the page")


def see_not_loaded(page: Page) -> None:
    expect(page.locator("#headline")).to_have_text("Not loaded")
    expect(page.locator("#secret")).to_be_hidden()
    expect(page.locator("#too-old")).to_contain_text("Reload the page")
    expect(page.locator("#recipe")).to_be_visible()


@pytest.mark.all
def test_a_page_that_can_store_nothing_does_not_reload_for_ever(visit: Visit) -> None:
    """It could not know that it has reloaded already."""
    visit.page.add_init_script("Storage.prototype.setItem = () => { throw Error('full'); }")
    loads, lost = loads_of(visit.page), lose(visit.page, "press.js")
    visit.page.goto(visit.stage.url)
    see_not_loaded(visit.page)
    assert (len(loads), len(lost)) == (1, 1)

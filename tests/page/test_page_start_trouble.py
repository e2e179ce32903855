"""What can keep the page from its start: a browser that is too old, or a file that was lost on the way."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, Route, expect

from ..support.browser import HAS_STYLE, Visit, phase, wait_for
from ..support.selection import sampled

pytestmark = pytest.mark.real("chromium", "sshd", "qemu")
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


@pytest.fixture
def old(visit: Visit) -> Iterator[Page]:
    """The page in such a browser, which may log any errors."""
    yield visit.page
    visit.complaints.clear()


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
@pytest.mark.parametrize("lacks", sampled(LACKS, "ariaDisabled"))
def test_a_browser_that_lacks_something_says_so(visit: Visit, old: Page, lacks: str) -> None:
    """Without any one of these features, the page shows the sentence, with or without a key."""
    old.add_init_script(LACKS[lacks])
    old.goto(visit.stage.url)
    see_too_old(old)
    old.goto("about:blank")  # otherwise only the fragment changes, and the earlier page stays
    old.goto(f"{visit.stage.url}#key={visit.keys['operator']}")
    see_too_old(old)


@pytest.mark.parametrize("module", sampled(["app.js", "base/words.js"], "base/words.js"))
def test_a_module_in_syntax_that_the_browser_cannot_read_brings_the_sentence(
    visit: Visit, old: Page, module: str
) -> None:
    """If a module can't be parsed, the page shows the sentence and does not seem to load for ever."""
    old.route(f"**/{module}", lambda route: route.fulfill(body="let x = y §§ z;", content_type="text/javascript"))
    old.goto(visit.stage.url)
    see_too_old(old)
    expect(old.locator("#headline")).to_have_text("Browser too old")
    assert [text for text in visit.complaints if "Invalid or unexpected token" in text]


def test_a_browser_that_has_everything_says_nothing(visit: Visit) -> None:
    """Another kind of error, or an error after the page's start, does not mean an old browser."""
    page = visit.page
    page.goto(visit.stage.url)
    phase(page, "locked")
    page.evaluate(
        """() => {
            for (const error of [new SyntaxError("late"), new TypeError("other")]) {
                dispatchEvent(new ErrorEvent("error", { error }));
            }
            document.body.dataset.scene = "opening";
            dispatchEvent(new ErrorEvent("error", { error: new TypeError("other") }));
        }"""
    )
    expect(page.locator("#too-old")).to_have_text("")
    expect(page.locator("#too-old")).to_be_hidden()


def lose(page: Page, file: str, times: int) -> list[str]:
    """Lose the first answers to requests for a file. Return the list of lost ones."""
    lost: list[str] = []

    def answer(route: Route) -> None:
        if len(lost) < times:
            lost.append(route.request.url)
            route.abort()
        else:
            route.fallback()

    page.route(f"**/{file}", answer)
    return lost


@pytest.mark.parametrize(
    ("file", "times"), sampled([("app.js", 1), ("base/words.js", 2), ("style.css", 1)], ("app.js", 1))
)
def test_a_file_that_is_lost_is_asked_for_again(visit: Visit, file: str, times: int) -> None:
    """The page starts with its style and with the key from its address.

    Chromium asks for a file of index.html's head a second time by itself.
    """
    page = visit.page
    lost = lose(page, file, times)
    page.goto(f"{visit.stage.url}#key={visit.keys['operator']}")
    phase(page, "idle")
    assert len(lost) == times
    wait_for(page, lambda: page.evaluate(HAS_STYLE), "the style")
    expect(page.locator("#too-old")).to_have_text("")
    assert page.evaluate("() => sessionStorage.getItem('breakglass reloaded')") is None


@pytest.mark.all
@pytest.mark.parametrize(
    ("storage", "loads"), [("", 2), ("Storage.prototype.setItem = () => { throw Error('full'); }", 1)]
)
def test_a_file_that_is_lost_again_and_again_is_said(visit: Visit, storage: str, loads: int) -> None:
    """The page does not reload itself for ever, even if it can't store that it did. A later reload by hand works."""
    page = visit.page
    page.add_init_script(storage)
    lost = lose(page, "app.js", loads)
    page.goto(visit.stage.url)
    expect(page.locator("#headline")).to_have_text("Not loaded")
    expect(page.locator("#too-old")).to_contain_text("Reload the page")
    expect(page.locator("#recipe")).to_be_visible()
    assert len(lost) == loads
    page.reload()
    phase(page, "locked")

"""A conversation with claude on the page, for its tests."""

import json
from collections.abc import Mapping

from playwright.sync_api import Page, expect

from .browser import Visit, show
from .talk import Talker, bash, fake

LONG = "".join(f"Line {n} of what there is to say.\n" for n in range(1, 41))
PROPOSES = fake({"text": "It is hung: reset it.", **bash("pve reset")}, {"text": "It needs your approval."})


def show_chat(page: Page) -> None:
    """Show the conversation. A wide screen shows it besides the other parts."""
    if page.is_visible("[data-show=chat]"):
        show(page, "chat")


def open_again(visit: Visit, page: Page | None = None) -> Page:
    """Open the page once more, as after a reload or in a new tab, with the conversation shown."""
    page = visit.open(page)
    show_chat(page)
    return page


def ask_claude(page: Page, prompt: str) -> None:
    show_chat(page)
    expect(page.locator("#send")).to_have_attribute("aria-disabled", "false")  # the earlier conversation is loaded
    page.fill("#prompt", prompt)
    page.press("#prompt", "Control+Enter")


def ended(page: Page, count: int = 1) -> None:
    """Return once this many turns have ended, with success or not, and the earlier turns are fully drawn."""
    expect(page.locator("#transcript article")).to_have_count(count)
    expect(page.locator("#chat-notice")).not_to_contain_text("being loaded")
    # its own `hidden`, because in another tab the whole conversation is out of sight
    expect(page.locator("#stop-turn")).to_have_attribute("hidden", "", timeout=120_000)


def answer_chat(page: Page, *events: Mapping[str, object], ok: bool = True) -> None:
    """Answer each request with these events at once and without claude, for tests of the page alone."""
    lines: list[Mapping[str, object]] = [
        {"type": "session", "session": "s", "turn": "t"},
        *events,
        {"type": "done", "ok": ok},
    ]
    body = "".join(json.dumps({"n": n, **line}) + "\n" for n, line in enumerate(lines, 1))
    page.route("**/chat", lambda route: route.fulfill(content_type="application/x-ndjson", body=body))


def lose_sessions(visit: Visit) -> None:
    """Remove the disk that held the conversations."""
    assert isinstance(visit.stage.service, Talker)
    visit.stage.service.change_sessions("DELETE FROM conversation")

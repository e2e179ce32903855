"""The console's text and the guest's last words: sheets that can be read, copied, and found by a screen reader."""

import json
from pathlib import Path

import pytest
from playwright.sync_api import expect

from breakglass.agents.pve.host.paths import Host
from breakglass.agents.pve.jobs.store import JobStore
from breakglass.demo.proxmox.world import VMID, World

from ..support.browser import Visit, axe_finds_in_both_schemes, show

pytestmark = pytest.mark.real("chromium", "sshd", "qemu")

WORDS = ["[    9.000000] <b>oops</b> line 1", "[    9.100000] Kernel panic - not syncing: Attempted to kill init!"]


def have_said(world: World) -> Path:
    """Put last words into the newest capture, and return its picture, because the guest has no kernel."""
    store = JobStore(Host(VMID, str(world.root)))
    [newest, *_] = [record for record in store.records() if record.verb == "forensics"]
    path = Path(store.path(newest.id, "evidence.json"))
    kept = json.loads(path.read_text())
    kept["evidence"]["last_words"] = WORDS
    path.write_text(json.dumps(kept))
    return path.with_name("screen.png")


def test_the_console_is_text_on_a_phone(visit: Visit) -> None:
    """At 360 px its text is as large as other text, and copied as it is. The picture opens by a tap, and zooms."""
    page = visit.open()
    text = page.locator("#console-text")
    expect(text).to_contain_text("SeaBIOS")
    assert page.evaluate(
        """() => {
            const box = document.getElementById("console-text");
            return [innerWidth, parseFloat(getComputedStyle(box).fontSize) >= 14, box.scrollWidth <= box.clientWidth];
        }"""
    ) == [360, True, True]
    assert 'group "Text of the console"' in page.locator("#console").aria_snapshot()
    assert "SeaBIOS" in text.aria_snapshot()
    assert axe_finds_in_both_schemes(page, "console") == []
    visit.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.click("#copy-console")
    expect(page.locator("#copy-console")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == text.text_content()
    page.click("#glass")
    width = "image => image.getBoundingClientRect().width"
    image = page.locator("#zoom img")
    assert image.evaluate(width) == 360
    page.click("#zoom")
    assert image.evaluate(width) >= 720
    page.click("#close-large")


def test_without_a_picture_the_last_words_are_what_can_be_read(visit: Visit) -> None:
    """Of a QEMU that is silent there is no picture, and its guest's memory can still be read."""
    page = visit.open()
    picture = have_said(visit.stage.world)
    picture.rename(kept := picture.with_name("kept"))
    visit.open()
    expect(page.locator("#console-text")).to_have_text("\n".join(WORDS))
    expect(page.locator("#picture-at")).to_contain_text("Last words of the kernel")
    expect(page.locator("#glass")).to_be_hidden()
    page.click("#evidence summary")
    expect(page.locator("#last-words")).to_be_hidden()  # once is enough
    kept.rename(picture)


def test_the_last_words_are_a_sheet_of_text(visit: Visit) -> None:
    """If a capture has last words, they are first hidden, then shown whole as text, and copied unchanged."""
    page = visit.open()
    page.click("#evidence summary")
    expect(page.locator("#verdict-lines")).to_be_visible()
    expect(page.locator("#last-words")).to_be_hidden()
    have_said(visit.stage.world)
    visit.open()
    expect(page.locator("#console-text")).to_contain_text("SeaBIOS")
    page.click("#evidence summary")
    expect(page.locator("#words")).to_have_text("\n".join(WORDS))
    assert page.locator("#words b").count() == 0
    assert "Kernel panic - not syncing" in page.locator("#last-words").aria_snapshot()
    assert axe_finds_in_both_schemes(page, "last words") == []
    visit.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.click("#copy-words")
    expect(page.locator("#copy-words")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == "\n".join(WORDS)

    show(page, "history")
    newest = page.locator("#jobs li details").first
    newest.locator("summary").click()
    expect(newest.locator("dd pre").last).to_have_text("\n".join(WORDS))

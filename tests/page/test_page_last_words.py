"""The guest's last words on the page: a sheet of text that can be copied, and that a screen reader finds."""

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


def have_said(world: World) -> None:
    """Put last words into the newest capture: the guest of this host is a boot sector, and has no kernel."""
    store = JobStore(Host(VMID, str(world.root)))
    [newest, *_] = [record for record in store.records() if record.verb == "forensics"]
    path = Path(store.path(newest.id, "evidence.json"))
    kept = json.loads(path.read_text())
    kept["evidence"]["last_words"] = WORDS
    path.write_text(json.dumps(kept))


def test_the_last_words_are_a_sheet_of_text(visit: Visit) -> None:
    """Where a capture has some: hidden before, whole and as text after, and copied as they are."""
    page = visit.open()
    page.click("#evidence summary")
    expect(page.locator("#verdict-lines")).to_be_visible()
    expect(page.locator("#last-words")).to_be_hidden()
    have_said(visit.stage.world)
    visit.open()
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
    expect(newest.locator("dd pre")).to_have_text("\n".join(WORDS))

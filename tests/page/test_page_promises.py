"""The documents' other promises about the page: its downloads, its print, its hooks, a phone's edges."""

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from ..support.browser import ASKS, Stage, Visit, ask, phase, show, wait_for_text
from ..support.page_chat import answer_chat, ask_claude

pytestmark = pytest.mark.real("chromium", "sshd", "qemu")
INTERNALS = (Path(__file__).parent.parent.parent / "docs/internals.md").read_text(encoding="utf-8")
HOOKS = {"headline", "outcome", "verb", "confirm", "keep", "vm", "transcript", "proposal", "approve"}
TONES = ("good", "bad", "warn", "busy", "unknown")


def health_with(stage: Stage, **other: object) -> Callable[..., Any]:
    """Return a route that answers the handler's own `/health` with these fields replaced."""
    answer = {**stage.service.health(), **other}
    return lambda route: route.fulfill(json=answer)


# --- downloads for a ticket ---


def save(page: Page, words: str, directory: Path) -> Path:
    """Press a link that downloads, and return the file, under the name that the page gives it."""
    with page.expect_download() as coming:
        page.get_by_role("link", name=words).click()
    path = directory / coming.value.suggested_filename
    coming.value.save_as(path)
    return path


def test_the_evidence_of_a_job_can_be_downloaded(visit: Visit, tmp_path: Path) -> None:
    """The JSON has the host's record, and names the picture's file, which is the host's PNG."""
    page, service = visit.page, visit.stage.service
    job = service.pve("forensics", caller="operator2").json["id"]
    visit.open()
    show(page, "history")
    page.click(f"[id='job {job}'] summary")
    evidence = save(page, "Download evidence", tmp_path)
    picture = save(page, "Download picture", tmp_path)
    saved = json.loads(evidence.read_text(encoding="utf-8"))
    recorded = service.pve("history", job=job).json["job"]
    assert saved.pop("picture") == picture.name
    assert saved.pop("vm") == "devvm"
    png = recorded.pop("screen_png")
    assert saved == recorded
    assert saved["verdict"]["sentence"]
    assert picture.read_bytes() == base64.b64decode(png)
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    names = (evidence.name, picture.name)
    assert all(name.startswith("devvm-forensics-") for name in names)
    assert [Path(name).suffix for name in names] == [".json", ".png"]


def test_the_report_of_the_night_is_saved(visit: Visit, tmp_path: Path) -> None:
    """It is one file that any browser shows. Without an answer, the page says so, and can be asked again."""
    visit.stage.service.pve("forensics", caller="operator2", reason="the alert")
    page = visit.open()
    show(page, "history")
    visit.stage.wire.cut('"form":"html"', 1)
    page.click("#save-report")
    wait_for_text(page, "report-trouble", "no answer came back")
    visit.stage.wire.mend()
    with page.expect_download() as coming:
        page.click("#save-report")
    coming.value.save_as(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert coming.value.suggested_filename.startswith("breakglass-")
    assert "operator2 (the alert): done" in text
    assert "data:image/png;base64,iVBOR" in text


# --- for the drawer ---

# The printed words, and the printed elements that should not be on paper.
PRINTED = """() => [document.body.innerText, [...document.querySelectorAll(
    "button, input, textarea, dialog, .top, [data-headline], [data-outcome], [data-transcript], .chat, .past, .list"
)].filter((each) => each.checkVisibility()).map((each) => each.outerHTML)]"""


@pytest.mark.all
def test_the_commands_by_hand_alone_are_printed(visit: Visit) -> None:
    """From any tab, the commands for this VM and the recipe with curl are printed, but no button, bar or chat."""
    page = visit.open()
    commands = page.locator("#by-hand-lines code").all_text_contents()
    recipe = page.text_content("#recipe") or ""
    assert "qm reset 102" in "\n".join(commands)
    for tab in ("vm", "chat", "history"):
        show(page, tab)
        page.evaluate("() => { document.getElementById('by-hand').open = false; }")
        assert page.pdf().startswith(b"%PDF")  # before the browser prints, the page opens the commands
        page.emulate_media(media="print")
        words, others = page.evaluate(PRINTED)
        assert others == []
        lines = [line.strip() for line in words.splitlines() if line.strip()]
        proxmox = page.inner_text("#proxmox")
        head = ["By hand", "without this page"]
        assert lines == [*head, *commands, proxmox, "Signed, with bash, python3 and curl", *recipe.splitlines()]
        page.emulate_media(media="screen")


# --- hooks for other programs ---


def told(page: Page, hook: str) -> tuple[str | None, str | None]:
    """Return the tone and the phase of the one element with this attribute."""
    element = page.locator(f"[data-{hook}]")
    return element.get_attribute("data-tone"), element.get_attribute("data-phase")


@pytest.mark.all
def test_other_programs_find_their_hooks(visit: Visit) -> None:
    """Each attribute that docs/internals.md names for other programs is in its place, with its values."""
    promise = INTERNALS.partition("**What other programs may rely on**")[2].partition("\n\n")[0]
    assert set(re.findall(r"\[data-(\w+)", promise)) == HOOKS
    assert f"`data-tone` (`{' '.join(TONES)}`)" in promise
    page, stage = visit.page, visit.stage
    twin = {"name": "twin", "vmid": 103, "proxmox": "answering", "since": None}
    page.route("**/health", health_with(stage, chat="on", vms=[*stage.service.health()["vms"], twin]))
    page.goto(stage.url)
    phase(page, "locked")
    assert (told(page, "headline"), told(page, "outcome")) == (("unknown", None), ("unknown", "locked"))
    visit.open()
    page.click("#show-vms")
    assert sorted(page.locator("[data-vm]:visible").evaluate_all("all => all.map(each => each.dataset.vm)")) == [
        "devvm",
        "twin",
    ]
    page.click("#rows [data-vm=devvm]")
    tone, no_phase = told(page, "headline")
    assert (tone in TONES, no_phase, told(page, "outcome")) == (True, None, ("unknown", "idle"))
    assert sorted(
        page.locator("button[data-verb]:visible").evaluate_all("all => all.map(each => each.dataset.verb)")
    ) == sorted([*ASKS, "status", "forensics"])
    page.click("[data-verb=reset]")
    page.click("dialog[open] button[data-keep]")
    expect(page.locator("[data-confirm]")).to_be_hidden()
    assert visit.mutating == []
    page.click("[data-verb=reset]")
    page.click("dialog[open] button[data-confirm][aria-disabled=false]")
    page.wait_for_selector("[data-outcome][data-phase=done]")
    assert told(page, "outcome")[0] in TONES
    proposal = {"type": "approval", "verb": "reset", "vm": "devvm", "job": "msg_proposed1", "why": "hung"}
    answer_chat(page, {**proposal, "last": "msg_proposed0"})
    ask_claude(page, "well?")
    card = page.locator("[data-transcript] [data-proposal=msg_proposed1]")
    expect(card.locator("[data-approve=reset][data-vm=devvm]")).to_be_visible()


# --- a phone on its side ---

INSETS = {"left": 47, "right": 59, "bottom": 21}
# The visible elements that are partly under the camera or in the round corners.
COVERED = """({left, right, bottom}) => {
    const parts = "button, summary, input, textarea, h1, h2, p, li, pre, .i";
    return [...document.querySelectorAll(parts)]
        .filter(each => each.checkVisibility({visibilityProperty: true}) && !each.closest(".said, .skip"))
        .filter(each => {
            const box = each.getBoundingClientRect();
            const isAtBottom = each.closest(".dock, dialog") && box.bottom > innerHeight - bottom;
            return box.width && (box.left < left || box.right > innerWidth - right || isAtBottom);
        }).map(each => each.id || each.outerHTML.slice(0, 100));
}"""


@pytest.mark.all
def test_nothing_lies_under_the_camera(visit: Visit) -> None:
    """On a phone that lies on its side, no text and no control is under the camera or in the round corners."""
    page = visit.page
    page.set_viewport_size({"width": 844, "height": 390})
    client = visit.context.new_cdp_session(page)
    client.send("Emulation.setSafeAreaInsetsOverride", {"insets": INSETS})
    visit.open()
    for tab in ("chat", "history", "vm"):
        show(page, tab)
        assert page.evaluate(COVERED, INSETS) == []
    ask(page, "cycle")
    page.locator("#confirm").evaluate("dialog => dialog.scrollTo(0, dialog.scrollHeight)")
    assert page.evaluate(COVERED, INSETS) == []

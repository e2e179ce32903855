"""Each state of the page's state machine, in a real browser with the real handler, sshd, host agent and QEMU."""

import base64
import json
import os
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from breakglass.base.verbs import VERBS
from breakglass.demo.proxmox.world import VMID

from ..support.agent import execute
from ..support.browser import (
    ASKS,
    KEPT_KEYS,
    Visit,
    blocked,
    confirm,
    forget_key,
    held_requests,
    looked,
    open_key,
    phase,
    see_headline,
    show,
    text_of,
    unseen_cycle,
    wait_for,
    wait_for_text,
)
from ..support.failing_tools import misbehave
from ..support.pve_host import conf, lock, task_index

pytestmark = pytest.mark.real("chromium", "sshd", "qemu")

# What a screen reader is given to say, piece by piece.
HEARD = """() => { window.heard = []; for (const id of ["say-verdict", "say-outcome"])
    new MutationObserver(() => window.heard.push(document.getElementById(id).textContent))
        .observe(document.getElementById(id), {childList: true}); }"""
SEEN = {"Idle or hung": "unknown", "Looks healthy": "good"}  # a guest that boots uses its disk


# --- locked ---


def test_locked_until_a_key_is_given(visit: Visit) -> None:
    """Without a signing key, no verb is shown or works. A wrong key is explained, and a good one unlocks the page."""
    page = visit.page
    page.goto(visit.stage.url)
    phase(page, "locked")
    see_headline(page, "Locked", "unknown")
    assert page.locator("[data-verb]").count() == 6
    expect(page.locator("[data-verb]:visible")).to_have_count(0)
    page.evaluate("() => document.querySelector('[data-verb=reset]').click()")
    assert not page.is_visible("#confirm")
    for text in ("hunter2", f"whsec_{'§' * 40}", "whsec_AAAA", f"whsec_{'A' * 33}", f"whsec_{'A' * 92}"):
        page.fill("#secret", text)
        page.keyboard.press("Enter")
        wait_for_text(page, "key-trouble", "isn't a complete signing key")
        page.evaluate("() => { document.getElementById('key-trouble').textContent = '' }")
    page.evaluate(HEARD)
    page.fill("#secret", visit.keys["operator"])
    page.keyboard.press("Enter")
    phase(page, "idle")
    assert page.input_value("#secret") == ""
    looked(page)
    words = text_of(page, "headline")
    verdict = f"{words}. {text_of(page, 'why')}"
    assert [said for said in page.evaluate("() => window.heard") if said.startswith(verdict)] == [verdict]
    assert words in SEEN
    assert text_of(page, "name") == "devvm (VM 102)"
    assert text_of(page, "second").startswith("QEMU: running · looked ")
    assert page.title() == f"{words} - devvm"
    assert visit.mutating == []


KEPT_KEY = """() => new Promise((done) => {
    indexedDB.open("breakglass / ").onsuccess = ({target}) => {
        target.result.transaction("key").objectStore("key").getAll().onsuccess = async ({target}) => {
            const [key] = target.result;
            const out = await crypto.subtle.exportKey("raw", key).then(() => "read", () => "not read");
            done([target.result.length, key.constructor.name, key.extractable, out]);
        };
    };
})"""
KEPT_NAMES = "() => [...Object.keys(localStorage), ...Object.keys(sessionStorage)]"


def test_a_key_is_kept_only_on_request_and_until_it_is_forgotten(visit: Visit) -> None:
    """A reload asks for the key unless it is stored, as a key that can't be exported, and never as text.

    A wrong key in a link is explained and deletes neither the stored key nor the commands by hand. Only a second tap
    forgets the key, and locks every tab.
    """
    page = visit.open()
    page.reload()
    phase(page, "locked")
    page.check("#keep-key")
    page.fill("#secret", visit.keys["operator"])
    page.keyboard.press("Enter")
    phase(page, "idle")
    wait_for(page, lambda: page.evaluate(KEPT_KEYS) == 1, "the key to be stored")
    page.goto("about:blank")
    page.goto(f"{visit.stage.url}#key=whsec_{'A' * 43}=")
    wait_for_text(page, "key-trouble", "rejected this key")
    phase(page, "locked")
    assert "key=" not in page.url
    assert "qm reset 102" in (page.text_content("#by-hand-lines") or "")
    page.reload()
    phase(page, "idle")
    assert page.evaluate(KEPT_KEY) == [1, "CryptoKey", False, "not read"]
    stored = page.evaluate("() => JSON.stringify([{...localStorage}, {...sessionStorage}])")
    assert visit.keys["operator"][6:] not in stored
    other = visit.open(visit.tab())
    page.bring_to_front()
    open_key(page)
    page.click("#forget")
    page.wait_for_selector("#yes[aria-disabled=false]")
    expect(page.locator("#keep")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#confirm")).to_be_hidden()
    assert page.evaluate(KEPT_KEYS) == 1
    forget_key(page)
    phase(other, "locked")
    assert {name.split()[2] for name in page.evaluate(KEPT_NAMES)} <= {"vms", "proven"}  # as /health says again
    for each in (page, other):
        each.reload()
        phase(each, "locked")


# --- idle, checking, running, done ---


def test_verbs_run_to_their_ends(visit: Visit) -> None:
    """A confirmed verb is sent with the state that was shown, ends as done, and the new state is shown.

    For a stopped VM, the headline, the announcement and the only filled button advise Start. Each phase, each stage and
    the verdict are announced once, and never a timer.
    """
    page = visit.open()
    page.evaluate(HEARD)
    for verb, state in (("cycle", "QEMU: running"), ("stop", "QEMU: not running")):
        with held_requests(page, f'"verb":"{verb}"'):
            confirm(page, verb)
            phase(page, "running")
            assert all(blocked(page, each) for each in ASKS)
        phase(page, "done")
        sent = visit.mutating[-1]
        assert (sent["verb"], sent["vm"], sent["if_state"]) == (verb, "devvm", "running")
        expect(page.locator("#second")).to_contain_text(state)
        entry = page.locator("#jobs summary").first
        expect(entry).to_contain_text(VERBS[verb].label)
        expect(entry).to_contain_text(" by operator")
    first, second = visit.mutating
    assert second["if_last"] == visit.stage.mutating_jobs()[1] != first["if_last"]
    expect(page.locator("[data-headline]")).to_have_attribute("data-tone", "warn")
    expect(page.locator("#start-more")).to_contain_text("Advised")
    spoken = page.evaluate("() => window.heard")
    assert f"Off. {text_of(page, 'why')} Advised: Start." in spoken
    for of in (spoken[: (at := spoken.index("Stop: sending."))], spoken[at:]):
        assert len(of) == len(set(of)), of
        assert len([said for said in of if " done." in said]) == 1, of
        assert not [said for said in of if re.search(r"\d s\b", said.partition(", after")[0])], of
    expect(page.locator(".advised:visible")).to_have_count(1)
    expect(page.locator("[data-verb=start].advised")).to_be_visible()


# --- not sent, refused, busy, failed ---


@pytest.mark.all
def test_a_busy_vm_names_its_holder_and_watch_follows_the_job_to_its_end(visit: Visit) -> None:
    """The page names the holder, its stage and its start. Watch follows the job without changing anything."""
    page = visit.open()
    with unseen_cycle(visit.stage, page) as job:
        confirm(page, "reset")
        phase(page, "busy")
        expect(page.locator("body")).to_contain_text(re.compile(r"operator2 has been .* since \d\d:"))
        assert "Nothing was changed" in text_of(page, "dock")
        expect(page.locator("#outcome-act")).to_have_text("Watch")
        page.click("#outcome-act")
        entry = page.locator("#jobs details[open]")
        expect(entry).to_contain_text(job)
        expect(entry).to_contain_text("now at start")
    expect(entry).to_contain_text("Power-cycle done")
    expect(entry.locator(".job > pre")).to_contain_text("verify: running")
    assert len(visit.mutating) == 1


@pytest.mark.all
def test_a_failed_verb_says_how_far_it_got_and_what_to_do_by_hand(visit: Visit) -> None:
    """The page shows the verb's last stage, Proxmox's message, and the next command by hand."""
    page = visit.open()
    misbehave(visit.stage.world.root, fail={"start": "disk is full"})
    confirm(page, "cycle")
    phase(page, "failed")
    wait_for_text(page, "outcome-sentence", "At start")
    expect(page.locator("#after")).to_be_hidden()  # nothing covers the buttons
    see_headline(page, "Off: start failed", "bad")
    expect(page.locator("#why")).to_contain_text("isk is full")
    by_hand = page.locator("#cures code")
    expect(by_hand).to_have_text(re.compile(r"^ssh -p \d+ root@127\.0\.0\.1 qm start 102$"))
    expect(by_hand.locator("+ button")).to_have_text("Copy")
    expect(page.locator("[data-verb].advised")).to_have_count(0)  # it would fail again
    expect(page.locator("#output")).to_contain_text("disk is full")
    expect(page.locator("[data-verb=start]")).to_have_attribute("aria-disabled", "false")
    expect(page.locator("#jobs summary").first).to_contain_text("Looked")  # by itself, after the verb


@pytest.mark.all
def test_a_refusal_shows_the_command_that_cures_it(visit: Visit) -> None:
    """A dead task has left its lock: the command stands beside the reason, with where to run it, and can be copied."""
    world = visit.stage.world
    sound = conf(world).read_text()
    page = visit.open()
    lock(world, "snapshot")
    task_index(world, f"UPID:demo:{os.getpid():08X}:00000007:6743E000:qmsnapshot:{VMID}:root@pam: 1 6743E100 OK")
    try:
        confirm(page, "cycle")
        phase(page, "refused")
        expect(page.locator("#outcome-cures code")).to_have_text(f"qm unlock {VMID}")
        expect(page.locator("#outcome-cures small")).to_contain_text("As root on ")
        expect(page.locator("#outcome-cures code + button")).to_have_text("Copy")
    finally:
        conf(world).write_text(sound)
        task_index(world)


# --- downloads for a ticket ---


def save(page: Page, words: str, directory: Path) -> Path:
    """Press a link that downloads, and return the file, under the name that the page gives it."""
    with page.expect_download() as coming:
        page.get_by_role("link", name=words).click()
    path = directory / coming.value.suggested_filename
    coming.value.save_as(path)
    return path


def test_a_job_opens_with_its_reason_its_output_and_its_files(visit: Visit, tmp_path: Path) -> None:
    """The list has the verb, outcome and caller of each job; an opened job has its output, picture and reason.

    Its files are the host's record, which names the picture, and the host's PNG.
    """
    page, service = visit.page, visit.stage.service
    service.pve("reset", caller="operator2", reason="hung since 02:50")
    job = service.pve("forensics", caller="operator2").json["id"]
    for line in ("forensics id=alert-seen-1 by=am", "seen id=alert-seen-1 by=anna"):
        assert execute(visit.stage.world, line).code == 0
    visit.open()
    show(page, "history")
    expect(page.locator("#jobs details", has_text="am, seen by anna, ")).to_be_visible()
    entry = page.locator("#jobs details", has_text="Reset").first
    expect(entry).to_contain_text(re.compile(r"Reset done .*\d\d:\d\d:\d\d by operator2"))
    entry.locator("summary").click()
    expect(entry).to_contain_text("hung since 02:50")
    expect(entry.locator(".job > pre")).to_contain_text("accepted the reset")
    entry.locator("summary").click()
    page.click(f"[id='job {job}'] summary")
    expect(page.locator(f"[id='job {job}'] img")).to_be_visible()
    began = page.locator(f"[id='job {job}'] dd").first
    expect(began).to_have_text(re.compile(r"^\d{1,2} [A-Z][a-z]+ \d{4}, \d\d:\d\d:\d\d$"))  # 01/12 is read in two ways
    evidence = save(page, "Download evidence", tmp_path)
    picture = save(page, "Download picture", tmp_path)
    saved = json.loads(evidence.read_text(encoding="utf-8"))
    recorded = service.pve("history", job=job).json["job"]
    assert (saved.pop("picture"), saved.pop("vm")) == (picture.name, "devvm")
    png = recorded.pop("screen_png")
    assert saved == recorded
    assert picture.read_bytes() == base64.b64decode(png)
    save_report(visit, tmp_path / "report.html")


def save_report(visit: Visit, path: Path) -> None:
    """It is one file that any browser shows. Without an answer, the page says so, and can be asked again."""
    page = visit.page
    visit.stage.wire.cut('"form":"html"', 1)
    page.click("#save-report")
    wait_for_text(page, "report-trouble", "no answer came back")
    visit.stage.wire.mend()
    with page.expect_download() as coming:
        page.click("#save-report")
    coming.value.save_as(path)
    text = path.read_text(encoding="utf-8")
    assert coming.value.suggested_filename.startswith("breakglass-")
    assert "operator2 (hung since 02:50): done" in text
    assert "data:image/png;base64,iVBOR" in text

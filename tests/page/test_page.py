"""Each state of the page's state machine, in a real browser with the real handler, sshd, host agent and QEMU."""

import os
import re
import time
from typing import Any

import pytest
from playwright.sync_api import expect

from breakglass.base.verbs import VERBS
from breakglass.demo.proxmox.world import VMID

from ..support.browser import (
    ASKS,
    KEPT_KEYS,
    Visit,
    ask,
    blocked,
    confirm,
    find_handler,
    forget_key,
    held_requests,
    keep_key,
    looked,
    lose_handler,
    phase,
    press,
    see_headline,
    show,
    text_of,
    unseen_cycle,
    wait_for,
    wait_for_text,
)
from ..support.failing_tools import misbehave
from ..support.pve_host import conf, lock, task_index
from ..support.stages import until

SEEN = {"Idle or hung": "unknown", "Looks healthy": "good"}  # a guest that boots uses its disk
pytestmark = pytest.mark.real("chromium", "sshd", "qemu")


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
    page.fill("#secret", visit.keys["operator"])
    page.keyboard.press("Enter")
    phase(page, "idle")
    assert page.input_value("#secret") == ""
    looked(page)
    words = text_of(page, "headline")
    assert words in SEEN
    assert text_of(page, "name") == "devvm (VM 102)"
    assert text_of(page, "second").startswith("QEMU: running · looked ")
    assert page.title() == f"{words} - devvm"
    assert visit.mutating == []


def test_a_wrong_key_deletes_neither_the_stored_key_nor_the_commands_by_hand(visit: Visit) -> None:
    """A refused key is explained, and is gone from the address bar. The link or the handler may be wrong.

    So it deletes neither the stored key nor the commands by hand.
    """
    page = keep_key(visit)
    page.goto("about:blank")
    page.goto(f"{visit.stage.url}#key=whsec_{'A' * 43}=")
    wait_for_text(page, "key-trouble", "rejected this key")
    phase(page, "locked")
    assert "key=" not in page.url
    assert "qm reset 102" in (page.text_content("#by-hand-lines") or "")
    page.reload()
    phase(page, "idle")


def test_forget_locks_every_tab_and_deletes_the_stored_key(visit: Visit) -> None:
    """The other tab is locked too, and does not repeat its request."""
    page, other = keep_key(visit), visit.tab()
    visit.open(other)
    forget_key(page)
    phase(other, "locked")
    other.reload()
    phase(other, "locked")


def test_a_key_is_kept_on_the_device_only_on_request_and_never_as_text(visit: Visit) -> None:
    """A reload asks for the key unless it is stored, as a key that can't be exported. Forget deletes it."""
    page = visit.open()
    page.reload()
    phase(page, "locked")
    page.check("#keep-key")
    page.fill("#secret", visit.keys["operator"])
    page.keyboard.press("Enter")
    phase(page, "idle")
    wait_for(page, lambda: page.evaluate(KEPT_KEYS) == 1, "the key to be stored")
    page.reload()
    phase(page, "idle")
    kept = page.evaluate(
        """() => new Promise((done) => {
            indexedDB.open("breakglass / ").onsuccess = ({target}) => {
                target.result.transaction("key").objectStore("key").getAll().onsuccess = async ({target}) => {
                    const [key] = target.result;
                    const out = await crypto.subtle.exportKey("raw", key).then(() => "read", () => "not read");
                    done([target.result.length, key.constructor.name, key.extractable, out]);
                };
            };
        })"""
    )
    assert kept == [1, "CryptoKey", False, "not read"]
    stored = page.evaluate("() => JSON.stringify([{...localStorage}, {...sessionStorage}])")
    assert visit.keys["operator"][6:] not in stored
    forget_key(page)
    page.reload()
    phase(page, "locked")
    kept = page.evaluate("() => [...Object.keys(localStorage), ...Object.keys(sessionStorage)]")
    assert {name.split()[2] for name in kept} <= {"vms", "proven"}, kept  # as /health says again


# --- idle, checking, running, done ---


@pytest.mark.parametrize("verb", ["cycle", "stop"])
def test_a_verb_runs_to_its_end(visit: Visit, verb: str) -> None:
    """A confirmed verb is sent with the state that was shown, ends as done, and the new state is shown.

    For a stopped VM, the headline, the announcement and the only filled button advise Start.
    """
    page = visit.open()
    with held_requests(page, f'"verb":"{verb}"'):
        confirm(page, verb)
        phase(page, "running")
        assert all(blocked(page, each) for each in ASKS)
    phase(page, "done")
    (sent,) = visit.mutating
    assert (sent["verb"], sent["vm"], sent["if_state"]) == (verb, "devvm", "running")
    assert sent["if_last"]
    expect(page.locator("#second")).to_contain_text("QEMU: not running" if verb == "stop" else "QEMU: running")
    if verb == "stop":
        see_headline(page, "Off", "warn")
        expect(page.locator("#why")).to_have_text("The VM is stopped: start it.")
        expect(page.locator("#say-verdict")).to_contain_text("Advised: Start.")
        expect(page.locator("#start-more")).to_have_text("Advised. Nothing is lost.")
        expect(page.locator(".advised:visible")).to_have_count(1)
        expect(page.locator("[data-verb=start].advised")).to_be_visible()
    entry = page.locator("#jobs summary").first
    expect(entry).to_contain_text(VERBS[verb].label)
    expect(entry).to_contain_text(" by operator")
    expect(entry).to_contain_text("done")
    assert visit.stage.mutating_jobs()[0]


def test_the_page_takes_evidence_by_itself_and_a_second_page_shows_the_same(visit: Visit) -> None:
    """A later verb makes evidence old. Evidence of the last minute is shown again, and not taken again."""
    visit.stage.service.pve("reset")
    ended = time.time()
    until(
        lambda: time.time() > ended + 1,
        "another second: the history's times have no fraction, and the page assumes the worst",
    )
    page = visit.open()
    (taken,) = looks_of(visit)
    assert taken["reason"] == "by itself"
    page.clock.set_fixed_time(time.time())  # the evidence stays young, however late the second page opens
    words = text_of(page, "headline")
    assert words in SEEN
    page.wait_for_selector("#glass img")
    second = visit.open(visit.tab())
    see_headline(second, words, SEEN[words])
    second.wait_for_selector("#glass img")
    assert "virtio0 queue 0" in (second.text_content("#verdict-lines") or "")
    assert looks_of(visit) == [taken]
    assert visit.mutating == []


def looks_of(visit: Visit) -> list[dict[str, Any]]:
    return [body for body in visit.posts if body.get("verb") == "forensics"]


@pytest.mark.all
def test_a_verb_takes_the_place_of_the_look_without_a_word_of_trouble(visit: Visit) -> None:
    """A press need not wait for the page's own evidence, and cancelling that is not shown as an error."""
    visit.stage.service.pve("reset")
    with held_requests(visit.page, '"verb":"forensics"') as held:
        page = visit.open(looks=False)
        see_headline(page, "Looking closer…", "busy")
        wait_for(page, lambda: held, "the look that the page takes by itself")
        with held_requests(page, '"verb":"cycle"'):
            confirm(page, "cycle")
            phase(page, "running")
            assert text_of(page, "notes") == ""
        phase(page, "done")
        assert text_of(page, "notes") == ""


def test_forensics_bring_a_verdict_and_the_picture(visit: Visit) -> None:
    """The evidence, the verdict and the console's picture are shown, and the picture moves no other part."""
    page = visit.open()
    with held_requests(page, '"verb":"forensics"'):
        press(page, "forensics")
        phase(page, "checking")
        before = page.locator("[data-verb=reset]").bounding_box()
    phase(page, "done")
    page.wait_for_selector("#glass img")
    assert page.locator("#glass img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 720
    assert page.locator("[data-verb=reset]").bounding_box() == before
    see_headline(page, "Idle or hung", "unknown")
    page.click("#evidence summary")
    assert "an idle guest looks the same as a hung one" in text_of(page, "verdict-sentence")
    assert "virtio0 queue 0" in text_of(page, "verdict-lines")
    assert "before" not in text_of(page, "picture-age")
    with held_requests(page, '"verb":"screen"'):  # which would bring a newer picture
        confirm(page, "reset")
        phase(page, "done")
        expect(page.locator("#picture-age")).to_have_text("from before")


def test_a_recent_job_opens_with_its_output_and_reason(visit: Visit) -> None:
    """The list has the verb, outcome and caller of each job; an opened job has its output, picture and reason."""
    visit.stage.service.pve("reset", caller="operator2", reason="hung since 02:50")
    page = visit.open()
    show(page, "history")
    entry = page.locator("#jobs details", has_text="Reset").first
    expect(entry).to_contain_text("Reset done in ")
    expect(entry).to_contain_text(re.compile(r"\d\d:\d\d:\d\d by operator2"))
    entry.locator("summary").click()
    expect(entry).to_contain_text("hung since 02:50")
    expect(entry.locator("pre", has_text="QEMU accepted the reset")).to_be_visible()
    expect(entry.locator(".job > pre")).to_be_visible()
    evidence = page.locator("#jobs details", has_text="Looked: ").first
    evidence.locator("summary").click()
    expect(evidence.locator("img")).to_be_visible()


# --- not sent, refused, busy, failed ---


def test_a_verb_is_refused_when_another_changed_the_power_meanwhile(visit: Visit) -> None:
    """If the power changed between the look and the confirmation, the host refuses, so there is only one outage."""
    page = visit.open()
    ask(page, "cycle")
    visit.stage.service.pve("reset", caller="operator2")
    page.click("#yes")
    phase(page, "refused")
    assert "Nothing was changed:" in text_of(page, "dock")
    assert "operator2" in text_of(page, "dock")
    expect(page.locator("#notes")).to_contain_text("Another caller changed its power")


@pytest.mark.all
def test_a_busy_vm_names_its_holder_and_watch_follows_the_job_to_its_end(visit: Visit) -> None:
    """The page names the holder, its stage and its start. Watch follows the job without changing anything."""
    page = visit.open()
    with unseen_cycle(visit.stage, page) as job:
        confirm(page, "reset")
        phase(page, "busy")
        assert "operator2 has been power-cycling it since" in text_of(page, "dock")
        assert "Nothing was changed." in text_of(page, "dock")
        expect(page.locator("#outcome-act")).to_have_text("Watch")
        page.click("#outcome-act")
        entry = page.locator("#jobs details[open]")
        expect(entry).to_contain_text(job)
        expect(entry).to_contain_text("now at: start")
    expect(entry).to_contain_text("Power-cycle done")
    expect(entry.locator(".job > pre")).to_contain_text("verify: running")
    assert len(visit.mutating) == 1


def test_a_failed_verb_says_how_far_it_got_and_what_to_do_by_hand(visit: Visit) -> None:
    """Even after an outage, the page shows the verb's last stage, Proxmox's message, and the next command by hand."""
    page = visit.open()
    misbehave(visit.stage.world.root, fail={"start": "no space left on device"})
    confirm(page, "cycle")
    phase(page, "failed")
    wait_for_text(page, "outcome-sentence", "At start. The reason is above")
    expect(page.locator("#after")).to_be_hidden()  # nothing covers the buttons
    see_headline(page, "Off: start failed", "bad")
    expect(page.locator("#why")).to_contain_text("o space left on device")
    by_hand = page.locator("#cures code")
    expect(by_hand).to_have_text(re.compile(r"^ssh -p \d+ root@127\.0\.0\.1 qm start 102$"))
    expect(by_hand.locator("+ button")).to_have_text("Copy")
    expect(page.locator("[data-verb].advised")).to_have_count(0)  # it would fail again
    expect(page.locator("#output")).to_contain_text("no space left on device")
    expect(page.locator("[data-verb=start]")).to_have_attribute("aria-disabled", "false")
    expect(page.locator("#jobs summary").first).to_contain_text("Looked")  # by itself, after the verb
    lose_handler(visit.stage, page)
    find_handler(visit.stage, page)
    phase(page, "failed")
    wait_for_text(page, "link-breakglass", "Breakglass: answering")
    see_headline(page, "Off: start failed", "bad")
    expect(by_hand).to_have_count(1)


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


# --- disconnected, and a Proxmox that is away ---


def test_the_page_says_that_it_is_disconnected_and_reconnects_by_itself(visit: Visit) -> None:
    """A lost handler is shown with the time and the next try. The commands by hand open, and the page reconnects."""
    visit.page.clock.install()
    page = visit.open()
    lose_handler(visit.stage, page)
    see_headline(page, "No connection", "unknown")
    expect(page.locator("#outcome-timer")).to_contain_text("Trying again in")
    assert re.fullmatch(r"Not answering since \d\d:\d\d", text_of(page, "second"))
    assert text_of(page, "link-breakglass").endswith(": away")
    expect(page.locator("#by-hand-lines [data-copy$='qm reset 102']")).to_be_in_viewport(ratio=1)
    assert all(blocked(page, each) for each in ASKS)
    visit.stage.wire.up()

    def is_found() -> bool:
        if "again in" in text_of(page, "outcome-timer"):  # if time ran on during a try, it would be cancelled
            page.clock.run_for(1_000)
        return text_of(page, "link-breakglass").endswith(": answering")

    wait_for(page, is_found, "the next try")
    phase(page, "idle")
    assert visit.mutating == []


def test_a_blocked_verb_can_be_tried_anyway_after_a_minute(visit: Visit) -> None:
    """While the host can't be reached, a verb is blocked. After a minute it can be tried, with the same dialog."""
    visit.page.clock.install()
    page = visit.open()
    with visit.stage.without_sshd():
        visit.stage.service.not_answering()
        press(page, "status")
        phase(page, "notSent")
        page.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")  # which asks /health
        see_headline(page, "Host unreachable", "unknown")
        assert re.fullmatch(r"Since \d\d:\d\d · was running", text_of(page, "second"))
        assert text_of(page, "why") == "Connection refused. For now, use the host’s own console (IPMI)."
        assert text_of(page, "link-proxmox").endswith(": away")
        assert all(blocked(page, each) for each in ASKS)
        press(page, "reset")
        wait_for_text(page, "dock", "Proxmox is out of reach: connection refused.")
        assert not page.is_visible("#confirm")
        page.clock.fast_forward(61_000)
        expect(page.locator("[data-verb=reset]")).to_have_attribute("aria-disabled", "false")
        ask(page, "reset")
        assert text_of(page, "confirm-title") == "Reset devvm anyway?"
        assert "connection refused" in text_of(page, "confirm-facts")
        page.click("#yes")
        wait_for_text(page, "outcome-word", "Reset not sent")

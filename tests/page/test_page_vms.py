"""Several VMs on one page: what is under way for one of them stays with it, whichever is looked at."""

import copy
import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import Route, expect

from ..support.browser import Stage, Visit, confirm, phase, press, wait_for, wait_for_text
from ..support.service import Service, new_secret

pytestmark = pytest.mark.real("chromium", "sshd", "qemu")
OTHERS = """
[hosts.pve2]
ssh = "breakglass@127.0.0.1:{port}"
key = '''{key}'''
host_key = {host_key}
read_only_key = '''{key}'''
[vms.twin]
hosts = ["pve2"]
vmid = 103
by_hand = ["ssh twin qm stop 103"]
guest = "root@127.0.0.1:22"
guest_host_key = {host_key}
[vms.broken]
hosts = "nowhere"
[callers.talker]
secret = "{secret}"
allow = ["status", "history", "chat"]
"""


@pytest.fixture(scope="module")
def three(stage: Stage) -> Iterator[Stage]:
    """The stage, seen by a handler that knows two more VMs: one that its host does not serve, and one that is off."""
    host = stage.sshd
    secret = new_secret()
    more = OTHERS.format(port=host.port, key=host.power_key, host_key=json.dumps([host.host_key]), secret=secret)
    directory = stage.world.directory / "three"
    directory.mkdir()
    service = Service(directory, port=host.port, key=host.power_key, host_key=[host.host_key], extra=more)
    service.secrets["talker"] = secret
    seen = copy.copy(stage)
    seen.service, seen.url = service, f"http://127.0.0.1:{service.port}/"
    yield seen
    service.stop()


@pytest.fixture
def person(stage: Stage, three: Stage) -> Iterator[Visit]:
    stage.settle()
    visit = Visit(three)
    yield visit
    visit.close()


def is_status_of_devvm(route: Route) -> bool:
    return '"status","vm":"devvm"' in (route.request.post_data or "")


def test_an_answer_stays_with_its_vm(person: Visit) -> None:
    """An answer that comes after another VM was selected belongs to the VM of its request."""
    page = person.open()
    held: list[Route] = []
    page.route("**/pve", lambda route: held.append(route))
    press(page, "status")
    phase(page, "checking")
    page.select_option("#vm", "twin")
    wait_for(page, lambda: any(is_status_of_devvm(route) for route in held), "the status of devvm")
    for route in held:
        if '"vm":"devvm"' in (route.request.post_data or ""):
            route.continue_()
    page.select_option("#vm", "devvm")
    phase(page, "idle")
    kept = page.evaluate("() => ['devvm', 'twin'].map((name) => localStorage.getItem(`breakglass / by-hand ${name}`))")
    assert "qm reset 102" in kept[0]
    assert kept[1] is None


def test_a_verb_goes_on_while_another_vm_is_looked_at(person: Visit) -> None:
    """The id is stored for its own VM, a reload returns to the selected VM, and the end is shown with its VM."""
    page = person.open()
    gate: list[Route] = []
    page.route("**/pve", lambda route: gate.append(route) if '"verb":"reset"' in (route.request.post_data or "")
               else route.continue_())  # fmt: skip
    confirm(page, "reset")
    phase(page, "running")
    page.select_option("#vm", "twin")
    phase(page, "idle", "failed", "notSent", "refused")
    kept = page.evaluate("() => Object.keys(sessionStorage).filter((name) => name.includes(' job '))")
    assert kept == ["breakglass / job devvm"]
    page.reload()
    page.unroute("**/pve")
    page.fill("#secret", person.keys["operator"])
    page.keyboard.press("Enter")
    expect(page.locator("#name")).to_have_text("twin (VM 103)")
    page.select_option("#vm", "devvm")
    phase(page, "done")
    assert len({body["if_last"] for body in person.mutating}) == 1
    assert {body["vm"] for body in person.mutating} == {"devvm"}


def test_the_recipe_names_the_vm(person: Visit) -> None:
    """The commands for bash are for the VM that is looked at; they are pasted, so no other text gets into them."""
    page = person.open()
    page.select_option("#vm", "twin")
    expect(page.locator("#recipe")).to_contain_text("VM=twin # its name")
    expect(page.locator("#recipe")).to_contain_text('"vm":"\'$VM\'"')
    vms = [{"name": "x;reboot", "vmid": 1, "proxmox": "answering", "since": None}]
    page.route("**/health", lambda route: route.fulfill(json={"ok": True, "config": "ok", "vms": vms, "chat": "off"}))
    page.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")
    page.select_option("#vm", "x;reboot")
    expect(page.locator("#recipe")).to_contain_text("VM=devvm # its name")


def test_a_draft_stays_with_its_vm(person: Visit) -> None:
    """A draft for one VM is not sent for another one; it returns with its VM."""
    page = person.open()
    page.fill("#prompt", "why does devvm hang?")
    page.select_option("#vm", "twin")
    expect(page.locator("#prompt")).to_have_value("")
    page.fill("#prompt", "and twin?")
    page.select_option("#vm", "devvm")
    expect(page.locator("#prompt")).to_have_value("why does devvm hang?")


def test_the_page_says_when_claude_logs_in_as_root(person: Visit) -> None:
    """If claude logs in to the guest as root, the page says that it may change anything there."""
    page = person.open(caller="talker")
    page.select_option("#vm", "twin")
    wait_for_text(page, "state-note", "claude logs in to twin as root")
    page.select_option("#vm", "devvm")
    expect(page.locator("#state-note")).not_to_contain_text("root")


def test_a_vm_that_a_reload_removed_stays_selected(person: Visit) -> None:
    """If a reload removes the selected VM, the page does not select another one."""
    page = person.open()
    gone = {**person.stage.service.health()}
    gone["vms"] = [vm for vm in gone["vms"] if vm["name"] != "devvm"]
    page.route("**/health", lambda route: route.fulfill(json=gone))
    page.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.locator("#name")).to_have_text("devvm")
    assert page.input_value("#vm") == "devvm"


def test_a_vm_with_a_faulty_entry_says_that_it_is_off(person: Visit) -> None:
    """A VM whose entry has a fault is listed without a number; its verbs say that nothing was sent."""
    page = person.open()
    page.select_option("#vm", "broken")
    expect(page.locator("#name")).to_have_text("broken")
    wait_for_text(page, "light-proxmox", "its configuration has a fault, so it is off")
    press(page, "reset")
    assert not page.is_visible("#confirm")
    page.set_viewport_size({"width": 320, "height": 740})
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 320


def test_an_id_that_was_sent_before_is_never_called_not_sent(visit: Visit) -> None:
    """A proposal that is approved again has the same id, so a request that fails now settles nothing.

    Forget leaves nothing behind that would be sent with the next caller's key.
    """
    page = visit.page
    page.clock.install()
    visit.open()
    lines = [
        {"type": "session", "n": 1, "session": "s", "turn": "t"},
        {"type": "approval", "n": 2, "verb": "reset", "vm": "devvm", "job": "msg_proposed1", "why": "hung"},
        {"type": "done", "n": 3, "ok": True},
    ]
    answer = "".join(json.dumps(line) + "\n" for line in lines)
    page.route("**/chat", lambda route: route.fulfill(content_type="application/x-ndjson", body=answer))
    page.fill("#prompt", "well?")
    page.press("#prompt", "Control+Enter")
    page.route("**/pve", lambda route: route.abort() if '"verb":"reset"' in (route.request.post_data or "")
               else route.continue_())  # fmt: skip
    card = page.locator("[data-approve=reset]")
    card.click()
    page.click("#yes[aria-disabled=false]")
    phase(page, "unknown")
    page.clock.fast_forward(70_000)
    page.wait_for_selector("#ask-again:visible")
    with visit.stage.without_sshd():
        page.unroute("**/pve")
        expect(page.locator("[data-verb=reset]")).to_contain_text("Try anyway")
        card.click()
        page.click("#yes[aria-disabled=false]")
        wait_for_text(page, "outcome-hint", "Last try")
        expect(page.locator("#outcome-hint")).to_contain_text("refused")
        phase(page, "unknown")
        page.click("#key summary")
        page.click("#forget")
        page.clock.fast_forward(20_000)
        phase(page, "locked")
        assert page.evaluate("() => Object.keys(sessionStorage)") == []


def test_advice_named_like_an_object_property_is_only_text(person: Visit) -> None:
    """The advice `constructor` is shown as text."""
    page = person.page
    verdict = {"code": "x", "sentence": "s", "advice": "constructor", "evidence": []}
    line = {
        "type": "result",
        "reached": True,
        "outcome": "done",
        "state": "running",
        "last": "none",
        "verdict": verdict,
    }
    page.route("**/pve", lambda route: route.fulfill(content_type="application/x-ndjson", body=json.dumps(line) + "\n"))
    person.open()
    wait_for_text(page, "verdict-advice", "Advised: constructor.")

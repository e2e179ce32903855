"""Several VMs on one page: what is under way for one of them stays with it, whichever is checked."""

import copy
import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from ..support.browser import (
    Stage,
    Visit,
    blocked,
    keep_key,
    phase,
    press,
    see_headline,
    wait_for_text,
)
from ..support.service import Service, new_secret
from ..support.stages import until

pytestmark = [pytest.mark.all, pytest.mark.real("chromium", "sshd", "qemu")]
OTHERS = """
[hosts.pve2]
ssh = "breakglass@127.0.0.1:{port}"
key = '''{key}'''
host_key = {host_key}
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


def states(service: Service) -> dict[str, str]:
    """Return what the handler says of the way to each VM."""
    return {vm["name"]: vm["proxmox"] for vm in service.health()["vms"]}


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
    known = {"devvm": "answering", "twin": "not-allowed", "broken": "disabled"}
    seen = copy.copy(stage)
    seen.service, seen.url = service, f"http://127.0.0.1:{service.port}/"
    try:
        until(lambda: states(service) == known, "what is known of each")  # a page asks again after 10 s
        yield seen
    finally:
        service.stop()


@pytest.fixture
def person(stage: Stage, three: Stage) -> Iterator[Visit]:
    stage.settle()
    visit = Visit(three)
    yield visit
    visit.close()


def choose(page: Page, name: str) -> None:
    """Choose a VM in the list of all."""
    page.click("#show-vms")
    page.click(f"[data-vm='{name}']")


def keep_at_hand(person: Visit) -> Page:
    """Choose devvm, and keep the key on the device."""
    choose(person.open(), "devvm")
    return keep_key(person)


def follow(visit: Visit, link: str) -> Page:
    """Open the page by a link, as a tap in an alert does."""
    visit.page.goto("about:blank")
    visit.page.goto(f"{visit.stage.url}{link}")
    return visit.page


def test_a_link_opens_its_vm_and_its_job(stage: Stage, person: Visit) -> None:
    """It does so with a kept key and without, in a fresh page and in an open one, whatever was chosen before.

    A page without a link opens with the VM that was chosen last. A question is about the VM that was on the screen, so
    a link that is opened meanwhile withdraws it.
    """
    job = stage.service.pve("forensics", caller="operator2").json["id"]
    page = follow(person, f"#vm=devvm&job={job}")
    phase(page, "locked")
    page.reload()  # as a phone does meanwhile
    phase(page, "locked")
    page.fill("#secret", person.keys["operator"])
    page.keyboard.press("Enter")
    expect(page.locator(f"[id='job {job}'] details[open]")).to_contain_text(f"Id{job}")
    expect(page.locator("#name")).to_have_text("devvm (VM 102)")
    keep_at_hand(person)
    choose(page, "broken")
    follow(person, "#vm=twin")
    expect(page.locator("#name")).to_have_text("twin (VM 103)")
    expect(page.locator("body")).to_have_attribute("data-tab", "vm")
    page.goto(f"{person.stage.url}#vm=devvm")
    expect(page.locator("#name")).to_have_text("devvm (VM 102)")
    page.reload()
    expect(page.locator("#name")).to_have_text("devvm (VM 102)")
    see_headline(page, "Idle or hung", "unknown")
    press(page, "cycle")
    expect(page.locator("#confirm")).to_be_visible()
    page.evaluate("() => { location.hash = '#vm=twin'; }")
    expect(page.locator("#confirm")).not_to_be_visible()
    expect(page.locator("#name")).to_have_text("twin (VM 103)")
    assert person.mutating == []
    other = person.tab()  # without the demo's link, so the page locks itself here
    other.goto(person.stage.url)
    expect(other.locator("#name")).to_have_text("twin (VM 103)")


def test_a_link_to_a_vm_that_is_not_here_opens_no_other(person: Visit) -> None:
    """It is said loudly; nothing of another VM is shown in its place, and none can be cycled by mistake, ever."""
    page = person.page
    page.clock.install()
    keep_at_hand(person)
    see_headline(page, "Idle or hung", "unknown")
    follow(person, "#vm=ghost")
    see_headline(page, "No such VM", "warn")
    wait_for_text(page, "second", "The link says ghost")
    phase(page, "idle")
    page.clock.fast_forward(70_000)
    press(page, "cycle")
    wait_for_text(page, "dock", "There is no VM ghost here.")
    assert all(blocked(page, verb) for verb in ("cycle", "reset", "start", "stop", "status", "forensics"))
    assert not page.is_visible("#confirm")
    choose(page, "devvm")
    see_headline(page, "Idle or hung", "unknown")


def test_the_recipe_names_the_vm(person: Visit) -> None:
    """The commands for bash are for the VM that is looked at; they are pasted, so no other text gets into them."""
    page = person.open()
    choose(page, "twin")
    expect(page.locator("#recipe")).to_contain_text("VM=twin # its name")
    expect(page.locator("#recipe")).to_contain_text('"vm":"\'$VM\'"')
    names = ("twin", "x;reboot")
    vms = [{"name": name, "vmid": 1, "proxmox": "answering", "since": None} for name in names]
    health = {"ok": True, "config": "ok", "hosts": {}, "vms": vms, "chat": "none"}
    page.route("**/health", lambda route: route.fulfill(json=health))
    page.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")
    choose(page, "x;reboot")
    expect(page.locator("#recipe")).to_contain_text("VM=devvm # its name")

"""Several VMs on one page: what is under way for one of them stays with it, whichever is checked."""

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Page, Route, expect

from ..support.browser import (
    Stage,
    Visit,
    blocked,
    forget_key,
    keep_key,
    phase,
    press,
    see_headline,
    show,
    wait_for,
    wait_for_text,
)
from ..support.page_chat import answer_chat, ask_claude
from ..support.service import Service, new_secret
from ..support.stages import until

pytestmark = pytest.mark.real("chromium", "sshd", "qemu")
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


def rows(page: Page) -> list[tuple[str, ...]]:
    """Return the name, the tone and the headline of each row of the list, as they stand."""
    cells = (
        "rows => rows.map((row) => [row.dataset.vm, row.dataset.tone, row.querySelector('span > span').textContent])"
    )
    return [tuple(row) for row in page.locator("#rows [data-vm]").evaluate_all(cells)]


@pytest.mark.all
def test_back_leads_through_vms_and_tabs(person: Visit) -> None:
    """From a part of the page to the one before, from a VM to the list, and forward again; a link is a place too."""
    page = person.open()
    choose(page, "devvm")
    choose(page, "twin")
    show(page, "history")
    page.evaluate("() => { location.hash = '#vm=devvm'; }")
    expect(page.locator("#name")).to_have_text("devvm (VM 102)")
    for go, name, tab in (
        (page.go_back, "twin (VM 103)", "history"),
        (page.go_back, "twin (VM 103)", "vm"),
        (page.go_back, "Breakglass", "list"),
        (page.go_back, "devvm (VM 102)", "vm"),
        (page.go_forward, "Breakglass", "list"),
        (page.go_forward, "twin (VM 103)", "vm"),
        (page.go_forward, "twin (VM 103)", "history"),
        (page.go_forward, "devvm (VM 102)", "vm"),
    ):
        go()
        expect(page.locator("#name")).to_have_text(name)
        expect(page.locator("body")).to_have_attribute("data-tab", tab)
    assert person.mutating == []


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


def answer_lists(page: Page, jobs: list[dict[str, object]]) -> None:
    """Answer each list of jobs with these, and let the host answer about a single job."""

    def answer(route: Route) -> None:
        body = json.loads(route.request.post_data or "{}")
        if body.get("verb") == "history" and "job" not in body:
            route.fulfill(json={"outcome": "done", "reached": True, "jobs": jobs})
        else:
            route.fallback()

    page.route("**/pve", answer)


@contextmanager
def lost_history(page: Page) -> Iterator[None]:
    """Lose each answer about jobs."""
    words = '"history"'
    page.route("**/pve", lambda route: route.abort() if words in (route.request.post_data or "") else route.fallback())
    yield
    page.unroute("**/pve")


@pytest.mark.all
def test_a_link_opens_a_job_that_the_list_does_not_have(stage: Stage, person: Visit) -> None:
    """An older job than the newest 50, or one of another host, is asked for by its id, and stays in the timeline.

    That the host does not know a job is said only if it said so, until another tab is chosen. With the key, the page
    forgets it all.
    """
    job = stage.service.pve("forensics", caller="operator2").json["id"]
    newer = {"id": "newer", "verb": "reset", "by": "twin", "started": "2099-01-01T00:00:00Z", "seconds": 1}
    page = keep_at_hand(person)
    answer_lists(page, [{**newer, "outcome": "done"}])
    follow(person, f"#vm=devvm&job={job}")
    opened = page.locator(f"[id='job {job}'] details[open]")
    expect(opened).to_contain_text(f"Id{job}")
    assert page.locator("#jobs li[id]").evaluate_all("items => items.map(({ id }) => id)") == [
        "job newer",
        f"job {job}",
    ]
    answer_lists(page, [{**newer, "outcome": "failed"}])
    show(page, "vm")
    press(page, "forensics")
    show(page, "history")
    expect(page.locator("[id='job newer']")).to_contain_text("failed")
    expect(opened).to_contain_text(f"Id{job}")
    page.unroute("**/pve")
    with lost_history(page):
        follow(person, "#vm=devvm&job=msg_of_another_time")
        wait_for_text(page, "jobs-trouble", "No answer from the host about this job.")
    follow(person, "#vm=devvm&job=msg_of_another_time")
    wait_for_text(page, "jobs-trouble", "The host does not know the job msg_of_another_time")
    show(page, "vm")
    show(page, "history")
    expect(page.locator("#jobs-trouble")).to_have_text("")
    show(page, "vm")
    forget_key(page)
    expect(page.locator("#jobs li[id]")).to_have_count(0)


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
    see_headline(page, "No such VM", "warn")
    press(page, "cycle")
    wait_for_text(page, "dock", "There is no VM ghost here.")
    assert all(blocked(page, verb) for verb in ("cycle", "reset", "start", "stop", "status", "forensics"))
    assert not page.is_visible("#confirm")
    assert page.text_content("#picture-at") == "No picture yet"
    assert page.locator("#verdict-lines li").count() == 0
    page.click("#show-vms")
    wait_for(page, lambda: len(rows(page)) == 3, "the list")
    assert "No such VM" not in {words for _, _, words in rows(page)}  # it is where the sentence sends a person
    choose(page, "devvm")
    see_headline(page, "Idle or hung", "unknown")


@pytest.mark.all
def test_a_proposal_for_a_vm_that_is_not_here_is_not_sent(visit: Visit) -> None:
    """Its card says so, the VM that is shown stays, and nothing is asked."""
    page = visit.open()
    proposal = {"type": "approval", "verb": "reset", "vm": "ghost", "job": "msg_proposed2", "why": "hung"}
    answer_chat(page, {**proposal, "last": "msg_proposed0"})
    ask_claude(page, "well?")
    page.click("[data-approve=reset]")
    expect(page.locator("[data-proposal]")).to_contain_text("There is no such VM here.")
    expect(page.locator("#confirm")).not_to_be_visible()
    expect(page.locator("#name")).to_have_text("devvm (VM 102)")
    assert visit.mutating == []


@pytest.mark.all
def test_a_link_to_a_vm_that_is_new_waits_for_its_name(person: Visit) -> None:
    """A VM that this device has never heard of is not called unknown before Breakglass has answered."""
    page = person.page
    some = {**person.stage.service.health()}
    some["vms"] = [vm for vm in some["vms"] if vm["name"] != "twin"]
    page.route("**/health", lambda route: route.fulfill(json=some))
    keep_at_hand(person)
    page.unroute("**/health")
    follow(person, "#vm=twin")
    expect(page.locator("#name")).to_have_text("twin (VM 103)")


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


def write_about_two(page: Page) -> None:
    """Write about devvm, then about twin; what was written about the first is not in the second's place."""
    choose(page, "devvm")
    show(page, "chat")
    page.fill("#prompt", "why does devvm hang?")
    choose(page, "twin")
    expect(page.locator("#prompt")).to_have_value("")
    show(page, "chat")
    page.fill("#prompt", "and twin?")


@pytest.mark.all
def test_what_is_written_before_the_conversation_is_loaded_stays_with_its_vm(person: Visit) -> None:
    """On a slow line its modules come later than a person writes."""
    held: list[Route] = []
    health = {**person.stage.service.health(), "chat": "on"}
    person.page.route("**/health", lambda route: route.fulfill(json=health))
    person.page.add_init_script("delete Navigator.prototype.serviceWorker")  # it would answer in the line's place
    person.page.route("**/chat/turns.js", lambda route: held.append(route))
    page = person.open()
    write_about_two(page)
    page.click("#send")  # about twin, which is not shown when this could be sent
    choose(page, "devvm")
    expect(page.locator("#prompt")).to_have_value("why does devvm hang?")
    show(page, "chat")
    page.fill("#prompt", "why does devvm still hang?")
    wait_for(page, lambda: held, "the request for the conversation")
    for route in held:
        route.continue_()
    expect(page.locator("#starters")).to_be_visible()  # loaded: nothing was sent
    expect(page.locator("#prompt")).to_have_value("why does devvm still hang?")
    choose(page, "twin")
    expect(page.locator("#prompt")).to_have_value("and twin?")
    choose(page, "devvm")
    expect(page.locator("#prompt")).to_have_value("why does devvm still hang?")
    assert [body for body in person.posts if "prompt" in body] == []

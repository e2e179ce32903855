"""The line that says when the host was last proven: the host's report, and its age if it is not current."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Page, expect

from ..support.browser import Visit, axe_finds, find_handler, lose_handler, open_key, phase, press

pytestmark = pytest.mark.real("chromium", "sshd", "qemu")

LOOKS = """() => {
    const [line, other] = ["proven", "key-kept"].map((id) => document.getElementById(id));
    return [getComputedStyle(line).color === getComputedStyle(other).color, line.dataset.tone];
}"""


@contextmanager
def proven(visit: Visit, days: float, how: str) -> Iterator[None]:
    """Make the host report that it was proven this many days ago."""
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - days * 86_400))
    path = visit.stage.world.root / "run/breakglass/proven.json"
    path.write_text(json.dumps({"at": at, "by": "operator", "how": how, "vm": 102}))
    try:
        yield
    finally:
        path.unlink()


def says(page: Page, words: str) -> None:
    expect(page.locator("#proven")).to_have_text(words)


def test_what_the_host_says(visit: Visit) -> None:
    """The line says how long ago and how, and never in the colour of success."""
    page = visit.open()
    open_key(page)
    for days, how, words in (
        (400, "drill", "Last proven 400 days ago (drill)."),
        (12.02, "drill", "Last proven 12 days ago (drill)."),
        (0.126, "doctor", "Last proven 3 h ago (doctor)."),
    ):
        with proven(visit, days, how):
            press(page, "status")
            says(page, words)
        assert page.evaluate(LOOKS) == [True, None]
    assert axe_finds(page, "proven") == []


def test_what_was_kept_has_its_age(visit: Visit) -> None:
    """While the handler is away, the page says how old its knowledge is."""
    page = visit.open()
    with proven(visit, 12.02, "drill"):
        press(page, "status")
        says(page, "Last proven 12 days ago (drill).")
        lose_handler(visit.stage, page)
        expect(page.locator("#proven")).to_contain_text("Last proven 12 days ago (drill), as of ")
        find_handler(visit.stage, page)
        phase(page, "idle")
        says(page, "Last proven 12 days ago (drill).")


@pytest.mark.parametrize(
    ("state", "words"),
    [
        pytest.param("answering", "Never proven.", id="never"),
        pytest.param("not-checked", "", id="not reached since the start", marks=pytest.mark.all),
    ],
)
def test_what_is_not_known_is_not_called_never(visit: Visit, state: str, words: str) -> None:
    """Only a host agent that answers, and that can know it, says that the host was never proven."""
    page = visit.page
    health = visit.stage.service.health()
    for host in health["hosts"].values():
        host["proven"] = None
    for vm in health["vms"]:
        vm["proxmox"] = state
    page.route("**/health", lambda route: route.fulfill(json=health))
    page.goto(visit.stage.url)
    phase(page, "locked")
    expect(page.locator("#link-breakglass")).to_contain_text("answering")
    says(page, words)


def test_one_of_several_hosts_is_not_taken_for_another(visit: Visit) -> None:
    """Before a VM has answered, the page does not know which of them it is on."""
    page = visit.page
    health = visit.stage.service.health()
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    health["hosts"] = {name: {"state": "answering", "proven": {"at": at, "how": "drill"}} for name in ("pve1", "pve2")}
    page.route("**/health", lambda route: route.fulfill(json=health))
    page.goto(visit.stage.url)
    phase(page, "locked")
    expect(page.locator("#link-breakglass")).to_contain_text("answering")
    says(page, "")

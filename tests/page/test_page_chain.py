"""The page and the chain of jobs. The page keeps the last line that it saw, and History says if that is missing."""

import json

import pytest
from playwright.sync_api import expect

from ..support.browser import Visit, confirm, forget_key, phase, show, wait_for
from ..support.chain import chain_files
from ..support.stages import until

pytestmark = pytest.mark.real("chromium", "sshd", "qemu")

KEPT = "() => Object.values(JSON.parse(localStorage['breakglass / heads devvm'] ?? '{}'))[0]?.[0].n"


@pytest.mark.all
def test_a_record_that_lost_its_end_is_named(visit: Visit) -> None:
    """The shorter chain is valid, but lacks a line that this page saw. Only History says so, until Forget."""
    page, (run, archive) = visit.open(), chain_files(visit.stage.world)
    confirm(page, "reset")
    phase(page, "done")
    last = run.read_bytes().splitlines()[-1]
    number = json.loads(last)["n"]
    wait_for(page, lambda: page.evaluate(KEPT) == number, "the line that the page keeps")
    until(lambda: archive.exists() and archive.read_bytes().endswith(last + b"\n"), "the copy")
    sound = archive.read_bytes()
    assert page.text_content("#chain") == ""
    for path in (run, archive):
        path.write_bytes(path.read_bytes()[: -len(last) - 1])
    try:
        visit.open()
        box = page.locator("#chain")
        expect(box).to_contain_text(f"line {number}, which this page saw earlier, is gone")
        assert "record" not in page.inner_text("body")
        show(page, "history")
        expect(box).to_be_visible()
        show(page, "vm")
        forget_key(page)
        visit.open()
        expect(page.locator("#jobs details").first).to_be_attached()
        expect(box).to_be_empty()
        run.write_bytes(run.read_bytes().replace(b'"operator"', b'"operator2"', 1))
        visit.open()
        expect(box).to_contain_text("may have been edited: line")
    finally:
        for path in (run, archive):
            path.write_bytes(sound)

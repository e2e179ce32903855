"""The page in two more engines: one night, from the key to a page without a handler, in each of them.

The other tests of the page run in Chromium. What each engine does in its own way is here: signatures, streams, dialogs,
the kept key, the worker, Trusted Types.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ..support import engines
from ..support.browser import KEPT_KEYS, Stage
from ..support.engines import Engine
from ..support.failing_tools import misbehave
from ..support.pairing_links import offer
from ..support.stages import until
from ..support.talk import bash, fake

pytestmark = [pytest.mark.all, pytest.mark.real("chromium", "claude", "sshd", "qemu")]


ENGINES = {"firefox": engines.firefox, "webkit": engines.webkit}


@pytest.fixture(scope="module", params=[pytest.param(name, marks=pytest.mark.real(name)) for name in ENGINES])
def engine(request: pytest.FixtureRequest, directory: Path) -> Iterator[Engine]:
    """One engine after the other, with a profile that ends with it."""
    with ENGINES[request.param](directory) as engine:
        yield engine


class Person:
    """A person who looks at the page, and sees what is shown and no more."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def sees(self, selector: str, words: str = "") -> None:
        """Return once an element is in sight that says so."""
        there = f"""[...document.querySelectorAll({json.dumps(selector)})]
            .filter((each) => each.checkVisibility({{visibilityProperty: true}}))
            .map((each) => each.innerText.trim() || each.textContent.trim()).join("\\n")"""
        self.does(f"((there) => there && there.includes({json.dumps(words)}))({there})", f"{selector} with {words!r}")

    def does(self, condition: str, what: str) -> None:
        """Return once a condition of the page is true, or fail with what the page shows.

        The page looks for a second at a time, because asking costs more.
        """
        body = f"""const end = Date.now() + 1000;
        do {{
            if ({condition}) return true;
            await new Promise((done) => setTimeout(done, 50));
        }} while (Date.now() < end);
        return false;"""
        try:
            until(lambda: self.engine.run(body), what)
        except AssertionError as late:
            shown = self.engine.run("return [location.href, document.body.innerText].join('\\n')")
            raise AssertionError(f"{late}. The page shows:\n{shown}") from None

    def asks(self, button: str) -> None:
        """Press a button until its question is there: the page can say that it is too early, and to press again."""
        shown = "document.querySelector('#confirm').open"
        look = f"for (let n = 0; n < 60 && !{shown}; n += 1) await new Promise((done) => setTimeout(done, 50));"

        def is_asked() -> bool:
            if not self.engine.run(f"return {shown}"):
                self.engine.click(button)
            return bool(self.engine.run(f"{look} return {shown}"))

        until(is_asked, f"the question of {button}")

    def answers(self, button: str) -> None:
        """Answer the question, once it can be answered."""
        ready = "document.querySelector('#yes').getAttribute('aria-disabled') === 'false'"
        self.does(f"document.querySelector('#confirm').open && {ready}", "a question")
        self.engine.click(button)


def test_a_night(engine: Engine, stage: Stage) -> None:
    """The main flow: unlock, pair, look, power-cycle with its stages, chat, a proposal, a kept key, no handler."""
    stage.settle()
    person = Person(engine)
    unlock(engine, person, stage)
    pair(engine, person, stage)
    look(engine, person)
    power_cycle(engine, person, stage)
    talk(engine, person, stage)
    lose_the_handler(engine, person, stage)


def unlock(engine: Engine, person: Person, stage: Stage) -> None:
    """Unlock with a link, then by hand with a key that is kept, then with the kept key."""
    secret = stage.service.secrets["operator"]
    engine.open(f"{stage.url}#key={secret}")
    person.sees("#outcome[data-phase=idle]")
    engine.reload()
    person.sees("#outcome[data-phase=locked]")
    engine.click("#keep-key")
    engine.type("#secret", secret)
    engine.press("Enter")
    person.sees("#outcome[data-phase=idle]")
    person.does(f"await ({KEPT_KEYS})() === 1", "the key to be stored")
    engine.reload()
    person.sees("#outcome[data-phase=idle]")
    # The page stores the key again once the handler has accepted it. This read waits for that write, because
    # the next page could not write before its end.
    person.does(f"await ({KEPT_KEYS})() === 1", "the end of storing the key")


def pair(engine: Engine, person: Person, stage: Stage) -> None:
    """A link fetches a key in place of the kept one, after a question, and is gone from the address."""
    given = offer(stage)
    engine.open(given.link)
    person.answers("#yes")
    person.sees("#pair-word", "Paired as operator. This device can now rescue VMs.")
    person.does("location.hash === ''", "an address without the link")
    assert given.state == "fetched"
    engine.reload()
    person.sees("#outcome[data-phase=idle]")


def look(engine: Engine, person: Person) -> None:
    """The page looks by itself, and shows evidence and the console."""
    person.sees("#outcome[data-phase=idle] #outcome-word", "Looked")
    person.sees("#second", "QEMU: running")
    width = "(async (img) => { await img?.decode(); return img?.naturalWidth; })(document.querySelector('#glass img'))"
    person.does(f"await {width} === 720", "the console's picture")


def power_cycle(engine: Engine, person: Person, stage: Stage) -> None:
    """The question can be left; answered, the verb's stages come as they happen."""
    before = stage.mutating_jobs()
    engine.click("[data-verb=cycle]")
    person.sees("#confirm-title", "Power-cycle devvm")
    person.does("document.activeElement.id === 'keep'", "the focus on the button that changes nothing")
    engine.press("Escape")
    person.does("!document.querySelector('#confirm').open", "the question's end")
    assert stage.mutating_jobs(but=before) == []
    with held_at_start(stage):
        person.asks("[data-verb=cycle]")
        person.answers("#yes")
        person.sees("#outcome[data-phase=running]", "Power-cycle")
        person.sees("#steps [data-tone=busy]", "Start")
        person.does("document.querySelector('[data-verb=reset]').ariaDisabled === 'true'", "blocked buttons")
    person.sees("#outcome[data-phase=done]", "done")
    assert len(stage.mutating_jobs(but=before)) == 1


@contextmanager
def held_at_start(stage: Stage) -> Iterator[None]:
    """A power-cycle waits before its start; let go at the end."""
    gate = stage.world.root / "gate"
    if not gate.exists():
        os.mkfifo(gate)
    misbehave(stage.world.root, gate="start")
    yield
    until(lambda: stage.stages()[0][1] == "start", "its start")
    misbehave(stage.world.root)
    until(stage.has_no_job_under_way, "its end")  # its `qm` may not be at the gate yet


def talk(engine: Engine, person: Person, stage: Stage) -> None:
    """What claude says comes as it is said, what it proposes is done once approved, and a reload keeps both.

    The prompt is shown too, and has these words as JSON: without the character that ends them.
    """
    before = stage.mutating_jobs()
    engine.type("#prompt", fake({"text": "I look…", **bash("echo 42")}, {"text": "I have seen it…", "wait": "seen"}))
    engine.click("#send")
    person.sees("[data-transcript]", "I look…")
    person.sees("#stop-turn")
    stage.model.release("seen")
    person.sees("[data-transcript]", "I have seen it…")
    person.does("document.querySelector('#stop-turn').hidden", "the turn's end")
    engine.type("#prompt", fake({"text": "It is hung.", **bash("pve reset")}, {"text": "Your turn…"}))
    engine.click("#send")
    person.sees("[data-transcript]", "Your turn…")
    assert stage.mutating_jobs(but=before) == []
    person.does("document.querySelector('#stop-turn').hidden", "the turn's end")
    person.asks("[data-proposal] [data-approve]")
    person.answers("#yes")
    person.sees("#outcome[data-phase=done]", "Reset")
    person.sees("[data-proposal]", "Reset: done")
    assert len(stage.mutating_jobs(but=before)) == 1
    engine.reload()
    person.sees("[data-transcript]", "I have seen it…")
    person.sees("[data-transcript]", "Your turn…")


def lose_the_handler(engine: Engine, person: Person, stage: Stage) -> None:
    """Without a handler the page opens from the device, with the commands by hand; and it comes back by itself."""
    person.does("navigator.serviceWorker.controller !== null", "the worker")
    stage.wire.down()
    try:
        engine.reload()
        person.sees("[data-headline]", "No connection")
        person.sees("#name", "devvm (VM 102)")
        person.sees("#by-hand-lines", "qm reset 102")
    finally:
        stage.wire.up()
    person.sees("#outcome[data-phase=idle]")
    person.does("document.querySelector('[data-verb=reset]').ariaDisabled !== 'true'", "a button that works")

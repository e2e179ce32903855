"""A real Chromium in front of the real handler, and a wire between them that can be cut at any byte."""

import asyncio
import copy
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Error, Page, Route, expect, sync_playwright

from breakglass.agents.pve.words import MUTATING
from breakglass.client import new_id
from breakglass.demo.proxmox.world import World

from . import claude, parts
from .agent import hasten, set_constants
from .certificates import tls_context
from .failing_tools import misbehave
from .model import Model
from .model_proxy import relay
from .ports import reserve_port
from .qemu import is_at_prompt
from .service import Service, give_directory
from .sshd import Sshd
from .stages import until
from .talk import Talker

ASKS = ("start", "cycle", "reset", "stop")  # the verbs that change power, as the page names them
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP rescue.test 127.0.0.1,MAP *.rescue.test 127.0.0.1",  # no machine has these names
]
# The number of keys that the device keeps. It does not open a missing database, because the page must make that.
KEPT_KEYS = """async () => (await indexedDB.databases()).length && new Promise((done) => {
    indexedDB.open("breakglass / ").onsuccess = ({target: {result: database}}) => {
        database.transaction("key").objectStore("key").count().onsuccess = ({target}) => {
            database.close();
            done(target.result);
        };
    };
})"""
EXPECTED = (
    "Failed to load resource",  # an answer of 4xx or a missing answer, which the tests cause
    "The Cross-Origin-Opener-Policy header has been ignored",  # over plain http
    "Service Worker registration blocked by Playwright",
    "An unknown error occurred when fetching the script",  # of the worker, while the handler is away
    "An SSL certificate error occurred when fetching the script",  # of a proxy whose certificate a test accepts
)
HAS_STYLE = "() => getComputedStyle(document.documentElement).getPropertyValue('--touch') !== ''"
PATIENCE_MS = 60_000  # twice the page's longest pause; a test that waits for so long has failed, even on a slow machine
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER closes with RST, as a broken line does


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium, with its own temporary profile."""
    with sync_playwright() as playwright:
        expect.set_options(timeout=PATIENCE_MS)
        browser = playwright.chromium.launch(executable_path=parts.find_browser(), args=FLAGS)
        yield browser
        browser.close()


class ParkedLoop:
    """Pauses Playwright's event loop while tests with their own loops run.

    That loop counts as running in this thread for as long as a browser is open.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        asyncio._set_running_loop(None)

    @contextmanager
    def running(self) -> Iterator[None]:
        self.unpark()
        try:
            yield
        finally:
            asyncio._set_running_loop(None)

    def unpark(self) -> None:
        asyncio._set_running_loop(self._loop)


class Wire:
    """A TCP proxy to the handler. It forwards everything until a test calls `down` or `cut`."""

    def __init__(self, port: int) -> None:
        self.to = port
        self.port = reserve_port()
        self._cut: tuple[bytes, int] | None = None
        self._times = 0
        self._before: Callable[[], object] = bool
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()  # of the open connections, their ends and whether the wire is up
        self.cuts = 0
        self.up()

    def up(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=64)
        self.is_up = True
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def down(self) -> None:
        """Refuse new connections, and break the existing ones."""
        with self._lock:
            was_up, self.is_up = self.is_up, False
        if was_up:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        self.drop()

    def drop(self) -> None:
        with self._lock:
            for each in self._open:
                _break(each)

    def cut(self, request: str, after: int, times: int = 1_000_000, before: Callable[[], object] = bool) -> None:
        """Break connections whose request has this text, `after` bytes into the answer, `times` times or until `mend`.

        It first waits for the call in `before` to return.
        """
        self._cut, self._times, self._before = (request.encode(), after), times, before

    def mend(self) -> None:
        self._cut = None
        if not self.is_up:
            self.up()

    def room(self, asked: bytes, answered: int, data: bytes) -> int:
        """Return how many of an answer's next bytes may pass."""
        cut = self._cut  # once: `mend` takes it away in another thread
        if not cut or cut[0] not in asked or answered + len(data) <= cut[1]:
            return len(data)
        room = max(0, cut[1] - answered)
        self._before()
        self.cuts += 1
        self._times -= 1
        if self._times <= 0:
            self._cut = None
        return room

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            if self._is_tracked(client):
                threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _is_tracked(self, *ends: socket.socket) -> bool:
        """Track the ends of a connection, so that `drop` breaks them; break them now if the wire is down."""
        with self._lock:
            if self.is_up:
                self._open.update(ends)
                return True
        self.closed(*ends)
        return False

    def _connect(self, client: socket.socket) -> None:
        try:
            handler = socket.create_connection(("127.0.0.1", self.to))
        except OSError:
            self.closed(client)
            return
        if self._is_tracked(client, handler):
            line = _Line(self, client, handler)
            threading.Thread(target=line.forth, daemon=True).start()
            line.back()

    def closed(self, *ends: socket.socket) -> None:
        with self._lock:
            self._open.difference_update(ends)
            for each in ends:
                _break(each)


@dataclass
class _Line:
    """One connection through the wire, with the number of bytes that its current answer has so far."""

    wire: Wire
    client: socket.socket
    handler: socket.socket
    asked: bytes = b""
    answered: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def forth(self) -> None:
        self._pass_on(self.client, self.handler, self._is_asked)

    def back(self) -> None:
        self._pass_on(self.handler, self.client, self._is_answered)

    def _pass_on(self, source: socket.socket, sink: socket.socket, look: Any) -> None:
        try:
            while data := source.recv(65536):
                passed = look(data)
                sink.sendall(passed)
                if len(passed) < len(data):
                    break
        except OSError:
            pass
        self.wire.closed(self.client, self.handler)

    def _is_asked(self, data: bytes) -> bytes:
        with self.lock:
            if self.answered:  # the next request on this connection
                self.asked, self.answered = b"", 0
            self.asked += data
        return data

    def _is_answered(self, data: bytes) -> bytes:
        with self.lock:
            room = self.wire.room(self.asked, self.answered, data)
            self.answered += len(data)
        return data[:room]


def _break(end: socket.socket) -> None:
    """Break a connection. The caller holds the lock, because a new connection can get the number of a closed one."""
    try:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    end.close()


class Stage:
    """One host, its SSH server, a handler, the wire to it and a browser, which all page tests of a process share."""

    def __init__(self, directory: Path, browser: Browser) -> None:
        self.browser = browser
        with ExitStack() as begun:  # if one of them fails to start, this closes the others
            self.world = World(directory, scale=20)
            begun.callback(self.world.close)
            hasten(self.world)
            set_constants(self.world, SAMPLES_APART=0.2)  # a page takes evidence when it opens, and the guest is idle
            assert self.world.qm("start", "102").returncode == 0
            directory.chmod(0o711)
            self.sshd = Sshd(self.world)
            begun.callback(lambda: self.sshd.stop())  # a test may replace it
            self.model = Model()
            begun.callback(self.model.close)
            self.service: Service = (
                Talker(directory, self.model, host=self.sshd)
                if claude.find()
                else Service(directory, **self.sshd.access)
            )
            begun.callback(lambda: self.service.stop())
            self.service.answering()
            self.wire = Wire(self.service.port)
            begun.callback(self.wire.down)
            self.close = begun.pop_all().close
        self.url = f"http://127.0.0.1:{self.wire.port}/"

    @contextmanager
    def without_sshd(self) -> Iterator[None]:
        """Stop the host's SSH server until the block ends."""
        self.sshd.stop()
        try:
            yield
        finally:
            self.sshd.start()

    def settle(self) -> None:
        """Restore everything: the VM runs, `qm` does not misbehave, the wire is whole, and no job is running."""
        misbehave(self.world.root)
        self.wire.mend()
        self.service.answering()
        until(self.has_no_job_under_way, "the end of every job")
        if self.service.pve("status").json["state"] != "running":
            assert self.service.pve("start").json["outcome"] == "done"
        if self.world.qemu:  # a guest that boots reads its disk, so it is not idle
            until(lambda: is_at_prompt(self.world), "the guest's prompt")
        if self.newest_verdict() == "healthy":  # evidence of a guest that booted; the next page would show it
            self.service.pve("forensics")

    def newest_verdict(self) -> str | None:
        """Return the finding of the newest evidence."""
        jobs = self.service.pve("history").json["jobs"]
        return next((job["verdict"]["code"] for job in jobs if job["verb"] == "forensics" and job["verdict"]), None)

    def has_no_job_under_way(self) -> bool:
        """Let a job that waits at the gate continue, and tell whether each job that has begun has ended."""
        open_gate(self.world)
        return all(job["outcome"] is not None for job in self.service.pve("history").json["jobs"])

    def stages(self) -> list[tuple[str, str]]:
        """Return the id and the stage of each recent job."""
        return [(job["id"], job["stage"]) for job in self.service.pve("history").json["jobs"]]

    def mutating_jobs(self, but: Collection[str] = ()) -> list[str]:
        """Return the ids of the recent jobs that changed power, without those in `but`.

        A history has only the newest 50 jobs. Compare ids and not counts, because older jobs drop out of it.
        """
        jobs = self.service.pve("history").json["jobs"]
        return [job["id"] for job in jobs if job["verb"] in MUTATING and job["id"] not in but]


@contextmanager
def over_https(stage: Stage, name: str) -> Iterator[Stage]:
    """The stage with a handler that has one https address. A proxy with TLS answers for every name."""
    directory, host = stage.world.directory / name, stage.sshd
    directory.mkdir()
    give_directory(directory / "var/sessions")
    seen = copy.copy(stage)
    with relay(tls_context(directory, "rescue.test")) as proxy:
        seen.url = f"https://rescue.test:{proxy.port}/"
        with Service(directory, **host.access, urls=[seen.url]) as service:
            proxy.target, seen.service = service.port, service
            yield seen


def open_gate(world: World) -> None:
    """Let a `qm` that waits at the gate continue. Does nothing if none waits."""
    try:
        os.close(os.open(world.root / "gate", os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        pass


@contextmanager
def unseen_cycle(stage: Stage, page: Page) -> Iterator[str]:
    """Another caller's cycle, held before its start until the block ends.

    The page does not see it, because the page would lock its buttons.
    """
    gate = stage.world.root / "gate"
    if not gate.exists():
        os.mkfifo(gate)
    misbehave(stage.world.root, gate="start")
    job = new_id()
    cycling = threading.Thread(target=lambda: stage.service.pve("cycle", caller="operator2", msg_id=job))
    with held_requests(page, '"verb":"status"'):
        cycling.start()
        until(lambda: (job, "start") in stage.stages(), "its start")
        try:
            yield job
        finally:
            while cycling.is_alive():  # its `qm` may not be at the gate yet
                open_gate(stage.world)
                cycling.join(0.05)


@contextmanager
def held_requests(page: Page, words: str, path: str = "pve") -> Iterator[list[Route]]:
    """Hold the page's requests whose body has these words, so that the page waits while a test looks at it."""
    held: list[Route] = []
    is_over = False

    def take(route: Route) -> None:
        if words in (route.request.post_data or "") and not is_over:
            held.append(route)
        else:
            route.fallback()

    page.route(f"**/{path}", take)
    try:
        yield held
    finally:
        is_over = True  # later requests are passed on
        for route in held:
            route.continue_()
        page.unroute(f"**/{path}", take)


def stop_time(page: Page) -> None:
    """Stop the page's clock. It first jumps ahead, because the new time must not be past when the call arrives."""
    ahead = "() => Date.now() / 1000 + 10"
    try:
        page.clock.pause_at(page.evaluate(ahead))
    except Error:  # the call was late, but the page's clock has stopped by now, so the next one succeeds
        page.clock.pause_at(page.evaluate(ahead))


def wait_for(page: Page, seen: Callable[[], object], what: str) -> None:
    """Return once `seen()` is true. The page's events continue in this time."""
    end = time.monotonic() + PATIENCE_MS / 1000
    while not seen():
        assert time.monotonic() < end, f"{what} did not happen"
        page.wait_for_timeout(10)


class Visit:
    """One person at the page: a context with its own storage, and everything that its pages logged and sent."""

    def __init__(self, stage: Stage, **options: Any) -> None:
        self.stage = stage
        self.keys = stage.service.secrets
        self.context: BrowserContext = stage.browser.new_context(
            **{"viewport": {"width": 360, "height": 740}, **options}
        )
        self.complaints: list[str] = []
        self.posts: list[dict[str, Any]] = []
        self.under_way = set[object]()  # the requests that have not ended
        self.page = self.tab()

    def tab(self) -> Page:
        page = self.context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.complaints.append(error.stack or str(error)))
        page.on("request", lambda r: self.posts.append(json.loads(r.post_data)) if r.post_data else None)
        page.on("request", lambda r: self.under_way.add(r))
        page.on("requestfinished", lambda r: self.under_way.discard(r))
        page.on("requestfailed", lambda r: self.under_way.discard(r))
        return page

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not message.text.startswith(EXPECTED):
            self.complaints.append(message.text)

    @property
    def mutating(self) -> list[dict[str, Any]]:
        """The requests that left for a verb that changes power."""
        return [body for body in self.posts if body.get("verb") in MUTATING]

    def open(self, page: Page | None = None, *, caller: str = "operator", looks: bool = True) -> Page:
        """Open the page with the key, and return once it has the VM's state and, if it `looks`, the guest's.

        It looks by itself, except while another job holds the VM, and if the caller may not look.
        """
        page = page or self.page
        page.goto("about:blank")  # otherwise only the hash changes, and the earlier page is still shown
        page.goto(f"{self.stage.url}#key={self.stage.service.secrets[caller]}")
        phase(page, "idle")
        if looks:
            looked(page)
        return page

    def close(self) -> None:
        """End the visit, and fail if one of its pages logged an error."""
        for page in self.context.pages:
            page.unroute_all(behavior="ignoreErrors")  # a route that a test made may still wait for an answer
        self.context.close()
        assert not self.complaints, self.complaints


def phase(page: Page, *names: str) -> None:
    """Return once the page's state machine is in one of these states, or fail and say what the page shows."""
    try:
        expect(page.locator(", ".join(f"#outcome[data-phase={name}]" for name in names))).to_be_visible()
    except AssertionError as error:
        raise AssertionError(f"{error}\nThe page at {page.url} shows:\n{page.inner_text('body')[:2_000]}") from None


def looked(page: Page) -> None:
    """Return once the page has evidence, either its own or another caller's that is less than a minute old."""
    expect(page.locator("#outcome[data-phase=idle] #outcome-word")).to_contain_text("Looked")


def show(page: Page, tab: str) -> None:
    """Show a part of the page: `vm`, `chat` or `history`. On a phone, only one of them fits on the screen."""
    page.click(f"[data-show={tab}]")


def see_headline(page: Page, words: str, tone: str) -> None:
    """Return once the headline has these words and this tone."""
    expect(page.locator(f"[data-headline][data-tone={tone}] h2")).to_have_text(words)


def fall_asleep(page: Page) -> None:
    """Hide the page, as a phone does when it locks."""
    page.evaluate(
        """() => {
            Object.defineProperty(document, "hidden", {value: true, configurable: true});
            document.dispatchEvent(new Event("visibilitychange"));
        }"""
    )


def wake(page: Page) -> None:
    """Show the page again."""
    page.evaluate(
        """() => {
            delete document.hidden;
            document.dispatchEvent(new Event("visibilitychange"));
        }"""
    )


def press(page: Page, verb: str) -> None:
    """Press a verb's button as a finger does, even if the page does not offer the verb."""
    page.click(f"[data-verb={verb}]", force=True)


def ask(page: Page, verb: str) -> None:
    """Press a verb that asks, and return once its dialog can be answered."""
    press(page, verb)
    page.wait_for_selector("#yes[aria-disabled=false]")


def confirm(page: Page, verb: str) -> None:
    ask(page, verb)
    page.click("#yes")


def wait_for_text(page: Page, element: str, words: str) -> None:
    """Return once an element has this text."""
    expect(page.locator(f"#{element}")).to_contain_text(words)


def text_of(page: Page, element: str) -> str:
    """Return an element's text, or an empty text if the element is not shown."""
    return page.inner_text(f"#{element}")


def blocked(page: Page, verb: str) -> bool:
    return page.get_attribute(f"[data-verb={verb}]", "aria-disabled") == "true"


RULES: dict[Literal["light", "dark"], dict[str, list[str]]] = {
    "light": {},
    "dark": {"runOnly": ["color-contrast", "link-in-text-block"]},
}


def axe_finds(page: Page, state: str) -> list[str]:
    """Return the faults that axe-core finds in this state of the page, in the light and in the dark scheme.

    In the dark scheme only the rules about colours are checked, because nothing else differs there.
    """
    found: list[str] = []
    for scheme, rules in RULES.items():
        page.emulate_media(color_scheme=scheme)
        wrong = Axe().run(page, options={"resultTypes": ["violations"], **rules}).response["violations"]
        found += [f"{state}, {scheme}: {each['id']}: {each['nodes'][0]['html'][:200]}" for each in wrong]
    return found


def open_key(page: Page) -> None:
    """Open the part of the page with the key. It closes once the page is unlocked."""
    if page.get_attribute("#key", "open") is None:
        page.click("#key summary")


def keep_key(visit: Visit) -> Page:
    """Unlock the page by the demo's link, with a key that stays on the device."""
    page = visit.open()
    open_key(page)
    page.check("#keep-key")
    wait_for(page, lambda: page.evaluate(KEPT_KEYS) == 1, "the key to be stored")
    return page


def forget_key(page: Page) -> None:
    """Press Forget and answer yes. Return once the device has forgotten the key."""
    open_key(page)
    page.click("#forget")
    page.wait_for_selector("#yes[aria-disabled=false]")
    page.click("#yes")
    phase(page, "locked")
    wait_for(page, lambda: page.evaluate(KEPT_KEYS) == 0, "the key to be deleted")


def lose_handler(stage: Stage, page: Page) -> None:
    """Break the wire, and make the page ask for /health twice at once, as it would after some seconds."""
    stage.wire.down()
    for _ in range(2):
        page.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")
    phase(page, "disconnected")


def find_handler(stage: Stage, page: Page) -> None:
    """Repair the wire, and make the page ask for /health at once, as it does when a person opens it again."""
    stage.wire.mend()
    page.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")

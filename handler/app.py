"""The ASGI application: routes, lifespan, errors to HTTP. Wiring only."""

import asyncio
import importlib
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from agents.pve.words import VERSION

from . import audit
from .bodies import PveRequest, pve_request
from .config import Config, Vm, by_hand, is_vm_name
from .errors import (
    BreakglassError,
    ConfigError,
    Forbidden,
    IdReused,
    MethodNotAllowed,
    NotFound,
    Problem,
    listed,
)
from .gate import Gate, signed_request
from .outcomes import Answer, Asked, unsettled
from .runs import Run
from .signing import Caller, check_age
from .verbs import VERBS

if TYPE_CHECKING:
    from .pve import Host

PAGE = Path(__file__).parent.parent / "static_site"
WARN_BEFORE = timedelta(days=14)
READ_SECONDS = 10.0  # for the configuration and its files

Load = Callable[[], Config]


@dataclass(eq=False)
class Way:
    """The road to one VM's host, what holds it open, and the verbs that are on it."""

    host: "Host"
    keeper: asyncio.Task[None]
    runs: set[asyncio.Task[None]] = field(default_factory=set)

    async def close(self) -> None:
        """Close the road once the last verb on it has ended."""
        self.keeper.cancel()
        await asyncio.gather(self.keeper, return_exceptions=True)
        while self.runs:
            await asyncio.wait(self.runs)
        await self.host.close()


class Service:
    """What the routes share: the configuration, the roads to the hosts, the verbs under way.

    `load` reads the configuration again; `hung_up` asks for that. The configuration and the roads change together,
    between two steps of the event loop, so that no request sees one without the other.
    """

    def __init__(self, config: Config, load: Load) -> None:
        self.config = config
        self.stopping = asyncio.Event()
        self.hung_up = asyncio.Event()
        self.ready = asyncio.Event()
        self._load = load
        self._rejected_since: float | None = None
        self._ways: dict[str, Way] = {}
        self._new_host: Callable[[Vm], Host] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        self._spawn(self._open_roads())
        self._spawn(self._reload_when_asked())

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _open_roads(self) -> None:
        """Bring up the SSH side; in a thread, so that the first answers need not wait for its import."""
        await asyncio.sleep(0.05)
        self._new_host = (await asyncio.to_thread(importlib.import_module, "handler.pve")).Host
        self._use(self.config)
        self.ready.set()

    async def stop(self) -> None:
        ways = list(self._ways.values())
        tasks = [*self._tasks, *(way.keeper for way in ways)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(way.host.close() for way in ways))

    # --- the configuration ---

    async def _reload_when_asked(self) -> None:
        while True:
            await self.hung_up.wait()
            self.hung_up.clear()  # one that comes from here on asks for another reading
            try:
                config = await in_thread(self._load, READ_SECONDS)
            except Exception as error:  # whatever it is, the configuration that works stays
                self._reject(error)
            else:
                self._rejected_since = None
                self._use(config)
                audit.note("reload", **audit.in_force(config))

    def _reject(self, error: Exception) -> None:
        self._rejected_since = self._rejected_since or time.time()
        problem = Problem("(file)", f"can't be read: {error or type(error).__name__}", "mend it and reload (SIGHUP)")
        problems = error.problems if isinstance(error, ConfigError) else [problem]
        audit.note("reload-rejected", problems=listed(problems))

    def _use(self, config: Config) -> None:
        """Put a configuration in force: open, keep and close roads. Keeps one whose VM says what it said before, but
        not one whose key was turned down: a reload is a person's word that it may be tried again."""
        self.config = config
        if self._new_host is None:  # the roads are opened once that is there
            return
        old, self._ways = self._ways, {}
        for name, vm in config.vms.items():
            way = old.get(name)
            if way is not None and way.host.vm == vm and way.host.health != "key-not-accepted":
                self._ways[name] = old.pop(name)
            else:
                host = self._new_host(vm)
                self._ways[name] = Way(host, asyncio.create_task(host.keep_open()))
        for way in old.values():
            self._spawn(way.close())

    def run(self, asked: Asked, request: PveRequest, vm: Vm, began: float) -> Run:
        """Begin a verb, once ready, and keep hold of it until it ends, whoever watches and whatever is reloaded."""
        way = self._ways[vm.name]
        run = Run(way.host, asked, request, vm, began)
        way.runs.add(run.task)
        run.task.add_done_callback(way.runs.discard)
        return run

    # --- what is so ---

    def health(self) -> dict[str, object]:
        return {
            "ok": True,
            "time": _spelled(time.time()),
            "version": VERSION,
            "config": self._config_health(),
            "vms": [self._vm_health(vm) for vm in self.config.vms.values()] + self._vms_off(),
            "chat": "off",
        }

    def _config_health(self) -> str:
        count = len(self.config.problems)
        found = [f"rejected since {_spelled(self._rejected_since)}"] if self._rejected_since else []
        found += [f"degraded: {count} problem{'s' * (count > 1)}"] if count else []
        return "; ".join(found) or "ok"

    def _vms_off(self) -> list[dict[str, object]]:
        """Return the VMs whose entry has a fault; not those whose name is the fault, for that may be any text."""
        off = {name: vmid for name, vmid in self.config.vms_off.items() if is_vm_name(name)}
        return [{"name": name, "vmid": vmid, "proxmox": "config-error", "since": None} for name, vmid in off.items()]

    def _vm_health(self, vm: Vm) -> dict[str, object]:
        way = self._ways.get(vm.name)
        since = way.host.since if way else None
        at = _spelled(since) if since else None
        return {"name": vm.name, "vmid": vm.vmid, "proxmox": way.host.health if way else "not-checked", "since": at}


async def in_thread(call: Load, seconds: float) -> Config:
    """Return what `call` returns in a thread of its own. Nothing waits for that thread after `seconds`, not even the
    end of the process: a file system may hang."""
    loop, found = asyncio.get_running_loop(), asyncio.Future[Config]()

    def settle(config: Config | None, error: Exception | None) -> None:
        if found.done():
            return
        if config is not None:
            found.set_result(config)
        else:
            found.set_exception(error or RuntimeError("no configuration"))

    def work() -> None:
        config, failed = None, None
        try:
            config = call()
        except Exception as error:
            failed = error
        try:
            loop.call_soon_threadsafe(settle, config, failed)
        except RuntimeError:  # the loop has ended
            pass

    threading.Thread(target=work, name="reload", daemon=True).start()
    async with asyncio.timeout(seconds):
        return await found


def _spelled(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def create_app(config: Config, load: Load, on_start: Callable[[Service], None] = lambda _: None) -> ASGIApp:
    """Return the whole application; `on_start` is given the running service (the server tells it what signals say)."""
    service = Service(config, load)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Service]]:
        service.start()
        on_start(service)
        yield {"service": service}
        await service.stop()

    routes = [
        Route("/pve", pve, methods=["POST"]),
        Route("/health", health, methods=["GET"]),
        Mount("/", StaticFiles(directory=PAGE, html=True)),
    ]
    handlers = {BreakglassError: told, HTTPException: not_routed}
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)
    return Gate(app, lambda: service.config)


async def health(request: Request) -> Response:
    service: Service = request.state.service
    return JSONResponse(service.health())


async def pve(request: Request) -> Response:
    """Run a verb: the answer object, or the same as a stream of lines."""
    service: Service = request.state.service
    signed, body, began = signed_request(request.scope["state"])
    now = time.time()
    check_age(signed, int(now))
    asked_for = pve_request(body)
    caller = signed.caller
    await service.ready.wait()  # before anything is looked up: from here to the verb nothing can be reloaded
    vm = chosen_vm(service.config, asked_for)
    if asked_for.verb not in VERBS or vm is None:
        return _rejected(asked_for, signed.id, caller.name, began, service.config)
    allowed(caller, asked_for.verb, vm, now)
    warnings = tuple(_warnings(caller, vm, now))
    asked = Asked(asked_for.verb, vm.name, signed.id, caller.name, by_hand(vm, asked_for.verb), warnings)
    run = service.run(asked, asked_for, vm, began)
    if "application/x-ndjson" in request.headers.get("accept", ""):
        return StreamingResponse(_lines(run, service.stopping), media_type="application/x-ndjson")
    return _answered(await run.finished(service.stopping))


def chosen_vm(config: Config, request: PveRequest) -> Vm | None:
    """Return the VM that a request names, or the only one there is. One that is off counts: with a fault in the entry
    of one of two, a request that names none must not go to the other."""
    if not request.vm and len(config.vms) + len(config.vms_off) == 1:
        return next(iter(config.vms.values()))
    return config.vms.get(request.vm)


def allowed(caller: Caller, verb: str, vm: Vm, now: float) -> None:
    """Raise Forbidden unless this caller's entry allows the verb on the VM today."""
    if caller.not_after and caller.not_after.timestamp() < now:
        raise Forbidden(
            f"the key of {caller.name} expired on {caller.not_after:%Y-%m-%d}", "make one: breakglass keys new"
        )
    if verb not in caller.allow:
        raise Forbidden(f'{caller.name} may not "{verb}"', f"add it to callers.{caller.name}.allow")
    if caller.vms is not None and vm.name not in caller.vms:
        raise Forbidden(f"{caller.name} may not touch {vm.name}", f"add it to callers.{caller.name}.vms")


def _warnings(caller: Caller, vm: Vm, now: float) -> list[str]:
    found = []
    if caller.not_after and caller.not_after - datetime.fromtimestamp(now, UTC) < WARN_BEFORE:
        found.append(f"the key of {caller.name} expires on {caller.not_after:%Y-%m-%d}: breakglass keys new")
    if vm.any_host_key:
        found.append(f"the host key of {vm.name} is not checked: pin vms.{vm.name}.host_key")
    return found


def _rejected(request: PveRequest, msg_id: str, caller: str, began: float, config: Config) -> Response:
    asked = Asked(request.verb[:64], request.vm[:64], msg_id, caller)
    if request.verb not in VERBS:
        sentence, hint = f"no such verb: {_quoted(request.verb)}", f"one of {', '.join(VERBS)}"
    elif request.vm in config.vms_off:
        sentence, hint = f"{request.vm} is off: its configuration has a fault", "see the handler's log, mend it, reload"
    else:
        named = f"no such VM: {_quoted(request.vm)}" if request.vm else "there are several VMs; name one"
        sentence, hint = named, f"one of {', '.join(config.vms)}"
    audit.request(began, "rejected", caller, ascii(asked.verb[:32])[1:-1], ascii(asked.vm[:32])[1:-1], msg_id)
    return _answered(unsettled(asked, "rejected", "rejected", f"{sentence}; nothing was sent", hint))


def _quoted(text: str) -> str:
    return json.dumps(text[:40])


def _answered(answer: Answer) -> Response:
    if answer.outcome == "id-reused":
        return _error(_id_reused(answer))
    return JSONResponse(dict(answer.body), answer.status)


def _id_reused(answer: Answer) -> BreakglassError:
    verdict = answer.body.get("verdict")
    sentence = verdict["sentence"] if isinstance(verdict, dict) else "this id already belongs to something else"
    return IdReused(str(sentence), "use a new id")


async def _lines(run: Run, stopping: asyncio.Event) -> AsyncIterator[bytes]:
    async for message in run.stream(stopping):
        yield json.dumps(message, separators=(",", ":")).encode() + b"\n"


def _error(error: BreakglassError) -> Response:
    return JSONResponse(error.as_json(), error.status)


async def told(request: Request, error: Exception) -> Response:
    """Answer with the error of a request that never became a verb; it was signed, so it may be specific."""
    assert isinstance(error, BreakglassError)
    signed, _, began = signed_request(request.scope["state"])
    audit.request(began, error.code, signed.caller.name, msg_id=signed.id)
    return _error(error)


async def not_routed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        return _error(MethodNotAllowed(f"{request.method} is not for this address", "see docs/protocol.md"))
    return _error(NotFound("there is nothing at this address", "see docs/protocol.md"))

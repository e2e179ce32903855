"""The ASGI application: routes, lifespan, errors to HTTP. Wiring only."""

import asyncio
import importlib
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
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
from .errors import BreakglassError, Forbidden, IdReused, MethodNotAllowed, NotFound
from .gate import Gate, signed_request
from .outcomes import Answer, Asked, unsettled
from .runs import Run
from .signing import Caller, check_age
from .verbs import VERBS

if TYPE_CHECKING:
    from .pve import Host

PAGE = Path(__file__).parent.parent / "static_site"
WARN_BEFORE = timedelta(days=14)


class Service:
    """What the routes share: the configuration, the roads to the hosts, the verbs under way."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.stopping = asyncio.Event()
        self.runs: set[asyncio.Task[None]] = set()
        self._hosts: dict[str, Host] = {}
        self._ready = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks.append(asyncio.create_task(self._open_roads()))

    async def _open_roads(self) -> None:
        """Bring up the SSH side; in a thread, so that the first answers need not wait for its import."""
        await asyncio.sleep(0.05)
        pve = await asyncio.to_thread(importlib.import_module, "handler.pve")
        self._hosts = {name: pve.Host(vm) for name, vm in self.config.vms.items()}
        self._tasks += [asyncio.create_task(host.keep_open()) for host in self._hosts.values()]
        self._ready.set()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(host.close() for host in self._hosts.values()))

    async def run(self, asked: Asked, request: PveRequest, vm: Vm, began: float) -> Run:
        """Begin a verb and keep hold of it until it ends, whoever watches."""
        await self._ready.wait()
        run = Run(self._hosts[vm.name], asked, request, vm, began)
        self.runs.add(run.task)
        run.task.add_done_callback(self.runs.discard)
        return run

    def health(self) -> dict[str, object]:
        return {
            "ok": True,
            "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "version": VERSION,
            "config": self._config_health(),
            "vms": [self._vm_health(vm) for vm in self.config.vms.values()] + self._vms_off(),
            "chat": "off",
        }

    def _config_health(self) -> str:
        count = len(self.config.problems)
        return f"degraded: {count} problem{'s' * (count > 1)}" if count else "ok"

    def _vms_off(self) -> list[dict[str, object]]:
        """Return the VMs whose entry has a fault; not those whose name is the fault, for that may be any text."""
        off = {name: vmid for name, vmid in self.config.vms_off.items() if is_vm_name(name)}
        return [{"name": name, "vmid": vmid, "proxmox": "config-error", "since": None} for name, vmid in off.items()]

    def _vm_health(self, vm: Vm) -> dict[str, object]:
        host = self._hosts.get(vm.name)
        since = host.since if host else None
        at = datetime.fromtimestamp(since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if since else None
        return {"name": vm.name, "vmid": vm.vmid, "proxmox": host.health if host else "not-checked", "since": at}


def create_app(config: Config, on_start: Callable[[Service], None] = lambda _: None) -> ASGIApp:
    """Return the whole application; `on_start` is given the running service (the server tells it when to stop)."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Service]]:
        service = Service(config)
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
    return Gate(app, lambda: config)


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
    vm = chosen_vm(service.config, asked_for)
    if asked_for.verb not in VERBS or vm is None:
        return _rejected(asked_for, signed.id, caller.name, began, service.config)
    allowed(caller, asked_for.verb, vm, now)
    warnings = tuple(_warnings(caller, vm, now))
    asked = Asked(asked_for.verb, vm.name, signed.id, caller.name, by_hand(vm, asked_for.verb), warnings)
    run = await service.run(asked, asked_for, vm, began)
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

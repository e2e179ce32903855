"""The ASGI application: routes, lifespan, errors to HTTP. Wiring only."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from ..base import audit
from ..base.errors import BreakglassError, MethodNotAllowed, NotFound
from ..chat.route import chat
from ..chat.service import ChatService
from ..config.model import Config
from ..service import Load, Service
from ..web.alert import alert
from ..web.echo import arrived, echo
from ..web.gate import Gate, SignedRequest
from ..web.page import GzipAnswers, PageFiles
from ..web.pair import Desk, pair
from ..web.pve import pve
from ..web.reads import ReadsUnderWay
from ..web.replies import error_reply
from ..web.report import report
from .health import find_condition, health, ready
from .metrics import Scrapes, metrics
from .telling import TellingService

PAGE = Path(str(files("breakglass.static_site") / "index.html")).parent


def create_app(config: Config, load: Load, on_start: Callable[[Service, ChatService], None]) -> ASGIApp:
    """Return the whole application. It calls `on_start` when the service runs and chat is starting."""
    chatting = ChatService()
    service = TellingService(config, load, chatting, lambda own: find_condition(own, chatting).faults)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, object]]:
        service.start()
        on_start(service, chatting)
        state = {"reads": ReadsUnderWay(), "scrapes": Scrapes(), "desk": Desk(), "reports": set[str]()}
        yield {"service": service, "chatting": chatting, "telling": service.telling, **state}
        await service.stop()

    routes = [
        Route("/pve", pve, methods=["POST"], middleware=[Middleware(GzipAnswers)]),
        Route("/alert/{source}", alert, methods=["POST"]),
        Route("/chat", chat, methods=["POST"]),
        Route("/report", report, methods=["POST"], middleware=[Middleware(GzipAnswers)]),
        Route("/echo", echo, methods=["POST"]),
        Route("/echo/arrived", arrived, methods=["POST"]),
        Route("/pair", pair, methods=["POST"]),
        Route("/health", health, methods=["GET"], middleware=[Middleware(GzipAnswers)]),
        Route("/ready", ready, methods=["GET"]),
        Route("/metrics", metrics, methods=["GET"], middleware=[Middleware(GzipAnswers)]),
        Mount("/", PageFiles(directory=PAGE, html=True)),
    ]
    handlers = {BreakglassError: on_error, HTTPException: on_routing_error}
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)
    return Gate(app, lambda: service.config)


async def on_error(request: Request, error: Exception) -> Response:
    """Answer with an error. The request is authenticated, so the answer may be specific."""
    assert isinstance(error, BreakglassError)
    arrival: SignedRequest = request.state.signed
    signed = arrival.signed
    audit.request(arrival.began, error.code, signed.caller.name, msg_id=signed.id, why=error.why)
    return error_reply(error)


async def on_routing_error(request: Request, error: Exception) -> Response:
    """Answer 404 or 405 in the format of the other errors."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        wrong = MethodNotAllowed(f"this address does not accept {request.method}", "see breakglass docs api")
        # only errors of the page's files have no headers
        return error_reply(wrong, error.headers or {"allow": "GET, HEAD"})
    return error_reply(NotFound("there is nothing at this address", "see breakglass docs api"))

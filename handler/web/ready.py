"""GET /ready: whether all parts work, for a monitor. A liveness check asks /health: a restart mends none of this."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..auth.signing import bearer_token, verify_bearer
from ..condition import GENERAL
from ..errors import Unauthorized
from ..service import Service
from .gate import proving_headers
from .health import find_condition

MOST_REASONS = 100


async def ready(request: Request) -> Response:
    """Answer 200, or 503 with the reasons. Only the metrics' token makes the reasons name hosts, VMs and callers."""
    service: Service = request.state.service
    faults = find_condition(service, request.state.chatting).faults
    if not faults:
        return JSONResponse({"ready": True})
    is_named = _may_know_names(request, service)
    reasons = list(dict.fromkeys(fault.sentence if is_named else GENERAL[fault.code] for fault in faults))
    return JSONResponse({"ready": False, "reasons": reasons[:MOST_REASONS]}, 503)


def _may_know_names(request: Request, service: Service) -> bool:
    """Tell whether a request has the metrics' token. Any other one is ignored: a probe with an old one still works."""
    token = bearer_token(proving_headers(request.scope))
    if token is None:
        return False
    try:
        verify_bearer(service.config.metrics, token)
    except Unauthorized:
        return False
    return True

"""GET /ready: whether all of it works, for a monitor. Probes ask /health: a restart mends nothing of what this says."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..service import Service
from .health import find_condition

MOST_REASONS = 100


async def ready(request: Request) -> Response:
    """Answer 200, or 503 with the reasons. Needs no authentication; without it, the reasons name nothing."""
    service: Service = request.state.service
    faults = find_condition(service).faults
    if not faults:
        return JSONResponse({"ready": True})
    reasons = list(dict.fromkeys(fault.general for fault in faults))
    return JSONResponse({"ready": False, "reasons": reasons[:MOST_REASONS]}, 503)

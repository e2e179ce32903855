"""`breakglass doctor`: look at the whole path of a request, before it is needed. It changes no VM's power."""

import argparse
import asyncio
import json
import os
import time

from ..client import Signer
from ..config.load import config_path
from ..doctor.findings import ERROR, WARNING, Finding
from ..doctor.looks import LOOKS
from ..doctor.visit import Visit
from ..doctor.walk import walk
from .check import find_problems
from .environment import caller_key, handler_url
from .output import say

_LEVELS = {"ok": 0, WARNING: 1, ERROR: 2}


def doctor(arguments: argparse.Namespace) -> int:
    """Print one line a finding; return 0, 1 with a warning, or 2 with an error."""
    return asyncio.run(_run(make_visit(arguments), arguments.json))


def make_visit(arguments: argparse.Namespace) -> Visit:
    """Return what to look at: the configuration, if there is one, and the handler whose URL is known."""
    path = config_path()
    config, problems = find_problems(path) if path.exists() else (None, ())
    url = handler_url(os.environ) if "BREAKGLASS_URL" in os.environ else ""
    signer = Signer(url, caller_key(os.environ)) if url and "BREAKGLASS_SECRET_FILE" in os.environ else None
    file = path if path.exists() else None
    return Visit(file, config, problems, signer, url, arguments.vm or "", {}, time.time(), dict(os.environ))


async def _run(visit: Visit, as_json: bool) -> int:
    found: list[Finding] = []
    async for finding in walk(visit, LOOKS):
        found.append(finding)
        if not as_json:
            say(str(finding))
    if as_json:
        say(json.dumps({"findings": [finding.as_json() for finding in found]}))
    return max((_LEVELS[finding.level] for finding in found), default=0)

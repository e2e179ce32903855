"""Requests a URL after a doctor without errors, as Healthchecks expects. Never changes the exit code."""

import contextlib
import http.client
import os
import ssl
from functools import partial
from urllib.parse import urlsplit

from ..base.threads import run_in_thread
from ..client import connect
from .environment import Environment, checked_url, read_private
from .output import CommandError, complain, reason, remark

SECONDS = 10.0


async def ping(file: str, has_error: bool, tells_failures: bool, environment: Environment) -> None:
    """Request the URL in a file, or URL/fail after an error if that is enabled. Warn if it fails.

    The URL is a secret, because anyone who has it can report success. So no message contains it.
    """
    if has_error and not tells_failures:
        return
    try:
        url = _read_url(file, environment)
        if url:
            await _get(_failure_url(url) if has_error else url)
    except CommandError as error:
        complain(f"warning: the ping failed: {error.message}", error.hint)


def _read_url(file: str, environment: Environment) -> str:
    """Return the URL in the file; an empty text, with a remark, if there is no file."""
    name, hint = "the file of --ping", "write one URL into it, with mode 600"
    if not os.path.lexists(file):
        remark(f'breakglass: nothing was pinged, because there is no file "{file}"')
        return ""
    text = read_private(name, file, hint, environment)
    try:
        checked_url("--ping", text)
    except CommandError:
        raise CommandError(f"{name} has no http or https URL in it", hint) from None
    return text.partition("#")[0]


def _failure_url(url: str) -> str:
    """Return the URL that reports a failure, with /fail after the path."""
    parts = urlsplit(url)
    return parts._replace(path=f"{parts.path.rstrip('/')}/fail").geturl()


async def _get(url: str) -> None:
    """Send one GET without following redirects. Raises CommandError unless the status is 2xx.

    A slow name server or answer delays only its own thread.
    """
    host = urlsplit(url).hostname
    try:
        status = await run_in_thread(partial(_status_of, url), SECONDS)
    except TimeoutError:
        raise CommandError(f"{host} did not answer within {SECONDS:g} s", "check the URL in the file") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise CommandError(f"{host} did not answer: {_why(error)}", "check the URL in the file") from None
    if not 200 <= status < 300:
        hint = "a redirect is not followed: write the address that it leads to" if 300 <= status < 400 else ""
        raise CommandError(f"{host} answered HTTP {status}", hint or "check the URL in the file")


def _status_of(url: str) -> int:
    parts = urlsplit(url)
    with contextlib.closing(connect(url, SECONDS)) as connection:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", target, headers={"user-agent": "breakglass-doctor"})
        return connection.getresponse().status


def _why(error: Exception) -> str:
    """Return what went wrong, without the URL."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    return reason(error) if isinstance(error, OSError) else type(error).__name__

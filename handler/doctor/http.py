"""HTTP for doctor: one bounded request without redirects, and which program has answered."""

import contextlib
import http.client
import json
import re
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from ..base.findings import Finding
from ..base.manager import manager
from ..client import Signer, connect, new_id, send
from .visit import HANDLER, about

SECONDS = 5.0  # for each step of a request
_MOST_BYTES = 2 * 1024 * 1024
_LOGIN = re.compile(rb"<input[^>]+type=.?password|<form[^>]+(?:login|sign-?in|oauth|saml)", re.IGNORECASE)
NO_LOGIN = (
    "configure the proxy to ask for no login at /pve, /chat, /alert/, /echo and /health: requests "
    "are signed, and a sender can't log in"
)

_, _, found_error = about(HANDLER)


class Broken(Exception):
    """Raised if the rest of a walk can't be done; `finding` says why."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.sentence)
        self.finding = finding


@dataclass(frozen=True)
class Reply:
    """One HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    began: float  # Unix times of the request and of the first bytes of the answer
    answered: float

    @property
    def json(self) -> Mapping[str, object]:
        """The JSON object in the body, or an empty one."""
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}

    @property
    def error(self) -> Mapping[str, object]:
        """The handler's error object, or an empty one if the answer is not a handler's error."""
        found = self.json.get("error")
        return found if isinstance(found, dict) and isinstance(found.get("code"), str) else {}


def exchange(
    url: str,
    method: str,
    path: str,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    seconds: float = SECONDS,
) -> Reply:
    """Send one request and return its answer. Raises OSError or HTTPException if no answer arrives in time.

    Raises Broken if a proxy answers by itself although a handler has answered at /health, because then no other answer
    proves anything.
    """
    until = time.monotonic() + seconds
    with _send(url, method, path, body, headers or {}, seconds) as (head, response):
        reply = replace(head, body=_read(response, until))
    if path != "/health" and is_unstable(reply):
        raise Broken(judge_unstable(url, reply))
    return reply


def is_unstable(reply: Reply) -> bool:
    """Return whether a proxy has answered by itself, because it reached no handler or takes no more requests."""
    return reply.status in (429, 502, 503) and not reply.json  # a handler's own answer is an object


def judge_unstable(url: str, reply: Reply) -> Finding:
    """Return the finding about a proxy that passes only some requests on."""
    if reply.status in (429, 503):
        sentence = f"The proxy at {url} refuses some requests by itself (HTTP {reply.status}), as a limit of them does."
        fix = "the proxy's error log names the limit; nginx: raise burst of limit_req, or remove limit_req there"
        return found_error("proxy-limits", sentence, fix)
    sentence = f"The proxy at {url} reaches the handler for some requests only (HTTP {reply.status} for others)."
    fix = "the proxy's error log names the server that fails: start the handler there, or remove it from upstream"
    return found_error("upstream-dead", sentence, fix)


def send_signed(signer: Signer, path: str, fields: Mapping[str, object], timeout: float = SECONDS) -> Reply:
    """Send one signed request; if the clocks differ, send it again with the handler's challenge."""
    msg_id, accept = new_id(), "application/json"
    reply = exchange(signer.url, "POST", path, *signer.request(msg_id, fields, accept), timeout)
    if "challenge" not in reply.error:
        return reply
    fields = {**fields, "challenge": reply.error["challenge"]}
    return exchange(signer.url, "POST", path, *signer.request(msg_id, fields, accept), timeout)


def stream(
    url: str, path: str, body: bytes, headers: Mapping[str, str], seconds: float = SECONDS
) -> Iterator[tuple[float, Reply | bytes]]:
    """Yield the head of an answer, then its lines, each with its arrival time (time.monotonic()).

    Raises Broken as `exchange` does. The head of an error has the body too.
    """
    with _send(url, "POST", path, body, headers, seconds) as (head, response):
        if head.status != 200:
            head = replace(head, body=response.read(_MOST_BYTES))
        if is_unstable(head):
            raise Broken(judge_unstable(url, head))
        yield time.monotonic(), head
        while line := response.readline(65536):
            yield time.monotonic(), line


@contextlib.contextmanager
def _send(
    url: str, method: str, path: str, body: bytes, headers: Mapping[str, str], seconds: float
) -> Iterator[tuple[Reply, http.client.HTTPResponse]]:
    """Send a request. Return the head of its answer, and the response for reading the rest."""
    began = time.time()
    sent = {"accept-encoding": "identity", "user-agent": "breakglass-doctor", **headers}
    connection = connect(url, seconds)
    with contextlib.closing(connection), send(connection, url, method, path, body, sent) as response:
        found = {name.lower(): value for name, value in response.getheaders()}
        yield Reply(response.status, found, b"", began, time.time()), response


def _read(response: http.client.HTTPResponse, until: float) -> bytes:
    """Return the part of a body that arrives in time and is within the size limit."""
    found = bytearray()
    while part := response.read1(65536):
        found += part
        if len(found) > _MOST_BYTES or time.monotonic() > until:
            raise TimeoutError("the answer does not end")
    return bytes(found)


def failure(problem: Exception) -> str:
    """Return why a request got no answer, as the end of a sentence."""
    if isinstance(problem, TimeoutError):
        return "it did not answer in time"
    if isinstance(problem, ConnectionError | http.client.RemoteDisconnected):
        return "it closed the connection without an answer"
    if isinstance(problem, ssl.SSLError):
        return f"TLS failed ({problem.reason or problem})"
    return f"the answer is not HTTP ({problem or type(problem).__name__})"


def judge_stranger(url: str, path: str, reply: Reply) -> Finding:
    """Return the finding about an answer that did not come from a handler."""
    what = f"{url.rstrip('/')}{path}"
    location = reply.headers.get("location", "")
    if reply.status in (301, 302, 303, 307, 308):
        target = urlsplit(location)
        moved = target._replace(scheme="https", query="", fragment="").geturl().removesuffix(path)
        if target.netloc and target.path == urlsplit(what).path:
            is_tls = target.scheme == "https" and url.startswith("http://")
            sentence = f"{what} redirects to {'https' if is_tls else f'another name, {target.netloc}'}"
            sentence += ", but requests don't follow redirects."
            return found_error("redirected", sentence, f"export BREAKGLASS_URL={moved}")
        return found_error("login-page", f"{what} redirects to {location}, as a login in front of it does.", NO_LOGIN)
    if reply.status in (401, 403, 407) or _LOGIN.search(reply.body):
        sentence = f"{what} answers HTTP {reply.status} with the proxy's own login page or refusal."
        return found_error("login-page", sentence, NO_LOGIN)
    if reply.status in (502, 503, 504):
        sentence = f"Something answers at {url}, but it does not reach the handler behind it (HTTP {reply.status})."
        fix = f"{manager().start}; if it runs, set the port behind the proxy (proxy_pass) to the handler's PORT"
        return found_error("handler-down", sentence, fix)
    if reply.status == 400 and b"HTTPS port" in reply.body:
        return not_plain(url)
    if reply.status == 400 and b"SSL certificate" in reply.body:
        sentence = f"The proxy at {url} requires a client certificate, which neither senders nor the page have."
        return found_error("client-certificate", sentence, "nginx: ssl_verify_client off; Caddy: remove client_auth")
    if reply.status in (404, 405) and path not in ("/", "/health"):  # but /health answered a moment ago
        sentence = f"A handler answers at {url}, but the proxy does not pass {path} on (HTTP {reply.status})."
        fix = "have the proxy pass every path and method on to the handler: breakglass docs proxies has whole examples"
        return found_error("path-blocked", sentence, fix)
    if reply.status == 404 and reply.error and urlsplit(url).path in ("", "/"):
        sentence = f"A handler answers at {url}, but the proxy changes the path of requests, so it does not know them."
        fix = "nginx: write proxy_pass without a path, as http://127.0.0.1:8080; breakglass docs proxies has examples"
        return found_error("path-changed", sentence, fix)
    if reply.status == 404:
        sentence = f"There is a web server at {url}, but no handler below that path (HTTP 404)."
        fix = "set BREAKGLASS_URL to the whole address, with the path (prefix) below which the proxy serves the handler"
        return found_error("wrong-prefix", sentence, fix)
    sentence = f"Another program answers at {what} (HTTP {reply.status}), not a handler."
    fix = "set BREAKGLASS_URL to the handler's address and port; compare HOST and PORT of breakglass.service"
    return found_error("other-program", sentence, fix)


def not_plain(url: str) -> Finding:
    """Return the finding about an http URL whose port speaks TLS."""
    sentence = f"{url} is http, but its port speaks TLS."
    return found_error("needs-https", sentence, f"export BREAKGLASS_URL=https{url.removeprefix('http')}")

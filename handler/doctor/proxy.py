"""Checks that a proxy in front of the handler does not change requests and answers."""

import hashlib
import http.client
import time
from collections.abc import Iterator, Mapping

from ..auth.signing import BEARER, GRAFANA, GRAFANA_SIGNATURE, GRAFANA_TIMESTAMP
from ..base.findings import Finding
from ..base.manager import manager
from ..client import Signer, new_id
from ..config.server import is_loopback, normal_url
from .http import Broken, Reply, exchange, failure, judge_stranger, send_signed, stream
from .visit import HANDLER, Visit, about

_NEEDED_SECONDS = 12  # a stream has a line at least every 10 s
_STREAM_SECONDS = 2
_SENT = {  # headers like those of senders; POST /echo/arrived does not interpret them
    "webhook-id": "msg_doctor_looks_at_headers",
    "webhook-timestamp": "1795526935",
    "webhook-signature": "v1,+/" + "A" * 41 + "= v1,+/" + "B" * 41 + "=",
    GRAFANA_SIGNATURE: "0123456789abcdef" * 4,
    GRAFANA_TIMESTAMP: "1795526935",
    "authorization": "Bearer bgt_" + "Az0_-9" * 8,
    "accept": "application/x-ndjson, */*;q=0.5",
    "prefer": "wait=60",
}
_UNBUFFERED = "nginx: proxy_buffering off; Caddy: flush_interval -1; breakglass docs proxies has whole examples"

found_ok, found_warning, found_error = about(HANDLER)
_WHOLE_BODIES = "have the proxy pass bodies on byte by byte: disable what drops, rewrites or filters them there"


def look_at_requests(visit: Visit, url: str, chat: str) -> Iterator[Finding]:
    """Yield how headers and bodies changed on the way. Raises Broken if no signed request can arrive."""
    # A proxy that parses and rewrites JSON would not write it in this form.
    body = b'{ "a":[1.0, "\\u00e9\xc3\xa9"],\t"to":  ""}\r\n'
    try:
        reply = exchange(url, "POST", "/echo/arrived", body, _SENT)
    except TimeoutError:
        sentence = (
            f"At {url}, a request without a body is answered, but one with a body is not, so the body does not arrive."
        )
        raise Broken(found_error("body-changed", sentence, _WHOLE_BODIES)) from None
    arrived = reply.json.get("headers")
    if not isinstance(arrived, dict):
        raise Broken(judge_stranger(url, "/echo/arrived", reply))
    yield from _judge_headers(visit, url, arrived)
    if "x-forwarded-for" in arrived and visit.config and not visit.config.proxies:
        what = "A proxy is in front of the handler, but [server] proxies does not name it, so the log shows its address"
        fix = f'write proxies = ["127.0.0.1"], or the proxy\'s own address, below [server], then run {manager().reload}'
        yield found_warning("proxy-not-named", f"{what} as that of each caller.", fix)
    if reply.json.get("body") != _digest(body):
        sentence = f"The body of a request is changed on the way to {url}, so no signature is valid."
        raise Broken(found_error("body-changed", sentence, _WHOLE_BODIES))
    yield _look_at_sizes(visit, url, chat)
    for source in dict.fromkeys(rule.source for rule in visit.config.alerts) if visit.config else ():
        path = f"/alert/{source}"
        reply = exchange(url, "GET", path)  # the handler refuses GET; a POST would count as a sender's mistake
        if not reply.error:
            yield judge_stranger(url, path, reply)


def _judge_headers(visit: Visit, url: str, arrived: Mapping[str, object]) -> Iterator[Finding]:
    unused = _unused(visit)
    wanted = {name: _digest(value.encode()) for name, value in _SENT.items() if name not in unused}
    dropped = [name for name in wanted if name not in arrived]
    changed = [name for name in wanted if name in arrived and arrived[name] != wanted[name]]
    for names, what in ((dropped, "dropped"), (changed, "changed")):
        if not names:
            continue
        listed = ", ".join(names)
        fix = f"have the proxy pass on unchanged: {listed}. nginx: remove each proxy_set_header of one of them, and "
        fix += "proxy_pass_request_headers off"
        kind = found_warning if names == ["prefer"] else found_error
        found = kind(f"headers-{what}", f"Headers of a request are {what} on the way to {url}: {listed}.", fix)
        if any(name.startswith("webhook-") for name in names):
            raise Broken(found)
        yield found
    if not dropped and not changed:
        yield found_ok("headers", "The headers of signatures arrive unchanged.")


def _unused(visit: Visit) -> set[str]:
    """Return the headers that no caller needs. A proxy may use Authorization for itself."""
    methods = {caller.auth_method for caller in visit.config.callers} if visit.config else {BEARER, GRAFANA}
    grafana = set() if GRAFANA in methods else {GRAFANA_SIGNATURE, GRAFANA_TIMESTAMP}
    return grafana | (set() if BEARER in methods else {"authorization"})


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def _look_at_sizes(visit: Visit, url: str, chat: str) -> Finding:
    """Return findings about whether the longest bodies that the handler accepts get through."""
    has_alerts = visit.config is None or bool(visit.config.alerts)
    for what, kib, is_needed in (("verbs", 16, True), ("chat", 256, chat != "none"), ("alerts", 1024, has_alerts)):
        if not is_needed:
            continue
        try:
            reply = exchange(url, "POST", "/echo/arrived", bytes(kib * 1024))
        except (OSError, http.client.HTTPException):
            reply = None  # the connection was closed while the body was being sent
        if reply is None or reply.json.get("bytes") != kib * 1024:
            sentence = f"The proxy at {url} refuses bodies of {kib} KiB, which {what} can have."
            fix = "nginx: client_max_body_size 1m; Caddy: remove request_body max_size"
            return found_error("body-limited", sentence, fix)
    return found_ok("bodies", "Bodies arrive whole, even the longest that the handler accepts.")


def look_at_lines(signer: Signer, msg_id: str = "", **fields: str) -> Finding:
    """Return a finding about whether each line of a stream arrives without delay, as in a browser.

    If the clocks differ, the request is sent again with the same id, and the handler's challenge in `fields`.
    """
    fields, times, lines = {"seconds": str(_STREAM_SECONDS), **fields}, [], []
    msg_id = msg_id or new_id()
    body, headers = signer.request(msg_id, fields, "application/x-ndjson")
    for at, part in stream(signer.url, "/echo", body, headers | {"accept-encoding": "gzip, br"}, 5.0 + _STREAM_SECONDS):
        if isinstance(part, Reply):
            if (challenge := part.error.get("challenge")) and "challenge" not in fields:
                return look_at_lines(signer, msg_id, challenge=str(challenge))
            if encoding := part.headers.get("content-encoding"):
                sentence = f"The proxy at {signer.url} compresses streams ({encoding}), which delays their lines."
                fix = "nginx: take application/x-ndjson out of gzip_types"
                return found_error("compressed", sentence, fix)
            if "x-ndjson" not in part.headers.get("content-type", ""):
                sentence = f"The proxy at {signer.url} changes the answer's type: {part.headers.get('content-type')}."
                return found_error("stream-changed", sentence, "have the proxy pass Accept and Content-Type on")
            continue
        times.append(at)
        lines.append(part)
    if not lines or not lines[-1].startswith(b'{"type":"result"'):
        sentence = f"A stream through {signer.url} ends before its last line."
        fix = "nginx: proxy_read_timeout 120s; Caddy: as in breakglass docs proxies"
        return found_error("stream-cut", sentence, fix)
    if times[-1] - times[0] < _STREAM_SECONDS / 2:
        sentence = f"The proxy at {signer.url} holds lines back until the answer ends, so a long verb looks lost."
        return found_error("buffered", sentence, _UNBUFFERED)
    return found_ok("lines", "Each line of an answer arrives when it is sent.")


def is_direct(url: str) -> bool:
    """Return whether a URL leads directly to the handler, because it is plain HTTP on this machine."""
    return url.startswith("http:") and is_loopback(normal_url(url) or "")


def look_at_patience(signer: Signer, seconds: int) -> Finding:
    """Return a finding about whether an answer may take long while nothing is sent."""
    began = time.monotonic()
    try:
        reply = send_signed(signer, "/echo", {"seconds": str(seconds)}, timeout=seconds + 3.0)
        why = f"HTTP {reply.status}"
    except (OSError, http.client.HTTPException) as problem:
        reply, why = None, failure(problem)
    took = time.monotonic() - began
    if reply is not None and reply.status == 200 and "caller" in reply.json:
        return found_ok("patience", f"An answer may take {seconds} s; doctor did not try longer.")
    fix = "nginx: proxy_read_timeout 120s; others: raise the limit for an answer to 120 s (breakglass docs proxies)"
    sentence = f"The proxy at {signer.url} cuts an answer after {took:.0f} s ({why})"
    if took < _NEEDED_SECONDS:
        return found_error("cut-short", f"{sentence}, and a stream may send nothing for 10 s.", fix)
    return found_warning("cut-short", f"{sentence}; a client that reads no lines may have to wait 45 s.", fix)

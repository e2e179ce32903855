"""Checks whether what a running handler reports at /health is enough for a rescue."""

import http.client
import socket
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime

from ..agents.pve.words import VERSION
from ..base.findings import STATES, Finding, error
from ..base.manager import manager
from ..chat.service import PLACE
from .http import Broken, Reply, exchange, failure, is_unstable, judge_stranger, judge_unstable, not_plain
from .tls import speaks_tls
from .visit import HANDLER, KEEP_CLOCK, Visit, about

_MOST_OFF, _NOTABLE_OFF = 300, 30  # seconds; a signature may be at most 300 s old or early
_REACH_SECONDS = 3.0
_MORE_TRIES = 3  # if a proxy answers instead of the handler, which may be down or one of several

found_ok, found_warning, found_error = about(HANDLER)


def read_health(url: str) -> Reply:
    """Return the answer of a handler's /health; raise Broken if no handler answers there."""
    try:
        reply = exchange(url, "GET", "/health")
    except (OSError, http.client.HTTPException) as problem:
        if url.startswith("http:") and speaks_tls(url):
            raise Broken(not_plain(url)) from None
        sentence = f"{url} accepts connections, but is not a handler: {failure(problem)}."
        fix = "set BREAKGLASS_URL to the handler's address and port; compare HOST and PORT of breakglass.service"
        raise Broken(found_error("other-program", sentence, fix)) from None
    if is_unstable(reply) and not all(is_unstable(exchange(url, "GET", "/health")) for _ in range(_MORE_TRIES)):
        raise Broken(judge_unstable(url, reply))
    found = reply.json
    if reply.status == 200 and isinstance(found.get("hosts"), dict) and isinstance(found.get("vms"), list):
        return reply
    raise Broken(judge_stranger(url, "/health", reply))


def judge_health(visit: Visit, url: str, reply: Reply) -> Iterator[Finding]:
    """Yield findings about the handler, its hosts and VMs, and chat, from its /health."""
    health = reply.json
    yield found_ok("answers", f"A handler answers at {url}, version {health.get('version')}.")
    if reply.headers.get("content-encoding"):
        sentence = f"The proxy of {url} compresses answers although the client has asked for none."
        yield found_error("compressed", sentence, "nginx: gzip off; and pass Accept-Encoding on unchanged")
    if health.get("version") != VERSION:
        sentence = f"The handler is version {health.get('version')}, and this command is {VERSION}."
        fix = f"after an upgrade, run {manager().restart}; otherwise install one version: breakglass docs upgrade"
        yield found_warning("other-version", sentence, fix)
    yield judge_clock(reply)
    yield from _judge_config(visit, str(health.get("config")))
    yield from _judge_hosts(visit, health)
    yield from _judge_chat(visit, str(health.get("chat")))
    if health.get("notify") == "failed":
        sentence = "The handler could not send a message to a receiver of [[notify]]."
        yield found_warning("notify-failed", sentence, "to see why, run breakglass notify test")


def vm_names(reply: Reply) -> list[str]:
    """Return the names of a handler's VMs that are not disabled."""
    vms = reply.json["vms"]
    assert isinstance(vms, list)
    return [str(vm["name"]) for vm in vms if isinstance(vm, dict) and vm.get("proxmox") != "disabled"]


def judge_clock(reply: Reply) -> Finding:
    """Compare the handler's clock with this machine's, to about one second."""
    try:
        theirs = datetime.fromisoformat(str(reply.json.get("time"))).timestamp()
    except ValueError:
        return found_warning(
            "clock-unknown", "The handler's answer does not contain the time.", "breakglass docs upgrade"
        )
    off = round(theirs + 0.5 - (reply.began + reply.answered) / 2)
    if abs(off) <= _NOTABLE_OFF:
        return found_ok("clock", "The clocks of the handler and of this machine agree.")
    side = "ahead of" if off > 0 else "behind"
    sentence = f"The handler's clock is {abs(off)} s {side} this machine's"
    fix = f"on the machine whose clock is wrong, {KEEP_CLOCK}"
    if abs(off) < _MOST_OFF:
        return found_warning("clock", f"{sentence}.", fix)
    return found_error("clock", f"{sentence}: signatures of senders and of curl are refused as stale.", fix)


def _judge_config(visit: Visit, config: str) -> Iterator[Finding]:
    file = visit.path or "/etc/breakglass/breakglass.toml"
    fix = f"breakglass check {file}; correct the errors that it names, then run {manager().reload}"
    if "rejected" in config:
        sentence = (
            f"The handler could not use its file at the last reload ({config}); the older configuration is in force."
        )
        yield found_error("reload-rejected", sentence, fix)
    if "degraded" in config:
        sentence = f"Parts of the handler's configuration are disabled ({config})."
        yield found_error("config-degraded", sentence, fix)
    if config == "ok":
        yield found_ok("config", "The handler uses its whole configuration.")


def _judge_hosts(visit: Visit, health: Mapping[str, object]) -> Iterator[Finding]:
    hosts, vms = health["hosts"], health["vms"]
    assert isinstance(hosts, dict)
    assert isinstance(vms, list)
    wanted = [vm for vm in vms if visit.vm in ("", vm.get("name"))]
    if visit.vm and not wanted:
        known = " or ".join(str(vm.get("name")) for vm in vms)
        fix = f"use {known}; if it is new, {manager().reload}"
        yield found_error("no-such-vm", f"The handler knows no VM {visit.vm}.", fix)
    served = {vm.host.name for vm in visit.vms}
    for name, host in hosts.items():
        if visit.vm == "" or name in served:
            judged = _judge_host(visit, str(name), str(host.get("state")), str(host.get("since")))
            yield replace(judged, place=f"host {name}")
    for vm in wanted:
        state, name = str(vm.get("proxmox")), str(vm.get("name"))
        host = visit.config.vms[name].host.name if visit.config and name in visit.config.vms else ""
        if state in ("not-allowed", "disabled") or (host == "" and state not in ("answering", "agent-outdated")):
            why, fix = STATES.get(state, (state, manager().reload))
            sentence = f"The handler can't act on {name}: {why}."
            yield error(f"VM {name}", state, sentence, fix.format(host, vm.get("vmid")))


def _judge_host(visit: Visit, name: str, state: str, since: str) -> Finding:
    if state == "answering":
        return found_ok("host-answering", f"The handler is connected to {name}.")
    if state == "agent-outdated":
        sentence = f"The host agent on {name} differs from the handler's own file; verbs work."
        return found_warning(state, sentence, f"breakglass host upgrade {name}")
    if state == "not-checked":
        return found_warning(state, f"The handler has not tried {name} yet.", "run doctor again in a minute")
    why, fix = STATES.get(state, (f"it says {state}", "breakglass docs runbook"))
    sentence = f"The handler is not connected to {name}: {why} ({state} since {since})"
    is_away = state in ("connection-refused", "no-route", "timeout", "lost", "name-not-found", "turned-away")
    if is_away and _reaches(visit, name):
        fix = f"{manager().reload}: the handler then connects again"
        return found_error(state, f"{sentence}; this machine reaches it.", fix)
    return found_error(state, f"{sentence}.", fix.format(name, ""))


def _reaches(visit: Visit, name: str) -> bool:
    """Return whether this machine can connect to a host that the handler can't reach."""
    host = visit.config.hosts.get(name) if visit.config else None
    if host is None:
        return False
    try:
        socket.create_connection((host.ssh.host, host.ssh.port), _REACH_SECONDS).close()
    except OSError:
        return False
    return True


def _judge_chat(visit: Visit, chat: str) -> Iterator[Finding]:
    log = f'to see why, look for "event": "chat in {manager().log}'
    wanted = visit.config is not None and visit.config.chat is not None and visit.environment.get(PLACE) != "off"
    if chat == "on":
        yield found_ok("chat", "Chat is on.")
    elif chat == "none" and wanted:
        what = "The configuration has [chat], but the running handler has no chat."
        yield found_error("no-chat", what, manager().reload)
    elif chat == "starting":
        yield found_warning("chat-starting", "Chat is being started.", "run doctor again in a minute")
    elif chat == "disabled":
        fix = f"correct the errors that breakglass check names, then run {manager().reload}"
        yield found_error("chat-disabled", "Chat is disabled: [chat] has errors.", fix)
    elif chat == "chat-not-isolated":
        what = "Chat is disabled: claude can't be isolated from the handler."
        yield found_error(chat, what, log)
    elif chat != "none":
        yield found_error("chat-failed", f"Chat is configured, but does not work ({chat}).", log)

"""Checks chat: everything that a turn needs besides a host. The verbs work without chat."""

import asyncio
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace

from ..base.findings import Finding
from ..base.threads import run_in_thread
from ..chat.command import list_flags
from ..chat.job import Line
from ..chat.program import RESTART, ask_probe, find_program
from ..chat.service import PLACE
from ..config.model import ChatSettings, Config
from ..config.warnings import warn_of_chat
from .handler import reinstall
from .model_api import look_at_model_api
from .sessions import look_at_sessions
from .visit import CHAT, CHAT_UNITS, Visit, about

SECONDS = 8.0  # the time for finding claude's program
TESTED = "2.1.331"
_VERSION = re.compile(r"([0-9]{1,6}\.[0-9]{1,6}\.[0-9]{1,6})[^\n]{0,40}")
_MOST = 1 << 20  # characters of the program's output
_INSTALL = f"install it where every user may run it: npm install -g @anthropic-ai/claude-code@{TESTED}"

found_ok, found_warning, found_error = about(CHAT)


async def look_at_chat(visit: Visit, found: list[Finding]) -> None:
    """Add the problems of chat, or one finding that chat is not configured."""
    found += visit.problems_of(CHAT)
    config = visit.config
    if config is None or config.chat is None:
        if config is not None and not found:
            found.append(found_ok("no-chat", "Chat is not configured."))
        return
    place = visit.environment.get(PLACE, "")
    if place == "off":
        found.append(found_ok("chat-off", f"Chat is configured, and {PLACE}=off disables it at this handler."))
        return
    found += _find_settings(config)
    looks = (_look_at_turns(visit, config.chat, place), look_at_sessions(config.chat.sessions_dir))
    for findings in await asyncio.gather(*looks, look_at_model_api(config.chat.api)):
        found += findings


def _find_settings(config: Config) -> Iterator[Finding]:
    talkers = [caller for caller in config.callers if "chat" in caller.allow]
    if not talkers:
        what = "No caller may chat, so nothing can use [chat]."
        yield found_warning("chat-without-caller", what, 'add "chat" to allow of a caller')
    guests = [vm for vm in config.vms.values() if vm.guest is not None]
    for vm in (vm for vm in guests if not vm.guest_key):
        what = f"claude has no key for the guest {vm.name}, so claude can't log in there."
        fix = f"name its key as guest_key_file in [vms.{vm.name}]: run breakglass docs admin, and read Setting up chat"
        yield found_warning("guest-without-key", what, fix)
    for each in warn_of_chat(config):
        yield replace(each, place=CHAT, sentence=f"{each.sentence}.")
    for vm in guests:
        if vm.guest and not (vm.guest_host_keys or vm.guest_host_cas):
            what = f"The host key of the guest {vm.name} is not checked."
            fix = f'pin it in [vms.{vm.name}]: guest_host_key = ["…"], as this shows it: ssh-keyscan -p {vm.guest.port}'
            yield found_warning("guest-key-not-checked", what, f"{fix} {vm.guest.host}")


async def _look_at_turns(visit: Visit, settings: ChatSettings, place: str) -> list[Finding]:
    """Return whether a turn gets its sandbox and claude. A probe, started like a turn, finds that out."""
    by = f"by systemd, at {place}" if place else "by the handler itself, as its own user"
    try:
        program = await run_in_thread(lambda: find_program(settings), SECONDS)
        answer = await ask_probe(place, program, "claude")
    except (OSError, TimeoutError, ValueError) as lost:
        why = str(lost) if isinstance(lost, OSError) and str(lost) else "its program gave no answer"
        what = f"Turns are started {by}, but none can be started: {why}."
        fix = _start_units(visit) if place else reinstall()
        return [found_error("turn-not-started", what, fix)]
    return [judge_walls(answer, by)] + ([] if answer.get("fault") else [judge_claude(settings, answer)])


def _start_units(visit: Visit) -> str:
    """Return how to start turns by systemd again, also at the next boot."""
    masked = [unit.replace("@0", "@") for unit in CHAT_UNITS if "masked" in visit.units.get(unit, {}).values()]
    unmask = f"systemctl unmask {' '.join(masked)} && " if masked else ""
    return f"{unmask}systemctl enable {CHAT_UNITS[0]} && {RESTART}"


def judge_walls(answer: Line, by: str) -> Finding:
    """Return a finding about the sandbox, from the answer of a probe."""
    if answer.get("fault"):
        fault, code, fix = (str(answer.get(name, ""))[:500] for name in ("fault", "code", "fix"))
        return found_error(code or "sandbox-refused", f"Chat is disabled: {fault}. Turns are started {by}.", fix)
    return found_ok("chat-isolated", f"claude is isolated from the handler; turns are started {by}.")


# --- claude's program: it exists, it runs, and it knows the options that a turn uses ---


def judge_claude(settings: ChatSettings, answer: Line) -> Finding:
    """Return a finding about whether a turn could start claude, from the answer of a probe."""
    program = shutil.which(find_program(settings))
    if program is None:
        what = f"chat.command is \"{settings.command}\", which the handler's user can't run."
        fix = f"correct chat.command, or let that user run it: chmod 755 {settings.command}"
        return found_error("claude-missing", what, fix if "/" in settings.command else _INSTALL)
    version, options, failed = (str(answer.get(name, ""))[:_MOST] for name in ("version", "options", "failed"))
    match = _VERSION.fullmatch(version)
    if match is None:
        what = f"{program} does not say which version of claude it is" + (f": {failed[-200:]}." if failed else ".")
        return found_error("claude-failed", what, _INSTALL)
    missing = [flag for flag in list_flags() if not re.search(rf"{flag}(?![\w-])", options)]
    if missing:
        what = f"{program} is claude {match[1]}, which does not know {', '.join(missing)}: each turn would fail."
        return found_error("claude-version", what, _INSTALL)
    return found_ok("claude-installed", f"{program} is claude {match[1]}, and knows the options of a turn.")

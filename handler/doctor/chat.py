"""The look at chat: what a turn needs besides a host. Whatever is found here, the verbs work without."""

import asyncio
import shutil
from collections.abc import Iterator
from dataclasses import replace

from ..base.findings import ERROR, Finding
from ..base.threads import run_in_thread
from ..chat.launcher import LauncherClient
from ..claude.isolation import isolation_fault
from ..claude.sandbox import sandbox_fault
from ..config.model import ChatSettings, Config
from ..config.warnings import warn_of_guest
from .claude_program import look_at_claude
from .model_api import look_at_model_api
from .sessions import look_at_sessions
from .visit import CHAT, Visit, about

SECONDS = 10.0  # the launcher's own limit is shorter
_NAMESPACES = "sysctl user.max_user_namespaces kernel.apparmor_restrict_unprivileged_userns; allow namespaces"

found_ok, found_warning, found_error = about(CHAT)

# What a fault of the isolation is about, by words of it: the code, and what mends it.
_ISOLATION = (
    ("bwrap is not installed", "sandbox-missing", "apt-get install bubblewrap"),
    ("can't be run in a sandbox", "sandbox-refused", f"{_NAMESPACES}; in a container, see breakglass docs container"),
    ("can't be run behind its wall", "sandbox-refused", f"install claude where every user may run it; {_NAMESPACES}"),
    ("network namespace", "network-refused", "give root in the container CAP_SYS_ADMIN; see breakglass docs container"),
    ("chat.uids is not set", "uids-missing", 'add to [chat]: uids = "200000-200063"'),
    ("choose ids that have no name", "uids-taken", 'choose ids that nothing has: uids = "300000-300063"'),
    ("choose other ids", "uids-taken", 'choose ids that nothing has: uids = "300000-300063"'),
    ("must be root's", "sessions-owner", ""),
    ("can write or replace", "configuration-exposed", ""),
    ("the handler's user can change it", "program-exposed", ""),
    ("chat needs a path", "sessions-path", 'set [sessions] dir = "/var/lib/breakglass"'),
    ("sessions.dir can't be used", "sessions-unwritable", "see what is there: findmnt -T DIR; then mend sessions.dir"),
)

_SAID_BETTER = ("sessions-unwritable", "launcher-lost")  # by the look at sessions.dir itself


async def look_at_chat(visit: Visit, found: list[Finding]) -> None:
    """Add what is wrong with chat; nothing but that there is none, if the configuration has none."""
    found += visit.problems_of(CHAT)
    config = visit.config
    if config is None or config.chat is None:
        if config is not None and not found:
            found.append(found_ok("no-chat", "Chat is not configured."))
        return
    found += _find_settings(config)
    api = config.chat.api
    look = asyncio.create_task(look_at_model_api(api, visit.now)) if api is not None else None  # it may take longest
    isolation = await _look_at_isolation(config, config.chat, visit.launcher)  # makes the directories of sessions.dir
    can_wall = not any(finding.code.startswith("sandbox") for finding in isolation)
    parts = [look_at_sessions(config.chat.sessions_dir, visit.launcher is not None)]
    if can_wall or config.chat.shared_uid:
        parts.append(look_at_claude(config.chat, can_wall))
    sessions, *others = await asyncio.gather(*parts)
    others += [await look] if look is not None else []
    for findings in (*_without_repeats(isolation, sessions), *others):
        found += findings


def _without_repeats(isolation: list[Finding], sessions: list[Finding]) -> tuple[list[Finding], list[Finding]]:
    """Return the findings of the isolation and of sessions.dir, of which one fault makes both speak once."""
    ours, theirs = ({finding.code for finding in findings} for findings in (isolation, sessions))
    is_worse = any(finding.level == ERROR for finding in sessions)
    if "sessions-hang" in theirs or ("sessions-unwritable" in ours and is_worse):
        return [finding for finding in isolation if finding.code not in _SAID_BETTER], sessions
    return isolation, [] if ours & {"sessions-owner", "sessions-path", "launcher-lost"} else sessions


def _find_settings(config: Config) -> Iterator[Finding]:
    talkers = [caller for caller in config.callers if "chat" in caller.allow]
    if not talkers:
        what = "No caller may chat, so nothing can use [chat]."
        yield found_warning("chat-without-caller", what, 'add "chat" to allow of a caller, or remove [chat]')
    with_key = [host for host in config.hosts.values() if host.read_only_key]
    for name in (host.name for host in config.hosts.values() if not host.read_only_key):
        what = f"claude has no key for {name}, so it can look at no VM there."
        fix = f"ssh-keygen -t ed25519 -N '' -f pve_read; name it as read_only_key_file in [hosts.{name}]"
        yield found_warning("chat-without-key", what, fix)
    if with_key and shutil.which("ssh") is None:
        what = "claude needs ssh to reach a host, and it is not installed."
        yield found_error("ssh-missing", what, "apt-get install openssh-client")
    for vm in config.vms.values():
        for each in warn_of_guest(vm, config.callers):
            yield replace(each, place=CHAT, sentence=f"{each.sentence}.")
        if vm.guest is not None and not (vm.guest_host_keys or vm.guest_host_cas):
            what = f"The host key of the guest {vm.name} is not checked."
            fix = f'pin it in [vms.{vm.name}]: guest_host_key = ["…"], as this shows it: ssh-keyscan -p {vm.guest.port}'
            yield found_warning("guest-key-not-checked", what, f"{fix} {vm.guest.host}")


async def _look_at_isolation(config: Config, chat: ChatSettings, launcher: LauncherClient | None) -> list[Finding]:
    """Return whether claude is isolated, as a process that has its user id finds out."""
    if launcher is None and chat.uids:
        what = "Whether claude is isolated from the handler was not looked at, which only root can."
        return [found_warning("isolation-not-known", what, "run doctor as root: sudo -E breakglass doctor")]
    try:
        if launcher is not None:
            fault = await run_in_thread(lambda: _ask(launcher), SECONDS)
        else:
            fault = await run_in_thread(lambda: isolation_fault(config), SECONDS)
        unsandboxed = await run_in_thread(lambda: sandbox_fault(None), SECONDS) if chat.shared_uid and not fault else ""
    except OSError as lost:  # TimeoutError is one
        what = (
            f"The launcher, the root process that starts claude, can't be asked: {str(lost) or 'it does not answer'}."
        )
        return [found_error("launcher-lost", what, "systemctl restart breakglass-chat.socket; see the handler's log")]
    if fault:
        return [judge_isolation(fault)]
    if unsandboxed:
        code = "sandbox-missing" if "not installed" in unsandboxed else "sandbox-refused"
        fix = "apt-get install bubblewrap" if code == "sandbox-missing" else _NAMESPACES
        return [found_warning(code, f"claude's commands run without a sandbox: {unsandboxed}.", fix)]
    if chat.shared_uid:
        return [found_ok("chat-shared", "claude runs as the handler's own user, as shared_uid permits.")]
    return [
        found_ok(
            "chat-isolated",
            "claude is isolated from the handler: a test process with its user id could not read the handler's files.",
        )
    ]


def _ask(launcher: LauncherClient) -> str:
    launcher.connect()
    return launcher.check()


def judge_isolation(fault: str) -> Finding:
    """Return a fault of the isolation as a finding. Some faults say themselves what to run."""
    for words, code, fix in _ISOLATION:
        if words in fault:
            what, chown, commands = fault.partition("chown")
            return found_error(code, f"Chat is disabled: {what.rstrip(':; ')}.", fix or chown + commands)
    fix = "for each file named, let other users not read it: chmod o-rwx,g-w FILE; then systemctl reload breakglass"
    return found_error("chat-not-isolated", f"Chat is disabled, because claude is not isolated: {fault}.", fix)

"""Judges sshd's settings, as `sshd -T -C user=…` prints them, for an account of Breakglass's own. Pure.

The rules are those of sshd_config(5). `root_login.py` judges them for root's own account.
"""

import re
from collections.abc import Iterator, Mapping

from .findings import Finding, error, ok, warning


def parse_settings(text: str) -> dict[str, str]:
    """Return the settings that `sshd -T` printed, by keyword; a repeated keyword's values are joined by a space."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.strip().partition(" ")
        found[name.lower()] = f"{found[name.lower()]} {value}" if name.lower() in found else value
    return found


def find_key_files(settings: Mapping[str, str], user: str, home: str) -> list[str]:
    """Return the paths that AuthorizedKeysFile names for a user (sshd_config(5): %h %u %U %%, relative to home)."""
    tokens = {"%h": home, "%u": user, "%U": "0", "%%": "%"}
    paths = []
    for word in settings.get("authorizedkeysfile", "").split():
        path = re.sub("%[huU%]", lambda match: tokens[match[0]], word)
        if path != "none":
            paths.append(path if path.startswith("/") else f"{home.rstrip('/')}/{path}")
    return paths


_EXPECTED = {"disableforwarding": "yes", "permittty": "no", "permituserrc": "no", "authenticationmethods": "publickey"}
DROP_IN = "/etc/ssh/sshd_config.d/00-breakglass.conf"
IN_MATCH = f"in the Match block of {DROP_IN}"


def judge_sshd(settings: Mapping[str, str], user: str) -> Iterator[Finding]:
    """Judge the settings that are in force for the account, by `sshd -T -C user=…`."""
    yield from judge_forced(settings, user)
    if settings.get("pubkeyauthentication") == "no":
        yield error(f"PubkeyAuthentication no refuses every key of {user}", f"set it to yes {IN_MATCH}")
    for name, value in _EXPECTED.items():
        if settings.get(name) != value:
            yield error(
                f"sshd has {name} {settings.get(name)} for {user}, not {value}", f"set {name} {value} {IN_MATCH}"
            )
    yield from _judge_root_login(settings.get("permitrootlogin", ""), user)
    yield from judge_rest(settings, user)
    if is_unforced(settings) and all(settings.get(name) == value for name, value in _EXPECTED.items()):
        yield ok(f"sshd: a public key only, no ForceCommand, no forwarding, no terminal, no rc file for {user}")


def _judge_root_login(value: str, user: str) -> Iterator[Finding]:
    hint = f"set PermitRootLogin forced-commands-only {IN_MATCH}"
    if value == "no":
        yield error(f"PermitRootLogin no refuses {user}, whose uid is 0", hint)
    elif value != "forced-commands-only":
        yield warning(f"PermitRootLogin {value} gives a key without command= a root shell", hint)


def is_unforced(settings: Mapping[str, str]) -> bool:
    """Tell whether each key runs its own command."""
    return settings.get("forcecommand", "none") == "none"


def judge_forced(settings: Mapping[str, str], user: str) -> Iterator[Finding]:
    """Require that each key runs its own command."""
    if not is_unforced(settings):
        hint = "remove it, because it overrides each key's --read-only"
        yield error(f"sshd has a ForceCommand for {user}: {settings['forcecommand']}", hint)


def judge_rest(settings: Mapping[str, str], user: str) -> Iterator[Finding]:
    """Judge what is the same for root: who may log in, and how a connection is watched."""
    if settings.get("clientaliveinterval", "0") == "0":
        yield warning("sshd does not notice a dead connection", f"set ClientAliveInterval 15 {IN_MATCH}")
    if settings.get("authorizedkeyscommand", "none") != "none":
        yield warning(
            "sshd also asks an AuthorizedKeysCommand for keys", "make sure that it prints no key for this user"
        )
    yield from _judge_keys(settings, user)
    yield from _judge_allowed(settings, user)
    yield from _judge_penalties(settings)


def _judge_keys(settings: Mapping[str, str], user: str) -> Iterator[Finding]:
    """Judge which keys sshd takes, how much it starts for one connection, and where."""
    accepted = settings.get("pubkeyacceptedalgorithms", "ssh-ed25519")
    if "ssh-ed25519" not in accepted.split(","):
        yield warning(
            f"PubkeyAcceptedAlgorithms has no ssh-ed25519, so sshd takes no Ed25519 key of {user}",
            f"set PubkeyAcceptedAlgorithms +ssh-ed25519 {IN_MATCH}",
        )
    if settings.get("maxsessions") == "0":
        yield warning("sshd has MaxSessions 0, and the handler needs a channel", f"set MaxSessions 10 {IN_MATCH}")
    if settings.get("chrootdirectory", "none") != "none":
        sentence = f"sshd shuts {user} into {settings['chrootdirectory']}, where the host agent is not"
        yield error(sentence, f"set ChrootDirectory none {IN_MATCH}")


def _judge_allowed(settings: Mapping[str, str], user: str) -> Iterator[Finding]:
    allowed = settings.get("allowusers", "").split()
    if allowed and not any(re.fullmatch(rf"{re.escape(user)}(@.*)?|\*.*", word) for word in allowed):
        yield error(f"AllowUsers does not name {user}", f"add {user} to it")
    if settings.get("allowgroups"):
        yield warning(
            f"AllowGroups is set: {settings['allowgroups']}", f"make sure that a group of {user} is among them"
        )
    if any(word.partition("@")[0] == user for word in settings.get("denyusers", "").split()):
        yield error(f"DenyUsers names {user}", f"remove {user} from it")


def _judge_penalties(settings: Mapping[str, str]) -> Iterator[Finding]:
    if settings.get("persourcepenalties", "no") != "no" and settings.get("persourcepenaltyexemptlist") == "none":
        hint = "set PerSourcePenaltyExemptList to the handler's address, before the Match block"
        yield warning("failed logins from the handler's address can lock the handler out", hint)

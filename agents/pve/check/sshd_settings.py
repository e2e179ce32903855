"""Judges sshd's settings, as `sshd -T -C user=…` prints them, for an account of Breakglass's own. Pure.

The rules are those of sshd_config(5). `root_login.py` judges them for root's own account.
"""

import ipaddress
import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase

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
KEY_FILE = "/etc/ssh/authorized_keys.d/breakglass"
ADDRESS = re.compile(r"([0-9]+\.[0-9.]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)(?:/[0-9]+)?")  # of a Match or an exemption
CHANNELS = 8  # that the handler opens in one connection
IN_MATCH = f"in the Match block of {DROP_IN}"


def fix_there(settings: Mapping[str, str], name: str, value: str) -> str:
    """Return how to change a setting: sshd uses the first value that it reads, so an earlier file must not have one."""
    if earlier := settings.get(f"{name.lower()}@"):
        return f"remove {name} at {earlier}, which sshd reads before {DROP_IN}; then run systemctl reload ssh"
    return f"set {name} {value} {IN_MATCH}, then run systemctl reload ssh"


def _at(settings: Mapping[str, str], name: str) -> str:
    where = settings.get(f"{name}@")
    return f" at {where}, then run systemctl reload ssh" if where else ""


def judge_sshd(settings: Mapping[str, str], user: str) -> Iterator[Finding]:
    """Judge the settings that are in force for the account, by `sshd -T -C user=…`."""
    yield from judge_forced(settings, user)
    if settings.get("pubkeyauthentication") == "no":
        hint = fix_there(settings, "PubkeyAuthentication", "yes")
        yield error(f"PubkeyAuthentication no refuses every key of {user}", hint)
    for name, value in _EXPECTED.items():
        if settings.get(name) != value:
            sentence = f"sshd has {name} {settings.get(name)} for {user}, not {value}"
            yield error(sentence, fix_there(settings, name, value))
    yield from _judge_root_login(settings, user)
    yield from judge_rest(settings, user)
    if is_unforced(settings) and all(settings.get(name) == value for name, value in _EXPECTED.items()):
        yield ok(f"sshd: a public key only, no ForceCommand, no forwarding, no terminal, no rc file for {user}")


def _judge_root_login(settings: Mapping[str, str], user: str) -> Iterator[Finding]:
    value, hint = settings.get("permitrootlogin", ""), fix_there(settings, "PermitRootLogin", "forced-commands-only")
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
        hint = f"remove it{_at(settings, 'forcecommand')}: it replaces each key's own command"
        yield error(f"sshd has a ForceCommand for {user}: {settings['forcecommand']}", hint)


def judge_rest(settings: Mapping[str, str], user: str) -> Iterator[Finding]:
    """Judge the settings that matter for root as well: who may log in, and how sshd watches a connection."""
    if settings.get("clientaliveinterval", "0") == "0":
        yield warning("sshd does not notice a dead connection", fix_there(settings, "ClientAliveInterval", "15"))
    if settings.get("authorizedkeyscommand", "none") != "none":
        yield warning(
            "sshd also asks an AuthorizedKeysCommand for keys", "make sure that it prints no key for this user"
        )
    yield from _judge_keys(settings, user)
    yield from _judge_allowed(settings, user)
    yield from _judge_room_for_logins(settings)


def _judge_keys(settings: Mapping[str, str], user: str) -> Iterator[Finding]:
    """Judge which keys sshd accepts, how many channels a connection may open, and in which root directory."""
    accepted = settings.get("pubkeyacceptedalgorithms", "ssh-ed25519")
    if "ssh-ed25519" not in accepted.split(","):
        yield warning(
            f"PubkeyAcceptedAlgorithms has no ssh-ed25519, so sshd takes no Ed25519 key of {user}",
            fix_there(settings, "PubkeyAcceptedAlgorithms", "+ssh-ed25519"),
        )
    most = settings.get("maxsessions", "10")
    if most.isdecimal() and int(most) < CHANNELS:
        kind = error if int(most) < 2 else warning  # one for the resident session, and one for a verb
        sentence = f"sshd has MaxSessions {most}, and the handler opens up to {CHANNELS} channels"
        yield kind(sentence, fix_there(settings, "MaxSessions", "10"))
    if settings.get("chrootdirectory", "none") != "none":
        sentence = f"sshd shuts {user} into {settings['chrootdirectory']}, where the host agent is missing"
        yield error(sentence, fix_there(settings, "ChrootDirectory", "none"))


def _judge_allowed(settings: Mapping[str, str], user: str) -> Iterator[Finding]:
    allowed = settings.get("allowusers", "").split()
    if allowed and not any(re.fullmatch(rf"{re.escape(user)}(@.*)?|\*.*", word) for word in allowed):
        yield error(f"AllowUsers does not name {user}", f"add {user} to it{_at(settings, 'allowusers')}")
    if settings.get("allowgroups"):
        yield warning(
            f"AllowGroups is set: {settings['allowgroups']}",
            f"make sure that a group of {user} is among them{_at(settings, 'allowgroups')}",
        )
    if any(word.partition("@")[0] == user for word in settings.get("denyusers", "").split()):
        yield error(f"DenyUsers names {user}", f"remove {user} from it{_at(settings, 'denyusers')}")


def _judge_room_for_logins(settings: Mapping[str, str]) -> Iterator[Finding]:
    """Judge what can turn the handler away at times, although sshd accepts its key."""
    for name, least, good in (("MaxStartups", 4, "10:30:100"), ("PerSourceMaxStartups", 4, "none")):
        first = settings.get(name.lower(), "").partition(":")[0]
        if first.isdecimal() and int(first) < least:
            hint = fix_there(settings, name, good).replace(IN_MATCH, f"at the beginning of {DROP_IN}")
            yield warning(f"{name} {first} makes sshd turn the handler away while other logins are under way", hint)
    grace = settings.get("logingracetime", "")
    if grace.isdecimal() and 0 < int(grace) < 10:
        hint = fix_there(settings, "LoginGraceTime", "60").replace(IN_MATCH, f"at the beginning of {DROP_IN}")
        yield warning(f"LoginGraceTime {grace} ends a login that takes {grace} s on a busy host", hint)
    if settings.get("persourcepenalties", "no") != "no" and settings.get("persourcepenaltyexemptlist") == "none":
        hint = "set PerSourcePenaltyExemptList to the handler's address, before the Match block"
        yield warning("failed logins from the handler's address can lock the handler out", hint)


# --- The addresses of the handlers, which sshd never penalises ---


def find_exempt(drop_in: str) -> list[str]:
    """Return the addresses that our drop-in exempts from sshd's penalties: those of the handlers."""
    words = re.findall(r"(?im)^[ \t]*persourcepenaltyexemptlist[ \t]+(.+)$", drop_in)
    found = [match[1] for word in ",".join(words).split(",") if (match := ADDRESS.fullmatch(word.strip()))]
    return list(dict.fromkeys(found))


def judge_exemption(settings: Mapping[str, str], client: str) -> Iterator[Finding]:
    """Warn if sshd spares other addresses its penalties, but not the one from which the handler has logged in."""
    exempt = settings.get("persourcepenaltyexemptlist", "none")
    if exempt != "none" and not any(_is_of(client, word) for word in exempt.split(",")):
        sentence = f"failed logins from {client} can lock the handler out, because sshd spares only {exempt}"
        yield warning(sentence, f"add {client} to PerSourcePenaltyExemptList in {DROP_IN}, then systemctl reload ssh")


def _is_of(client: str, word: str) -> bool:
    """Tell whether an address is the one of a list's word, or in its network, or fits its wildcards."""
    try:
        return ipaddress.ip_address(client) in ipaddress.ip_network(word, strict=False)
    except ValueError:
        return fnmatchcase(client, word)

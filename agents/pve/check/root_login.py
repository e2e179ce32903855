"""Judges whether sshd lets the handler's keys in, to root or another account, by its settings and root's own rule."""

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

from .findings import Account, Finding, error, ok, warning

# --- Judges sshd's settings, as `sshd -T -C user=…` prints them, for an account of Breakglass's own. Pure ---
#
# The rules are those of sshd_config(5). `root_login.py` judges them for root's own account.


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
    """Judge the settings that matter for root as well: who may log in, and how sshd watches a connection."""
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
    """Judge which keys sshd accepts, how many channels a connection may open, and in which root directory."""
    accepted = settings.get("pubkeyacceptedalgorithms", "ssh-ed25519")
    if "ssh-ed25519" not in accepted.split(","):
        yield warning(
            f"PubkeyAcceptedAlgorithms has no ssh-ed25519, so sshd takes no Ed25519 key of {user}",
            f"set PubkeyAcceptedAlgorithms +ssh-ed25519 {IN_MATCH}",
        )
    if settings.get("maxsessions") == "0":
        yield warning("sshd has MaxSessions 0, and the handler needs a channel", f"set MaxSessions 10 {IN_MATCH}")
    if settings.get("chrootdirectory", "none") != "none":
        sentence = f"sshd shuts {user} into {settings['chrootdirectory']}, where the host agent is missing"
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


# --- Judges the other way in: keys that log in to root's own account, from the handler's addresses only. Pure ---
#
# For these logins, sshd reads Breakglass's key file after root's own files, because of a `Match User root Address …`
# block. The host's owner decides everything else about root's login, so only a setting that would keep the keys out, or
# allow them more, is a finding.

KEY_FILE = "/etc/ssh/authorized_keys.d/breakglass"
_ADDRESS = re.compile(r"([0-9]+\.[0-9.]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)(?:/[0-9]+)?")


def find_handler_addresses(drop_in: str, others: Iterable[str]) -> list[str] | None:
    """Return one address for each entry of root's Match block; None if there is no such block.

    In our drop-in, any block for root is ours. In other files, a block is ours if it names our key file.
    """
    blocks = list(_root_blocks(drop_in))
    for text in others:
        blocks += [(words, lines) for words, lines in _root_blocks(text) if KEY_FILE in " ".join(lines).split()]
    if not blocks:
        return None
    words = [word for block, _ in blocks for word in block.split(",")]
    return list(dict.fromkeys(match[1] for word in words if (match := _ADDRESS.fullmatch(word))))


def _root_blocks(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the addresses and the lines of each Match block for root."""
    for block in re.split(r"(?im)^[ \t]*match[ \t]+", text)[1:]:
        criteria, *lines = block.splitlines()
        words = criteria.replace('"', "").split()
        found = dict(zip((word.lower() for word in words[::2]), words[1::2], strict=False))
        if "root" in found.get("user", "").split(","):
            yield found.get("address", ""), lines


def judge_root_account(account: Account | None) -> Finding:
    """Require a shell that runs a forced command."""
    shell = account.shell if account else ""
    if not shell or shell.rpartition("/")[2] in ("nologin", "false", "true"):
        return error(f'the shell of root is "{shell}", which runs no command', "run the recipe without --account root")
    return ok(f"root has the shell {shell}")


def judge_bashrc(path: str, text: str | None) -> Finding:
    """Judge the file that bash reads before it runs a forced command, because its output comes before the answer."""
    if text is None:
        return warning(
            f"{path} does not answer, and bash reads that file before the host agent",
            "look at the file system of that file",
        )
    commands = [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]
    if commands and not re.search(r"\$\{?PS1|\$-", commands[0]):
        hint = 'begin it with: [ -z "$PS1" ] && return'
        return warning(
            f"bash runs {path} before the host agent, and a command there that hangs blocks every verb", hint
        )
    return ok(f"bash reads {path} before the host agent, and no command in it runs")


def judge_other_accounts(passwd: str) -> Iterator[Finding]:
    """Warn about each account other than root that has uid 0, because an earlier recipe may have made it."""
    lines = [line.split(":") for line in passwd.splitlines()]
    names = [fields[0] for fields in lines if len(fields) == 7 and fields[2] == "0" and fields[0] != "root"]
    for name in names:
        yield warning(f"{name} has uid 0 as well", "if an earlier recipe made it, remove its line: vipw, vipw -s")
    if not names:
        yield ok("no other account has uid 0")


def judge_root_shadow(shadow: str, pam: bool) -> Finding:
    """Require that sshd does not consider root locked; warn about a date after which sshd would refuse the keys."""
    fields = next((line.split(":") for line in shadow.splitlines() if line.startswith("root:")), [])
    if len(fields) < 9:
        return error("root has no line in /etc/shadow", "restore it with pwconv")
    if fields[1].startswith("!") and not pam:
        return error("root is locked, and sshd without PAM refuses its keys", "usermod --password '*' root")
    if fields[7] or (fields[4].isdecimal() and int(fields[4]) < 99999):
        return warning(
            "root expires, and its keys then stop working",
            "chage -l root shows the date; renew it before that",
        )
    return ok("root is not locked and does not expire")


def judge_root_sshd(settings: Mapping[str, str], address: str) -> Iterator[Finding]:
    """Judge the settings that are in force for root from one of the handler's addresses."""
    yield from judge_forced(settings, "root")
    faults = []
    if settings.get("pubkeyauthentication") == "no":
        faults.append(error("PubkeyAuthentication no refuses every key of root", f"set it to yes {IN_MATCH}"))
    methods = settings.get("authenticationmethods", "any")
    if not {"any", "publickey"} & set(methods.split()):
        sentence = f"sshd has authenticationmethods {methods} for root, so a key alone is not enough"
        faults.append(error(sentence, f"set AuthenticationMethods publickey {IN_MATCH}"))
    login = settings.get("permitrootlogin", "")
    if login == "no":
        hint = "set PermitRootLogin forced-commands-only in a Match block of a separate drop-in"
        hint += "; on the handler's machine, run breakglass docs admin, and read With root's own account"
        faults.append(error(f"PermitRootLogin no refuses every key of root from {address}", hint))
    yield from faults
    yield from judge_rest(settings, "root")
    if is_unforced(settings) and not faults:
        yield ok(f"sshd: PermitRootLogin {login}, no ForceCommand, and a key is enough for root from {address}")


def judge_root_files(files: Sequence[str], own: Sequence[str], address: str) -> Iterator[Finding]:
    """Require that sshd reads our key file and root's `own` ones for root from one of the handler's addresses.

    `own` are the files for root from any other address.
    """
    missing = [path for path in own if path not in files]
    if KEY_FILE not in files:
        yield error(f"sshd does not read {KEY_FILE} for root from {address}", f"name it last {IN_MATCH}")
    for path in missing:
        yield error(f"sshd does not read root's own {path} for root from {address}", f"name it {IN_MATCH}")
    if KEY_FILE in own:
        yield warning(f"sshd reads {KEY_FILE} for root from every address", f"name it only {IN_MATCH}")
    if KEY_FILE in files and KEY_FILE not in own and not missing:
        yield ok(f"sshd reads {KEY_FILE} for root from {address} and not from elsewhere, beside root's own files")


# --- Judges the list of addresses that sshd never penalises, for both kinds of account. Pure ---


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

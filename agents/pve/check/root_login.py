"""Judges the other way in: keys that log in to root's own account, from the handler's addresses only. Pure.

For these logins, sshd reads Breakglass's key file after root's own files, because of a `Match User root Address …`
block. The host's owner decides everything else about root's login, so only a setting that would keep the keys out, or
allow them more, is a finding.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from .findings import Account, Finding, error, ok, warning
from .sshd_settings import ADDRESS, IN_MATCH, KEY_FILE, fix_there, is_unforced, judge_forced, judge_rest


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
    return list(dict.fromkeys(match[1] for word in words if (match := ADDRESS.fullmatch(word))))


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
        hint = fix_there(settings, "PubkeyAuthentication", "yes")
        faults.append(error("PubkeyAuthentication no refuses every key of root", hint))
    methods = settings.get("authenticationmethods", "any")
    if not {"any", "publickey"} & set(methods.split()):
        sentence = f"sshd has authenticationmethods {methods} for root, so a key alone is not enough"
        faults.append(error(sentence, fix_there(settings, "AuthenticationMethods", "publickey")))
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

"""`breakglass init`: writes a configuration with its secrets and keys, and prints what to do next."""

import argparse
import base64
import grp
import json
import os
import pwd
import secrets
import shlex
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ..base.findings import as_json
from ..base.manager import UNITS
from ..base.new_files import write_new
from ..config.addresses import parse_address
from ..config.model import Address
from ..config.new_file import NAME, POWER, SESSION, NewConfig, NewHost, config_texts, operator_files, toml_text
from ..config.server import is_loopback, page_link
from ..config.ssh_keys import new_key
from .account import ACCOUNT, MAKE_ONE, look_up
from .check import find_problems
from .environment import client_file, home_directory
from .init_answers import read_answers
from .init_files import refuse_existing, write_files
from .init_page import PAGE, page_text
from .keys.configuration import new_signing_key
from .output import DONE, FAILED, CommandError, complain, has_person, say

ROOTS_DIRECTORY, ROOTS_SESSIONS = "/etc/breakglass", "/var/lib/breakglass"
_FILES = (SESSION, POWER, f"{POWER}.pub", PAGE)


def add_init(parser: argparse.ArgumentParser) -> None:
    """Describe `init`."""
    parser.description = (
        "Write a configuration, the session secret, an operator's signing key and an SSH key pair, and print the "
        "next steps. It writes all files or none, and overwrites nothing. In a terminal, it asks for what you leave "
        "out. If root runs it, the handler's account can read the files."
    )
    where = f"the directory (default: {ROOTS_DIRECTORY} for root, ~/.config/breakglass for others)"
    parser.add_argument("directory", nargs="?", metavar="DIR", help=where)
    parser.add_argument("--url", help="the URL at which people reach this handler, like https://rescue.example.org/")
    parser.add_argument(
        "--host", action="append", metavar="NAME=ADDRESS", help="a Proxmox host, like pve1=192.0.2.10; repeatable"
    )
    parser.add_argument(
        "--host-key",
        action="append",
        metavar="NAME=LINE",
        help="the host's public key, or the word any to pin it later; give one for each --host",
    )
    parser.add_argument(
        "--vm",
        action="append",
        metavar="NAME=NUMBER[@HOST,HOST]",
        help="a VM and where it may run, like devvm=102@pve1; repeatable",
    )
    parser.add_argument(
        "--operator", metavar="NAME", help="your name: the signing key is yours, and the hosts record the name"
    )
    parser.add_argument("--user", metavar="NAME", help=f"the handler's account, if root runs this (default: {ACCOUNT})")
    parser.set_defaults(run=init)


def init(arguments: argparse.Namespace) -> int:
    """Write a new configuration with everything that it names; print what to do next. No secret is printed."""
    account = _find_account(arguments.user)
    directory = _directory(arguments.directory, os.environ)
    refuse_existing(directory, [*_FILES, *_files_of(arguments.operator), NAME])  # refuse before the first question
    new = read_answers(arguments, input if has_person() else None)
    files = _make_files(new, directory)
    path, user = directory / NAME, None if account is None else account.pw_name
    write_files(directory, files, None if account is None else account.pw_gid, lambda: _verify(path, user))
    if new.url.startswith("http:") and not is_loopback(new.url):
        complain(
            f"warning: {new.url} has no TLS, so browsers can't sign requests on its page", "write https in [server] url"
        )
    is_remembered = _remember(new.url, directory / operator_files(new.operator)[0])
    for line in _next_steps(new, directory, list(files), account, is_remembered):
        say(line)
    return DONE


def _find_account(name: str | None) -> pwd.struct_passwd | None:
    """Return the account that will own the files, or None if they are for this user only."""
    if os.geteuid() == 0:
        account = look_up(name or ACCOUNT)
        _refuse_shared_group(account)
        return account
    if name is not None:
        raise CommandError("nothing was written: only root can give files to --user", "run this as root")
    return None


def _refuse_shared_group(account: pwd.struct_passwd) -> None:
    """Raise CommandError if other users are in the account's group, which reads every key."""
    users = {each.pw_name for each in pwd.getpwall() if each.pw_gid == account.pw_gid}
    with suppress(KeyError):  # a group without an entry has no members
        users.update(grp.getgrgid(account.pw_gid).gr_mem)
    if others := sorted(users - {account.pw_name}):
        who = f"{', '.join(others)}, who could read every key"
        message = f"nothing was written: the group of {account.pw_name} also has {who}"
        raise CommandError(message, f"use an account that is alone in its group; {MAKE_ONE}")


def _directory(given: str | None, environment: Mapping[str, str]) -> Path:
    """Return the absolute path of the directory to write to."""
    if given is None and os.geteuid() == 0:
        given = ROOTS_DIRECTORY
    elif given is None:
        given = f"{home_directory(environment, 'XDG_CONFIG_HOME', '.config')}/breakglass"
    directory = os.path.abspath(given)
    try:
        directory.encode()
    except UnicodeEncodeError:
        raise CommandError("nothing was written: the directory's path is not UTF-8", "name another one") from None
    return Path(directory)


def _files_of(operator: str | None) -> tuple[str, ...]:
    is_file_name = operator is not None and "/" not in operator and "\0" not in operator
    return operator_files(operator) if operator is not None and is_file_name else ()


def _make_files(new: NewConfig, directory: Path) -> dict[str, str]:
    """Return the text of each file. The configuration is last, so every file that it names exists by then."""
    sessions = f"{home_directory(os.environ, 'XDG_STATE_HOME', '.local/state')}/breakglass/sessions"
    sessions = ROOTS_SESSIONS if os.geteuid() == 0 else sessions
    power, power_public = new_key("breakglass power")
    return {
        SESSION: f"{base64.b64encode(secrets.token_bytes(48)).decode()}\n",
        POWER: power,
        f"{POWER}.pub": power_public,
        operator_files(new.operator)[0]: f"{new_signing_key()}\n",
        PAGE: page_text(new, str(directory), socket.gethostname()),
        **config_texts(new, str(directory), os.path.abspath(sessions)),
    }


def _verify(path: Path, user: str | None) -> None:
    """Raise CommandError if a start would have a problem. Another process checks this as the handler's user."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(theirs, json.dumps(as_json(find_problems(path, user)[1])).encode())
        except BaseException as error:
            os.write(theirs, json.dumps([{"place": str(path), "sentence": repr(error), "fix": ""}]).encode())
        finally:
            os._exit(0)
    os.close(theirs)
    with open(ours, "rb") as report:
        problems = json.loads(
            report.read() or '[{"place": "(start)", "sentence": "the check was killed", "fix": "run init again"}]'
        )
    os.waitpid(child, 0)
    for problem in problems[:1]:
        why = f"the new configuration has a problem: {problem['place']}: {problem['sentence']}"
        raise CommandError(f"the new files were removed, because {why}", problem["fix"], FAILED)


def _remember(url: str, key: Path) -> bool:
    """Write client.toml for the user who runs this, unless there is one; return whether it names these files."""
    path = client_file(os.environ)
    text = f"# Made by: breakglass init\nurl = {toml_text(url)}\nsecret_file = {toml_text(str(key))}\n"
    with suppress(OSError):
        if path.is_absolute():
            path.parent.mkdir(0o700, parents=True, exist_ok=True)
            write_new(path, text, -1, -1, 0o600)
            return True
    return False


# --- what to do next ---


def _next_steps(
    new: NewConfig, directory: Path, names: list[str], account: pwd.struct_passwd | None, is_remembered: bool
) -> list[str]:
    config, vm = shlex.quote(str(directory / NAME)), next(iter(new.vms))
    lines = [f"Wrote to {directory}: {', '.join(names)}"]
    if is_remembered:
        lines.append(f"Wrote {client_file(os.environ)}, so that your commands need no variables")
    lines += ["", "Next, as the user who ran this:", ""]
    lines += ["1. Set up each Proxmox host. Read its recipe (NAME.sh) before you run it:", ""]
    lines += [f"    export BREAKGLASS_CONFIG={config}", "    breakglass host bundle breakglass-pve"]
    for name, host in new.hosts.items():
        lines += _recipe_lines(name, host)
    unpinned = [name for name, host in new.hosts.items() if host.host_key == "any"]
    if unpinned:
        lines += ["", f"   The recipe prints the host key. Write it as host_key of {', '.join(unpinned)} in {config}."]
    if is_loopback(new.url):
        lines += ["", f"2. {new.url} works on this machine only, and a phone needs TLS (see breakglass docs install)"]
    else:
        lines += ["", f"2. Put a proxy with TLS in front of the handler, for {new.url} (see breakglass docs proxies)"]
    lines += ["", "3. Start the handler (with systemd, see breakglass docs admin):", ""]
    how = f"setpriv --reuid {account.pw_name} --regid {account.pw_gid} --clear-groups " if account else ""
    has_unit = str(directory) == ROOTS_DIRECTORY and any(map(os.path.exists, UNITS))
    start = "systemctl enable --now breakglass" if has_unit else f"{how}breakglass serve"
    lines += [f"    breakglass check && {start}", "", "4. Send it a signed request, in a second terminal:", ""]
    key = shlex.quote(str(directory / operator_files(new.operator)[0]))
    at = "" if is_remembered else f"BREAKGLASS_URL={new.url} BREAKGLASS_SECRET_FILE={key} "
    lines += [f"    {at}breakglass status {vm}", ""]
    lines += [f"5. Open {new.url} and paste the signing key. It is in", f"   {key}"]
    lines += ["   On a phone, add the page to the home screen (see breakglass docs admin, On a phone)."]
    lines += ["", f"6. Print {directory / PAGE}, and keep it where you can find it in the dark."]
    lines += [
        "",
        "Links to each VM, for bookmarks and for the messages of your monitoring (see breakglass docs alerts):",
        "",
    ]
    lines += [f"    {page_link(new.url, name)}" for name in new.vms]
    return lines


def _recipe_lines(name: str, host: NewHost) -> list[str]:
    """Return the commands that set up a host. They print its recipe, copy it, and run it there."""
    from ..doctor.login import own_address  # this loads asyncssh, which most commands do not need

    address = parse_address(host.ssh) or Address("root", name)
    source = own_address(address.host)
    options = [f"--from {source}"] if source or address.user == "root" else []
    options += ["--account root"] if address.user == "root" else []
    port = "" if address.port == 22 else f"{address.port} "
    at = f"[{address.host}]" if ":" in address.host else address.host
    return [
        f"    breakglass host install-commands {' '.join([f'--host {name}', *options])} > {name}.sh",
        f"    scp {port and f'-P {port}'}breakglass-pve {name}.sh root@{at}:/root/",
        f"    ssh {port and f'-p {port}'}root@{address.host} sh /root/{name}.sh",
    ]

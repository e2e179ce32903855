"""`breakglass doctor`: checks the whole path of a request before it is needed. It never changes a VM's power."""

import argparse
import asyncio
import json
import os
import shlex
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..agents.pve.words import VERSION
from ..alerts.payloads import SENDERS
from ..auth.signing import SIGNATURE
from ..base.findings import ERROR, OK, WARNING, Finding, as_json
from ..client import Signer
from ..config.load import config_path
from ..config.model import Config
from ..doctor.keys import DOCTOR
from ..doctor.signed import prove
from ..doctor.visit import CONFIGURATION, HANDLER, Visit, read_units
from ..doctor.walk import LOOKS, Causes, walk
from .account import name_this_user
from .check import add_user, find_problems
from .environment import DEFAULT_URL, given_key, given_url, port_number, use_unit_credentials
from .output import INTERRUPTED, USAGE, CommandError, Progress, complain, drop_output, flush_output, reason, say
from .ping import ping

_SLOW = {HANDLER: ", which may hold an answer to test the proxy"}
READ_SECONDS = 20.0  # for the files that are read before the first check
PING_SECONDS = 8.0  # after that
_LEVELS = {OK: 0, WARNING: 1, ERROR: 2}
_MOST_SAMPLE_BYTES = 1 << 20  # the same limit as for a request


def add_doctor(parser: argparse.ArgumentParser) -> None:
    """Describe `doctor`."""
    parser.description = (
        "Look at the configuration, the keys, the hosts, the handler and chat, and print one line for each finding: "
        "ok, warning or error, a sentence, and the fix. It changes no VM's power. The exit code is 0 if all is well, "
        "1 after a warning, and 2 after an error. It asks the handler (BREAKGLASS_URL, or server.url) as a caller: "
        "with the signing key in BREAKGLASS_SECRET_FILE, or as the caller that the configuration calls doctor."
    )
    parser.add_argument("--vm", metavar="NAME", help="look at this VM and its hosts only")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument(
        "--sample",
        action="append",
        metavar="SOURCE=FILE",
        help="a notification that a monitoring system has sent: see which [[alerts]] entries match it; repeatable",
    )
    parser.add_argument(
        "--ping",
        metavar="FILE",
        help="after a run without errors, request the URL in this file, which is how Healthchecks is pinged",
    )
    parser.add_argument("--ping-failures", action="store_true", help="with --ping: after an error, request URL/fail")
    add_user(parser)
    parser.set_defaults(run=doctor)


def doctor(arguments: argparse.Namespace) -> int:
    """Print one line per finding. Return 0 without problems, 1 after a warning, 2 after an error."""
    # Python could not run its own signal handler while the reading of a file hangs
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    guard = threading.Timer(READ_SECONDS, _stop_reading, [arguments])
    guard.daemon = True
    guard.start()
    visit = make_visit(arguments)
    name_this_user()
    guard.cancel()
    signal.signal(signal.SIGINT, _stop)
    return asyncio.run(_run(visit, arguments))


def _stop_reading(arguments: argparse.Namespace) -> None:
    """Exit with an error, because reading the configuration, or a file that it names, does not end."""
    path = config_path()
    sentence = f"{path}, or a file that it or the environment names, was not read within {READ_SECONDS:g} s."
    fix = f"find out which file hangs: timeout 5 cat {shlex.quote(str(path))} | wc -c, and the same for each *_file; "
    fix += "mount its file system again (umount -l, mount), or replace a pipe or a device by a plain file"
    found, output = Finding(ERROR, CONFIGURATION, "read-hangs", sentence, fix), _Output()
    output.write(_report([found], int(time.time())) if arguments.json else str(found))
    flush_output()
    if arguments.ping is not None:
        words = (arguments.ping, True, arguments.ping_failures, os.environ)
        asking = threading.Thread(target=lambda: asyncio.run(ping(*words)), daemon=True)
        asking.start()
        asking.join(PING_SECONDS)  # the file with the ping's URL may be on a disk that hangs
    os._exit(_LEVELS[found.level])


def _stop(number: int, frame: object) -> None:
    """Exit at once after Ctrl-C, even while a thread waits for a name server or a disk."""
    os._exit(INTERRUPTED)


def make_visit(arguments: argparse.Namespace) -> Visit:
    """Return what to check: the configuration, if there is one, and the handler, if its URL is known.

    The caller's key and the samples are read before the process becomes the handler's user.
    """
    samples = _read_samples(arguments.sample or [])
    key, url = given_key(os.environ), given_url(os.environ)
    use_unit_credentials()
    units = read_units()
    path = config_path()
    there = os.path.lexists(path) or "BREAKGLASS_CONFIG" in os.environ
    config, problems = find_problems(path, arguments.user) if there else (None, ())
    if config is not None and arguments.vm and arguments.vm not in (*config.vms, *config.vms_off):
        raise CommandError(f'{path} has no VM "{arguments.vm[:40]}"', f"use {' or '.join(config.vms)}")
    url = url or (default_url(config, os.environ) if config else "")
    key = key if key is not None or config is None else find_key(config)
    return Visit(
        path=path if there else None,
        config=config,
        problems=problems,
        signer=Signer(url, key) if url and key is not None else None,
        url=url,
        vm=arguments.vm or "",
        samples=samples,
        now=time.time(),
        environment=dict(os.environ),
        units=units,
    )


def default_url(config: Config, environment: Mapping[str, str]) -> str:
    """Return the handler's URL if the caller names none: the configuration's first, else this machine's."""
    port = port_number(environment, DEFAULT_URL.rpartition(":")[2])
    return config.urls[0] if config.urls else f"http://127.0.0.1:{port}"


def find_key(config: Config) -> bytes | None:
    """Return the signing key of the caller named `doctor`, or None if there is no such caller."""
    callers = [each for each in config.callers if (each.name, each.auth_method) == (DOCTOR, SIGNATURE)]
    return callers[0].keys[-1] if callers else None


def _read_samples(given: Sequence[str]) -> dict[str, list[bytes]]:
    """Return the sample notifications from the files of --sample, by source."""
    found: dict[str, list[bytes]] = {}
    for text in given:
        source, equals, file = text.partition("=")
        if not equals or source not in SENDERS:
            hint = f"write SOURCE=FILE, where SOURCE is one of {', '.join(SENDERS)}"
            raise CommandError(f'--sample: "{text[:60]}" does not name a sender and a file', hint)
        try:
            with Path(file).open("rb") as opened:
                found.setdefault(source, []).append(opened.read(_MOST_SAMPLE_BYTES + 1))
        except (OSError, ValueError) as error:
            why = reason(error) if isinstance(error, OSError) else str(error)
            raise CommandError(f'--sample: "{file}" can\'t be read: {why}', "name the notification's file") from None
    return found


async def _run(visit: Visit, arguments: argparse.Namespace) -> int:
    """Print each finding as soon as it is known, and return the exit code."""
    output, found = _Output(), list[Finding]()
    with Progress("doctor is looking") as progress:
        causes = Causes(lambda place: progress.await_next(f"looking at {place}{_SLOW.get(place, '')}"))
        for findings in (walk(visit, LOOKS, causes), prove(visit, found)):  # prove() uses the findings of walk()
            async for finding in findings:
                found.append(finding)
                if not arguments.json:
                    output.write(str(finding))
    if not arguments.json:
        output.write(causes.summary(visit, found))
    code = max((_LEVELS[finding.level] for finding in found), default=0)
    if arguments.json:
        output.write(_report(found, int(visit.now)))
    if arguments.ping is not None:
        await ping(arguments.ping, code == _LEVELS[ERROR], arguments.ping_failures, os.environ)
    code = USAGE if output.fault else code
    if threading.active_count() > 1:  # Python would wait for a thread that hangs on a name server or a disk
        flush_output()
        os._exit(code)
    return code


def _report(found: Sequence[Finding], at: int) -> str:
    """Return the findings as one line of JSON."""
    level = max((finding.level for finding in found), key=_LEVELS.__getitem__, default=OK)
    report = {"version": VERSION, "at": at, "level": level}
    return json.dumps(report | {"findings": as_json(found)})


class _Output:
    """Prints lines. After a failed write, it stops printing, but the walk continues for the exit code."""

    def __init__(self) -> None:
        self.fault, self._is_closed = False, False

    def write(self, line: str) -> None:
        if self._is_closed:
            return
        try:
            say(line)
        except OSError as error:
            self._is_closed = True
            if not isinstance(error, BrokenPipeError):  # a reader that ends early, as `head` does, is not a fault
                self.fault = True
                complain(f"can't write the output: {reason(error)}", "the exit code is 2 for that")
            drop_output()

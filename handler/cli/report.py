"""`breakglass report`: what happened to the VMs, for the morning after."""

import argparse
import asyncio
import json
import os
import time
from collections.abc import Mapping
from datetime import date

from ..client import REPEAT_SECONDS, Event, HandlerError, NoAnswer, Signer, new_id, post
from ..config.model import Config
from .answers import report_unanswered
from .environment import given_key, given_url, own_signer
from .notify import load_receivers, show_sent
from .output import DONE, CommandError, complain, say, show
from .terminal_text import log_text

_RETRY_SECONDS = 5.0
_NO_CALLER = "make one: breakglass keys new doctor --allow status --allow history --unit breakglass"


def add_report(parser: argparse.ArgumentParser) -> None:
    """Describe `report`."""
    parser.description = (
        "Print each alert, verdict and verb of the last hours, with who did it and why, and what is still open. The "
        "hosts remember it, so every handler can tell (BREAKGLASS_URL, BREAKGLASS_SECRET_FILE)."
    )
    parser.add_argument("--vm", metavar="NAME", help="only this VM (default: each VM that the caller may see)")
    parser.add_argument("--since", metavar="HOURS", default="8h", help="how far to look back, like 8h (72h at most)")
    parser.add_argument("--json", action="store_true", help="print only the answer object, as one line")
    what = "print one HTML file with the pictures, to print or to send"
    parser.add_argument("--html", dest="form", action="store_const", const="html", default="markdown", help=what)
    parser.add_argument(
        "--notify",
        action="store_true",
        help="send the receivers of [[notify]] one message instead (BREAKGLASS_CONFIG), or none after a quiet time",
    )
    parser.set_defaults(run=report)


def add_log(parser: argparse.ArgumentParser) -> None:
    """Describe `log`."""
    parser.description = (
        "Print one line for each job of the last hours on each VM that the caller may see, the newest last: when it "
        "began, the VM, the verb, who sent it, and how it ended. The reason is below the line. The hosts remember the "
        "jobs, so every handler can tell (BREAKGLASS_URL, BREAKGLASS_SECRET_FILE)."
    )
    parser.add_argument("--vm", metavar="NAME", help="only this VM (default: each VM that the caller may see)")
    parser.add_argument("--since", metavar="HOURS", default="12h", help="how far to look back, like 12h (72h at most)")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.set_defaults(run=log, form="rows")


def report(arguments: argparse.Namespace) -> int:
    """Print the report of the last hours, or send its summary unless it is certain that no job began in them."""
    config = load_receivers() if arguments.notify else None
    signer = find_signer(config)
    try:
        answer = _ask(signer, arguments, REPEAT_SECONDS if config else 0.0)
    except (HandlerError, NoAnswer) as error:
        code = report_unanswered(signer, error)
        return code if config is None else max(code, _send(config, {"": f"It is not known what happened: {error}."}))
    if arguments.json and config is None:
        say(json.dumps({name: value for name, value in answer.items() if name != "type"}))
        return DONE
    if config is None:
        show(str(answer.get("text")))
        return DONE
    found = answer.get("vms")
    return _send(config, {str(vm): str(text) for vm, text in found.items()} if isinstance(found, dict) else {})


def log(arguments: argparse.Namespace) -> int:
    """Print a line for each job of all VMs, the newest last, where a person looks first, and its reason below it."""
    signer = find_signer(None)
    try:
        answer = _ask(signer, arguments, 0.0)
    except (HandlerError, NoAnswer) as error:
        return report_unanswered(signer, error)
    said, missing = answer.get("rows"), answer.get("missing")
    rows = [each for each in said if isinstance(each, dict)] if isinstance(said, list) else []
    if arguments.json:
        say(json.dumps({"rows": rows, "missing": missing}))
        return DONE
    show(log_text(rows) or f"No job began in the last {arguments.since}.\n")
    for vm, why in missing.items() if isinstance(missing, dict) else ():
        complain(f"{vm}: {why}")
    return DONE


def find_signer(config: Config | None) -> Signer:
    """Return the caller's key and URL. With a configuration, they are the ones that doctor uses."""
    if config is None:
        return own_signer(os.environ)
    from .doctor import default_url, find_key  # this loads asyncssh, which most commands do not need

    key = given_key(os.environ) or find_key(config)
    if key is None:
        raise CommandError("the configuration has no caller doctor, which signs the request", _NO_CALLER)
    return Signer(given_url(os.environ) or default_url(config, os.environ), key)


def _ask(signer: Signer, arguments: argparse.Namespace, seconds: float) -> Event:
    """Return the answer; ask for `seconds` until the answer is whole, because after a boot no host is connected yet."""
    fields = {"vm": arguments.vm, "since": arguments.since, "form": arguments.form}
    given, late = {name: value for name, value in fields.items() if value}, time.monotonic() + seconds
    while True:
        try:
            [answer] = post(signer, "/report", new_id(), given)
            if answer.get("whole") or time.monotonic() >= late:
                return answer
        except NoAnswer:
            if time.monotonic() >= late:
                raise
        time.sleep(_RETRY_SECONDS)


def _send(config: Config, found: Mapping[str, str]) -> int:
    """Send each receiver one message about its VMs if something happened to any of them; return the exit code."""
    from ..notify.messages import report_message
    from ..notify.outbox import Outbox

    messages = {each: report_message(date.today(), found, each, config.urls) for each in config.notify}
    wanted = {receiver: message for receiver, message in messages.items() if message.text}
    outbox = Outbox(lambda: config.notify)

    async def send_all() -> None:
        await asyncio.gather(*(outbox.send(message, receiver) for receiver, message in wanted.items()))

    asyncio.run(send_all())
    return max((show_sent(receiver, outbox.missed.get(receiver, "")) for receiver in wanted), default=DONE)

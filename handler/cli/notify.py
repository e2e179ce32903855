"""`breakglass notify test`: send one message to each receiver of the configuration."""

import argparse
import asyncio
import json
import os
import time
from pathlib import Path

from ..config.load import config_path, load_config
from ..config.model import Config
from ..config.notify import Recipient
from .environment import use_unit_credentials
from .output import DONE, FAILED, CommandError, complain, say


def add_notify(parser: argparse.ArgumentParser) -> None:
    """Describe `notify`."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    test = commands.add_parser(
        "test", help="send one message to each receiver (BREAKGLASS_CONFIG)", example="notify test"
    )
    test.add_argument("--json", action="store_true", help="print one line of JSON")
    test.set_defaults(run=send_test)


def load_receivers() -> Config:
    """Return the configuration; raise CommandError if it has no receiver."""
    use_unit_credentials()
    config = load_config(Path(config_path()), os.environ)
    if not config.notify:
        hint = "breakglass check names a mistake in one; breakglass docs alerts shows how to add one"
        raise CommandError("the configuration has no [[notify]] that can be used", hint)
    return config


def send_test(arguments: argparse.Namespace) -> int:
    """Send a message to each receiver; return FAILED unless each has taken it."""
    config = load_receivers()
    from ..notify.messages import Message
    from ..notify.send import NotSent, send

    text = "This is a test of breakglass notify test. Nothing has happened."
    link = config.urls[0] if config.urls else ""
    message = Message(f"test-{int(time.time())}", "test", ("test",), "", "Breakglass can reach you", text, link)
    answers = []
    for receiver in config.notify:
        why = ""
        try:
            asyncio.run(send(message, receiver))
        except NotSent as error:
            why = str(error)
        answers.append({"name": receiver.name, "to": receiver.to, "sent": not why, "why": why})
        if not arguments.json:
            show_sent(receiver, why)
    if arguments.json:
        say(json.dumps(answers))
    return DONE if all(each["sent"] for each in answers) else FAILED


def show_sent(receiver: Recipient, why: str) -> int:
    """Print whether a receiver has taken a message, or why it has not; return the exit code."""
    if why:
        complain(f"{receiver.name} ({receiver.to}): not sent: {why}")
        return FAILED
    say(f"{receiver.name} ({receiver.to}): sent")
    return DONE

"""`breakglass notify test`: send one message to each receiver of the configuration."""

import argparse
import asyncio
import os
import time
from pathlib import Path

from ..config.load import config_path, load_config
from .output import DONE, FAILED, CommandError, complain, say


def add_notify(parser: argparse.ArgumentParser) -> None:
    """Describe `notify`."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    test = commands.add_parser("test", help="send one message to each receiver (BREAKGLASS_CONFIG)")
    test.set_defaults(run=send_test)


def send_test(arguments: argparse.Namespace) -> int:
    """Send a message to each receiver; return FAILED unless each has taken it."""
    config = load_config(Path(config_path()), os.environ)
    if not config.notify:
        hint = "breakglass check names a mistake in one; breakglass docs alerts shows how to add one"
        raise CommandError("the configuration has no [[notify]] that can be used", hint)
    from ..notify.messages import Message
    from ..notify.send import NotSent, send

    text = "This is a test of breakglass notify test. Nothing has happened."
    link = config.urls[0] if config.urls else ""
    message = Message(f"test-{int(time.time())}", "test", ("test",), "", "Breakglass can reach you", text, link)
    code = DONE
    for receiver in config.notify:
        try:
            asyncio.run(send(message, receiver))
            say(f"{receiver.name} ({receiver.to}): sent")
        except NotSent as error:
            complain(f"{receiver.name} ({receiver.to}): not sent: {error}")
            code = FAILED
    return code

"""`breakglass report`: what happened to the VMs, for the morning after."""

import argparse
import os

from ..client import HandlerError, NoAnswer, Signer, new_id, post
from .environment import caller_key, handler_url
from .output import DONE, FAILED, UNREACHED, complain, show


def report(arguments: argparse.Namespace) -> int:
    """Print the report of the last hours. With `--if-any`, print nothing if it is certain that no job began."""
    signer = Signer(handler_url(os.environ), caller_key(os.environ))
    fields = {"vm": arguments.vm, "since": arguments.since, "form": "html" if arguments.html else "markdown"}
    try:
        [answer] = post(signer, "/report", new_id(), {name: value for name, value in fields.items() if value})
    except HandlerError as error:
        complain(str(error), error.hint)
        return FAILED
    except NoAnswer as lost:
        complain(f"{signer.url}: {lost}; a report changes nothing", lost.hint)
        return FAILED if lost.sent else UNREACHED
    if answer.get("jobs") or not answer.get("whole") or not arguments.if_any:
        show(str(answer.get("text")))
    return DONE

"""The configuration that `breakglass keys` changes, and the errors of an edit as a command's."""

import argparse
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from ...config.load import config_path
from ...config.replacing import EditError
from ..environment import use_unit_credentials
from ..errors import CommandError
from ..output import FAILED


def add_config_argument(parser: argparse.ArgumentParser) -> None:
    """Describe `--config`."""
    parser.add_argument("--config", metavar="FILE", help="the configuration (default: BREAKGLASS_CONFIG)")


def find_config(arguments: argparse.Namespace) -> Path:
    """Return the configuration's path. Raises CommandError if there is none."""
    path = config_path() if arguments.config is None else Path(arguments.config)
    if not os.path.lexists(path):
        hint = "name it with --config or BREAKGLASS_CONFIG; keys new NAME --print prints an entry for it"
        raise CommandError(f"there is no configuration {path}", hint)
    use_unit_credentials()
    return path


@contextlib.contextmanager
def changing() -> Iterator[None]:
    """Report an edit that failed as the command's error. SIGTERM and SIGHUP end the command as Ctrl-C does."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    except EditError as error:
        raise CommandError(error.message, error.hint, FAILED) from None

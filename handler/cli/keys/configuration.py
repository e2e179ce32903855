"""The configuration whose callers `breakglass keys` changes, and the errors of an edit as a command's."""

import argparse
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from ...config.caller_edits import EditError, take_back
from ...config.callers import CallerEntry
from ...config.load import config_path, load_callers
from ...config.sources import read_sources
from ..environment import use_unit_credentials
from ..errors import CommandError
from ..output import FAILED, say


def add_config_argument(parser: argparse.ArgumentParser) -> None:
    """Describe `--config`."""
    parser.add_argument("--config", metavar="FILE", help="the configuration (default: BREAKGLASS_CONFIG)")


def find_config(arguments: argparse.Namespace) -> Path:
    """Return the configuration's path. Raises CommandError if there is none."""
    path = config_path() if arguments.config is None else Path(arguments.config)
    if not os.path.lexists(path):
        hint = "name it with --config or BREAKGLASS_CONFIG; keys new NAME --print prints a caller's file"
        raise CommandError(f"there is no configuration {path}", hint)
    use_unit_credentials()
    return path


def find_caller(file: Path, name: str) -> tuple[CallerEntry, list[CallerEntry]]:
    """Return the entry of a caller, and those of the others. Raises CommandError if there is no such caller."""
    entries, _ = load_callers(read_sources(file, os.environ), os.environ)
    own = [each for each in entries if each.name == name]
    if not own:
        hint = f"use {' or '.join(each.name for each in entries)}"
        raise CommandError(f"{file} has no caller {name}", hint, FAILED)
    return own[0], [each for each in entries if each.name != name]


def show_or_take_back(arguments: argparse.Namespace, file: Path, secret: str) -> None:
    """Print a caller's new secret unless --out has it; end it if that fails, because no one has seen it then."""
    try:
        if arguments.out is None:
            say(secret)
    except BaseException:  # a pipe that is closed, or Ctrl-C
        with contextlib.suppress(EditError):
            take_back(file, arguments.name, secret)
        raise


@contextlib.contextmanager
def changing() -> Iterator[None]:
    """Report an edit that failed as the command's error. SIGTERM and SIGHUP end the command as Ctrl-C does."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    except EditError as error:
        raise CommandError(error.message, error.hint, FAILED) from None

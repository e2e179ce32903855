"""`breakglass check`: reports what a start with this configuration would report, without starting the handler."""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

from ..base.findings import ConfigError, Finding, as_json, error
from ..config.load import config_path
from ..config.model import Config
from .account import find_account
from .output import DONE, USAGE, CommandError, complain, say
from .starting import load_as, load_server_modules


def add_check(parser: argparse.ArgumentParser) -> None:
    """Describe `check`."""
    parser.description = (
        "Check a configuration with the rules of a real start, as the handler's user, but start nothing. "
        "The exit code is 2 if there is a problem; a warning doesn't change it."
    )
    parser.add_argument("file", nargs="?", metavar="FILE", help="the configuration (default: BREAKGLASS_CONFIG)")
    parser.add_argument("--json", action="store_true", help="print one line of JSON, with or without problems")
    add_user(parser)
    parser.set_defaults(run=check)


def add_user(parser: argparse.ArgumentParser) -> None:
    """Add `--user`."""
    what = "the handler's account to run as, if root runs this (default: the group of the configuration file)"
    parser.add_argument("--user", metavar="NAME", help=what)


def check(arguments: argparse.Namespace) -> int:
    """Report the problems and the warnings of a configuration; return 2 if there is a problem."""
    path = config_path() if arguments.file is None else Path(arguments.file)
    config, problems = find_problems(path, arguments.user)
    warnings = [] if config is None else config.warnings
    if arguments.json:
        found: dict[str, object] = {"file": str(path), "starts": config is not None}
        found |= {"problems": as_json(problems), "warnings": as_json(warnings)}
        say(json.dumps(found if config is None else config.summary | found))
    else:
        _show(path, config, problems, warnings)
    return USAGE if problems else DONE


def find_problems(path: Path, user: str | None) -> tuple[Config | None, Sequence[Finding]]:
    """Return the configuration (None if a start would fail) and the problems.

    If root runs this, the process first becomes the handler's user, which is `user` if that is not empty.
    """
    account, first = None, list[Finding]()
    try:
        load_server_modules()
        try:
            account = find_account(path, user)
        except CommandError as fault:
            if os.geteuid() != 0:
                raise
            # root can still read the files, so `check` can list all problems at once
            first = [error("(start)", "no-start", fault.message, fault.hint)]
        config = load_as(account, path)
    except ConfigError as unusable:
        return None, [*first, *unusable.problems]
    except CommandError as fault:
        return None, [error("(start)", "no-start", fault.message, fault.hint)]
    return None if first else config, [*first, *config.problems]


def _show(path: Path, config: Config | None, problems: Sequence[Finding], warnings: Sequence[Finding]) -> None:
    for each in warnings:
        complain(f"warning: {each.text}")
    lines = ConfigError(list(problems))
    if config is None:
        complain(f"{path}: the handler would not start\n{lines}")
    elif problems:
        complain(f"{path}: the handler would start, but without the parts that have a problem\n{lines}")
    else:
        say(f"{path}: no problems; {config.names}")

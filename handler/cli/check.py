"""`breakglass check`: report what a start with a configuration would report, and start nothing."""

import argparse
import json
import os
import pwd
from collections.abc import Callable, Sequence
from pathlib import Path

from ..config.load import config_path
from ..config.model import Config
from ..config.problems import ConfigError, Problem, list_problems
from .account import find_account
from .errors import CommandError
from .output import DONE, USAGE, complain, say
from .starting import INSTALL_SSH, load_as, load_server_modules, missing_programs

Prepare = Callable[[pwd.struct_passwd | None], None]


def check(arguments: argparse.Namespace) -> int:
    """Report the problems and the warnings of a configuration; return 2 if there is a problem."""
    path = config_path() if arguments.file is None else Path(arguments.file)
    config, problems = find_problems(path)
    warnings = [] if config is None else [*config.warnings, *_missing(config)]
    if arguments.json:
        found: dict[str, object] = {"file": str(path), "starts": config is not None}
        found |= {"problems": list_problems(problems), "warnings": warnings}
        say(json.dumps(found if config is None else config.summary | found))
    else:
        _show(path, config, problems, warnings)
    return USAGE if problems else DONE


def find_problems(path: Path, prepare: Prepare = lambda _: None) -> tuple[Config | None, Sequence[Problem]]:
    """Return the configuration that a handler would start with, None for a start that would fail, and the problems.

    `prepare` is called with the account that this process, if it is root's, then becomes.
    """
    account, first = None, list[Problem]()
    try:
        load_server_modules()
        try:
            account = find_account(path)
        except CommandError as error:
            if os.geteuid() != 0:
                raise
            first = [Problem("(start)", error.message, error.hint)]  # root can read the rest, and list all at once
        prepare(account)
        config = load_as(account, path)
    except ConfigError as error:
        return None, [*first, *error.problems]
    except CommandError as error:
        return None, [Problem("(start)", error.message, error.hint)]
    return None if first else config, [*first, *config.problems]


def _missing(config: Config) -> list[str]:
    return [f"chat needs {name}, which is not installed: {INSTALL_SSH}" for name in missing_programs(config)]


def _show(path: Path, config: Config | None, problems: Sequence[Problem], warnings: Sequence[str]) -> None:
    for warning in warnings:
        complain(f"warning: {warning}")
    if config is None:
        complain(f"{path}: the handler would not start\n{_lines(problems)}")
    elif problems:
        complain(f"{path}: the handler would start, but without the parts that have a problem\n{_lines(problems)}")
    else:
        names = [", ".join(each) for each in ([caller.name for caller in config.callers], config.hosts, config.vms)]
        say(f"{path}: no problems; callers: {names[0]}; hosts: {names[1]}; VMs: {names[2]}")


def _lines(problems: Sequence[Problem]) -> str:
    return "\n".join(map(str, problems))

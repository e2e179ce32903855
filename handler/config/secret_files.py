"""Who may read a file with a secret in it: the rule of OpenSSH and PostgreSQL."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from .reader import CREDENTIALS


def find_file(name: str, environment: Mapping[str, str]) -> str:
    """Return the path that a setting names: one that begins with CREDENTIALS is in the directory that systemd makes.

    Raises ValueError if there is no such directory.
    """
    if not name.startswith(CREDENTIALS):
        return name
    directory = environment.get("CREDENTIALS_DIRECTORY")
    if not directory:
        raise ValueError(
            "CREDENTIALS_DIRECTORY is not set: only a unit has it (see LoadCredential= in breakglass docs runbook)"
        )
    return os.path.join(directory, name.removeprefix(CREDENTIALS))


def describe_exposure(path: Path, status: os.stat_result, environment: Mapping[str, str]) -> str:
    """Return who else can reach a secret file, an empty text if only its owner can.

    Other users never may. A group may read if root owns the file, or if it is one of systemd's credentials. Pipes and
    devices are not checked. BREAKGLASS_INSECURE_CONFIG_MODE=1 allows everything.
    """
    if not stat.S_ISREG(status.st_mode) or environment.get("BREAKGLASS_INSECURE_CONFIG_MODE") == "1":
        return ""
    if status.st_mode & stat.S_IRWXO:
        return "every user of this machine can reach it"
    if status.st_mode & stat.S_IRWXG and not _is_credential(path, environment):
        if status.st_uid != 0:
            return "its group can reach it, and root does not own it"
        if status.st_mode & stat.S_IWGRP:
            return "its group can write it"
    return ""


def safe_mode(status: os.stat_result) -> str:
    """Return the mode that a secret file should have: root's are read through the group, if not by root itself."""
    return "640" if status.st_uid == 0 and os.geteuid() != 0 else "600"


def _is_credential(path: Path, environment: Mapping[str, str]) -> bool:
    directory = environment.get("CREDENTIALS_DIRECTORY")
    return bool(directory) and Path(os.path.realpath(path)).is_relative_to(os.path.realpath(str(directory)))

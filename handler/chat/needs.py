"""Looks whether what a turn needs is still there: claude's program, bubblewrap and the credential's file.

A look is a few calls of stat(2) and its like, and starts no process. Whether walls can be made is tried by service.py.
"""

import os
from collections.abc import Mapping

from ..base.findings import Finding, error
from ..config.model import ChatSettings
from ..config.sources import find_file
from .program import find_program
from .wall import bwrap

_NO_FILES = ("/dev/", "/proc/")  # a credential that came through a pipe is not there again


def find_lack(settings: ChatSettings, environment: Mapping[str, str]) -> Finding | None:
    """Return what is missing, or None; its code is that of /health, and its sentence, for the log, may name a file."""
    if not find_program(settings):
        why = f"chat.command names {settings.command}, which is not there or not executable"
        return error("chat", "claude-missing", why, "")
    if not os.access(bwrap(), os.X_OK):
        return error("chat", "sandbox-missing", "bwrap is not installed", "apt-get install bubblewrap")
    why = find_credential_fault(settings.credential_file, environment)
    return error("chat", "credential-missing", why, "") if why else None


def find_credential_fault(setting: str, environment: Mapping[str, str]) -> str:
    """Return why the file of chat.credential_file is no longer good, or ""."""
    path = find_file(setting, environment)
    if not setting or path.startswith(_NO_FILES):
        return ""
    try:
        if os.stat(path).st_size == 0:
            return f"{path} is empty"
    except OSError as fault:
        return f"{path} can't be found: {fault.strerror}"
    return "" if os.access(path, os.R_OK) else f"{path} can't be read by the handler's user"

"""Starts the process that stands between a turn's claude and the model's API, and has the credential.

Standard library only, for the runner. claude gets a token in the credential's place, which is good for this turn at
this process and nowhere else. It is in the same variable, because the CLI's headers follow the variable.
"""

import os

from ..config.model_api import ModelApi
from .processes import PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, fork_child, prctl


def start_model_proxy(api: ModelApi, listener: int) -> tuple[int, dict[str, str]]:
    """Fork the proxy of a turn, which takes a listening socket over; return its pid, and the token as a variable.

    It loads what it needs while claude starts. Call this in a process without threads.
    """
    token = f"turn-{os.urandom(32).hex()}"
    pid = fork_child(lambda: _serve(listener, api, token), close=())
    os.close(listener)  # so that claude does not wait for a proxy that has died
    return pid, {api.variable: token}


def _serve(listener: int, api: ModelApi, token: str) -> None:
    """Serve the turn, without any other descriptor of the runner's, and with a memory that its own user can't read."""
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.closerange(3, listener)
    os.closerange(listener + 1, os.sysconf("SC_OPEN_MAX"))
    prctl(PR_SET_DUMPABLE, 0)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    from .model_forwarder import serve

    serve(listener, api, token)

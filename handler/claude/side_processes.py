"""Starts the two processes beside claude: one serves its commands, one has the credential for the model's API."""

import os

from ..config.model_api import ModelApi
from .processes import PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, fork_child, prctl
from .runner_job import RunnerJob

# --- Starts the process that serves claude's commands: commands.py, which loads what it needs while claude starts.


def start_command_server(job: RunnerJob) -> None:
    """Fork the server of a turn's commands, which takes the job's listener over. Needs a process without threads."""
    served = (job.listener, job.api_listener)  # the second one is closed already
    fork_child(lambda: _serve_commands(job), close=[fd for fd in job.descriptors if fd not in served])
    os.close(job.listener)  # so that a client does not wait for a server that has died


def _serve_commands(job: RunnerJob) -> None:
    from .commands import serve

    serve(job)


# --- Starts the process that stands between a turn's claude and the model's API, and has the credential ---
#
# Standard library only, for the runner. claude gets a token in the credential's place, which is good for this turn at
# this process and nowhere else. It is in the same variable, because the CLI's headers follow the variable.


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

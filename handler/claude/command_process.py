"""Starts the process that serves claude's commands: commands.py, which loads what it needs while claude starts."""

import os

from .processes import fork_child
from .runner_job import RunnerJob


def start_command_server(job: RunnerJob) -> None:
    """Fork the server of a turn's commands, which takes the job's listener over. Needs a process without threads."""
    served = (job.listener, job.api_listener)  # the second one is closed already
    fork_child(lambda: _serve(job), close=[fd for fd in job.descriptors if fd not in served])
    os.close(job.listener)  # so that a client does not wait for a server that has died


def _serve(job: RunnerJob) -> None:
    from .commands import serve

    serve(job)

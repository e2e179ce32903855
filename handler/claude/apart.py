"""Keeps claude's process, and what it starts, apart from the machine. Standard library only, for the runner."""

from .cgroup import enter_cgroup
from .network import enter_network
from .runner_job import RunnerJob
from .sockets import refuse_other_sockets


def set_apart(job: RunnerJob) -> None:
    """Keep this process apart from the machine. It is claude's, before that has claude's user. Raises OSError."""
    enter_network(job.network)
    enter_cgroup(job.cgroup)
    refuse_other_sockets()

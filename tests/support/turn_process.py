"""A turn's claude and its commands without the rest of a runner: claude's output comes out as it is."""

import os
import sys

from breakglass.claude import commands
from breakglass.claude.apart import set_apart
from breakglass.claude.processes import fork_child, start_program
from breakglass.claude.runner_job import RunnerJob
from breakglass.claude.side_processes import start_model_proxy
from breakglass.claude.start import listen_for_model


def main() -> int:
    """Run the job on standard input; return claude's exit code."""
    job = RunnerJob.from_json(sys.stdin.buffer.read())
    prompt = os.memfd_create("prompt")
    os.write(prompt, job.prompt.encode())
    os.lseek(prompt, 0, os.SEEK_SET)
    if job.api is not None:
        listener, network = listen_for_model(bool(job.uids))
        env = {**job.env, "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{listener.getsockname()[1]}"}
        _, token = start_model_proxy(job.api, listener.detach())
        job = job._replace(env=env | token, network=network)
    fork_child(lambda: commands.serve(job), close=())
    streams = (prompt, os.dup(1), os.dup(2))
    pid, status = start_program(job.argv, job.env, job.cwd, job.uid, streams, enter=lambda: set_apart(job))
    os.close(status)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())

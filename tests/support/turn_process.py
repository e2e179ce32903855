"""A turn's claude and its commands without the rest of a runner: claude's output comes out as it is."""

import os
import socket
import sys

from breakglass.claude import commands
from breakglass.claude.model_proxy import start_model_proxy
from breakglass.claude.processes import fork_child, start_program
from breakglass.claude.runner_job import RunnerJob


def main() -> int:
    """Run the job on standard input; return claude's exit code."""
    job = RunnerJob.from_json(sys.stdin.buffer.read())
    prompt = os.memfd_create("prompt")
    os.write(prompt, job.prompt.encode())
    os.lseek(prompt, 0, os.SEEK_SET)
    if job.api is not None:
        listener = socket.create_server(("127.0.0.1", 0))
        env = {**job.env, "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{listener.getsockname()[1]}"}
        _, token = start_model_proxy(job.api, listener.detach(), job.uid)
        job = job._replace(env=env | token)
    fork_child(lambda: commands.serve(job), close=())
    pid, status = start_program(job.argv, job.env, job.cwd, job.uid, (prompt, os.dup(1), os.dup(2)))
    os.close(status)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())

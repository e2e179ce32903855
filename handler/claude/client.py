"""A command of claude's that runs outside its sandbox: sends its name and words to the runner, and passes on the exit.

It is copied into the sandbox as `bin/NAME` and uses nothing but the standard library. The runner gets the standard
streams themselves (SCM_RIGHTS, unix(7)), so nothing is copied in between.
"""

import json
import os
import socket
import sys

_BYTES = 65536
_HERE = os.path.dirname(os.path.abspath(__file__))


def main() -> int:
    """Have the command run, and return its exit code."""
    name = os.path.basename(__file__)
    request = json.dumps([name, *sys.argv[1:]]).encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as runner:
        try:
            runner.connect(f"{_HERE}/../commands")
            if len(request) > _BYTES:
                raise OSError(f"the command is longer than {_BYTES} bytes")
            socket.send_fds(runner, [request], [0, 1, 2])
            answer = json.loads(runner.recv(_BYTES))
        except (OSError, ValueError) as error:
            sys.stderr.write(f"{name}: it could not be run: {error}\n")
            return 255
    if answer["said"]:
        sys.stderr.write(f"{name}: {answer['said']}\n")
    return int(answer["exit"])


sys.exit(main())

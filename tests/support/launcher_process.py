"""A launcher without a handler: the other end of its socket is the test's. It writes its log to standard output."""

import os
import socket
import sys
from pathlib import Path

from breakglass.claude.launch_channel import open_channel
from breakglass.claude.launcher import Launcher
from breakglass.config.load import load_config


def main() -> None:
    """Take messages from user `uid` on each channel that comes in, in a process of its own, until there is no test."""
    control, uid, config = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]), Path(sys.argv[3])
    load_config(config, {})  # so that no launcher has to load the library for its keys
    while control.recv(1):
        ours, theirs = open_channel()
        pid = os.fork()
        if pid == 0:
            control.close()
            ours.close()
            handler = os.pidfd_open(os.getppid())
            Launcher(theirs, (uid, uid), lambda: load_config(config, {}), handler).run()
            sys.exit(0)
        theirs.close()
        socket.send_fds(control, [str(pid).encode()], [ours.fileno()])
        ours.close()
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()

"""A stand-in for `qmeventd`, for one QEMU: when that ends, it becomes `qm cleanup`, which may start the VM again."""

import os
import select
import sys

from . import qm
from .processes import name_process
from .times import burn

PIDFD = 3


def main() -> int:
    """`ROOT VMID`, with a pidfd of the QEMU as descriptor 3."""
    root, vmid = sys.argv[1:]
    name_process(["/usr/sbin/qmeventd", "/var/run/qmeventd.sock"], "qmeventd")
    select.select([PIDFD], [], [])
    os.close(PIDFD)
    if not os.path.exists(root):
        return 0
    name_process(["/usr/bin/perl", "/usr/sbin/qm", "cleanup", vmid, "1", "0"], "qm")
    burn(root)
    return qm.run(root, "cleanup", int(vmid), ["1", "0"])

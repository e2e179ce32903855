"""The host agent's waits, in seconds: one table, to be read and scaled as a whole.

The figures were measured on qemu-server 9.2.6 and pve-ha-manager 5.2.0 or stand in their sources.
"""

# ---- for Proxmox

# `qm stop` of a silent QEMU: quit 60, SIGTERM 10, SIGKILL 1; with a QEMU storage daemon up to 70 more.
QM_STOP_SECONDS = 150.0
# Under HA the same, 11 to 20 s after the request.
HA_STOP_SECONDS = 170.0
# HA's manager takes a request within a round of 10 s, and writes it down.
HA_TAKES_SECONDS = 30.0
# `qm start`, with hooks and the activation of volumes, of a VM for whose QEMU Proxmox allows START_COVERED_SECONDS.
QM_START_SECONDS = 150.0
HA_START_SECONDS = 120.0
SECOND_START_SECONDS = 2.0
# Short holders of the VM's lock file; `qm cleanup`, which holds it for up to 30 s after a quick restart.
FLOCK_SECONDS = 3.0
CLEANUP_SECONDS = 35.0

# ---- for this machine, and for the times that a configuration sets; tests don't scale these

# Where Proxmox allows QEMU more than this to start, `qm start` and its verb get as much more, 900 s at most in all.
START_COVERED_SECONDS = 90.0
MOST_MORE_SECONDS = 750.0
# A new QEMU that answers but does not run yet.
START_VERIFY_SECONDS = 60.0
# `qm` has this to end after SIGTERM, before it is killed, and the kernel has it to end it then.
QM_END_SECONDS = 1.0
# Processes that are left in the scope after a stop may take a moment to end.
SETTLE_SECONDS = 5.0
# After QEMU's end: qmeventd's cleanup begins, and may start the VM again.
AFTERMATH_SECONDS = 5.0
AFTERMATH_BEGINS_SECONDS = 0.4
# The part of the deadline that is kept for the steps after qm: a look, quit, SIGTERM, SIGKILL and the proof.
LADDER_SECONDS = 28.0
QUIT_SECONDS = 5.0
TERM_SECONDS = 10.0
KILL_SECONDS = 5.0

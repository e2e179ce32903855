"""The host agent's times that one another has to outlast, in seconds. One is what it outlasts, and some slack.

Those for Proxmox were measured on qemu-server 9.2.6 and pve-ha-manager 5.2.0 or stand in their sources.
tests/unit/test_budget.py compares all of them, also with the deadlines of the verbs (words.py).
"""

# ---- for Proxmox

# `qm stop` of a silent QEMU: quit 60, SIGTERM 10, SIGKILL 1; with a QEMU storage daemon up to 70 more.
QM_STOP_SECONDS = 150.0
HA_STOP_SECONDS = QM_STOP_SECONDS + 20.0  # which HA takes until it begins
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
MOST_MORE_SECONDS = 900.0 - QM_START_SECONDS
# A new QEMU that answers but does not run yet.
START_VERIFY_SECONDS = 60.0
# `qm` has this to end after SIGTERM, before it is killed, and the kernel has it to end it then.
QM_END_SECONDS = 1.0
# Processes that are left in the scope after a stop may take a moment to end.
SETTLE_SECONDS = 5.0
# After QEMU's end: qmeventd's cleanup begins, and may start the VM again.
AFTERMATH_SECONDS = 5.0
AFTERMATH_BEGINS_SECONDS = 0.4
# The part of the deadline that is kept for the steps after qm, and in it 8 for a look and the proof.
QUIT_SECONDS = 5.0
TERM_SECONDS = 10.0
KILL_SECONDS = 5.0
LADDER_SECONDS = QUIT_SECONDS + TERM_SECONDS + KILL_SECONDS + 8.0
# The evidence before a verb, or of a capture.
EVIDENCE_SECONDS = 15.0

# ---- for an answer

# What `where` waits for /etc/pve, the archive and /proc together.
WHERE_SECONDS = 0.8
# For a look at what a killed job has left, and by how much its result may be later than its deadline.
QUESTION_SECONDS = 8.0
RESULT_SECONDS = QUESTION_SECONDS + 7.0

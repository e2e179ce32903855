"""The host agent's time limits that depend on each other, in seconds. Each is the sum of what it outlasts, plus slack.

The limits for Proxmox were measured on qemu-server 9.2.6 and pve-ha-manager 5.2.0, or come from their sources.
tests/unit/test_budget.py compares all of them with each other and with the deadlines of the verbs (words.py).
"""

# ---- for Proxmox

# `qm stop` of a silent QEMU: quit 60, SIGTERM 10, SIGKILL 1; with a QEMU storage daemon up to 70 more.
QM_STOP_SECONDS = 150.0
HA_STOP_SECONDS = QM_STOP_SECONDS + 20.0  # HA takes up to 20 s before it begins to stop the VM
# HA's manager works in rounds of 10 s. In one round, it reads a request and records it.
HA_TAKES_SECONDS = 30.0
# `qm start`, with hooks and the activation of volumes, if Proxmox gives the VM's QEMU at most START_COVERED_SECONDS
# to start.
QM_START_SECONDS = 150.0
HA_START_SECONDS = 120.0
SECOND_START_SECONDS = 2.0
# A process may hold the VM's lock file briefly. After a quick restart, `qm cleanup` may hold that file for 30 s.
FLOCK_SECONDS = 3.0
CLEANUP_SECONDS = 35.0

# ---- for this machine, and for times that a configuration sets; tests do not scale these

# If Proxmox gives QEMU more time than this to start, `qm start` and its verb get the same extra time, at most 900 s in
# all.
START_COVERED_SECONDS = 90.0
MOST_MORE_SECONDS = 900.0 - QM_START_SECONDS
# The wait for a new QEMU that answers but does not run yet.
START_VERIFY_SECONDS = 60.0
# After SIGTERM, `qm` has this long to end before it gets SIGKILL. After SIGKILL, the kernel has this long to end `qm`.
QM_END_SECONDS = 1.0
# After a stop, the processes that remain in the VM's scope may take this long to end.
SETTLE_SECONDS = 5.0
# After QEMU has ended, qmeventd's cleanup begins within this time, and may start the VM again.
AFTERMATH_SECONDS = 5.0
AFTERMATH_BEGINS_SECONDS = 0.4
# The part of the deadline that is kept for the steps after qm. It includes 8 s for a look and the proof.
QUIT_SECONDS = 5.0
TERM_SECONDS = 10.0
KILL_SECONDS = 5.0
LADDER_SECONDS = QUIT_SECONDS + TERM_SECONDS + KILL_SECONDS + 8.0
# The longest time for the evidence before a verb, or for a capture.
EVIDENCE_SECONDS = 15.0

# ---- for an answer

# The longest time that `where` waits for /etc/pve, the archive and /proc together.
WHERE_SECONDS = 0.8
# The time to find out what a killed job has left behind. The job's result may come this long after its deadline.
QUESTION_SECONDS = 8.0
RESULT_SECONDS = QUESTION_SECONDS + 7.0

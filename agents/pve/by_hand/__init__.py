"""The commands for a person in a shell of the host: the verbs of one VM, `check`, `allow`, `revoke` and `heartbeat`."""

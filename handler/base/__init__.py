"""Words and tools that everything uses, and that use nothing of ours but the host agent's words."""

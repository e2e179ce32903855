"""The `breakglass` command."""

import sys


def main() -> int:
    """Run the command that the arguments name; return its exit code."""
    if sys.argv[1:] == ["turn"]:  # the handler or its socket's unit starts it, and what it loads is waited for
        from ..chat.turn import main as run_turn

        return run_turn()
    from .commands import run

    return run()

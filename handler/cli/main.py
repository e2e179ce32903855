"""The `breakglass` command."""

import sys


def main() -> int:
    """Run the command that the arguments name; return its exit code."""
    # the handler or the socket's unit starts this command, which loads little, because a turn waits for it
    if sys.argv[1:] == ["turn"]:
        from ..chat.turn import main as run_turn

        return run_turn()
    from .commands import run

    return run()

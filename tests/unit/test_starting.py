"""The start of a handler."""

import gc

from breakglass.cli.starting import load_server_modules


def test_the_modules_are_no_garbage() -> None:
    """The collector leaves the loaded modules alone, and works for all that comes later."""
    gc.unfreeze()
    load_server_modules()
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0

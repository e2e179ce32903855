"""The hook point through which a test changes how the stand-ins behave. The demo itself uses no plugin.

The symbolic link `<root>/plugin` names a Python file. Each stand-in command runs isolated (`python -IS`), so it loads
that file by its path. It then calls `PLUGIN`, an instance of a subclass of `Plugin`.
"""

import os
from collections.abc import Callable


class Plugin:
    """The hooks that a plugin can override. Without a plugin, these methods run and change nothing."""

    def before(self, root: str, tool: str, words: list[str]) -> None:
        """Run before `tool` does its work. It may raise Died, change `times.SECONDS`, or never return."""

    def do_step(self, step: str, root: str, vmid: int, verb: str, work: Callable[[], None]) -> None:
        """Do one step of a verb: the `task` (under the VM's flock), HA's `manager` round, or HA's `lrm` round."""
        work()

    def is_online(self, root: str, storage: str) -> bool:
        """Return whether a storage answers. May take as long as the storage does."""
        return True


def load_plugin(root: str) -> Plugin:
    """Return the plugin of the host at `root`."""
    try:
        path = os.readlink(f"{root}/plugin")
    except FileNotFoundError:
        return Plugin()
    return _load(path)


def _load(path: str) -> Plugin:
    from importlib.machinery import SourceFileLoader
    from types import ModuleType

    module = ModuleType("breakglass_plugin")
    SourceFileLoader(module.__name__, path).exec_module(module)
    found: Plugin = module.PLUGIN
    return found

"""On PYTHONPATH while tests are measured: each Python that starts records what it runs.

The process of a turn is isolated: nothing in its environment could have it measured. So the function that makes the
command lines of isolated programs is replaced as its module is loaded.
"""

import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
from tests.support.measuring import ROOT, begin, prologue

del sys.path[0]


class _Isolated:
    """A finder that changes one module as it is loaded. `importlib.abc` takes longer to import than all else here."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "breakglass.base.isolated":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path, target)
        assert spec
        assert spec.loader
        load = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            load(module)
            _measure(module)

        vars(spec.loader)["exec_module"] = exec_module
        return spec


def _measure(module: ModuleType) -> None:
    """Have the command line of a turn begin with the lines that record."""
    isolated_command = module.isolated_command

    def measured(name: str, *arguments: str) -> list[str]:
        command: list[str] = isolated_command(name, *arguments)
        if name == "chat.turn":
            command[3] = f"import sys; sys.path.insert(0, {ROOT!r})\n{prologue()}{command[3]}"
        return command

    vars(module)["isolated_command"] = measured


begin()
sys.meta_path.insert(0, _Isolated())

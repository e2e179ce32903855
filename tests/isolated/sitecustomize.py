"""On PYTHONPATH while tests are measured: a handler then starts chat's runner so that it records what it runs.

The runner is isolated: nothing in its environment could have it measured. So the function that makes the command lines
of isolated programs is replaced as its module is loaded.
"""

import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class _Isolated(MetaPathFinder):
    """Changes one module as it is loaded."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "breakglass.isolated":
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        assert spec
        assert spec.loader
        load = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            load(module)
            _measure(module)

        vars(spec.loader)["exec_module"] = exec_module
        return spec


def _measure(module: ModuleType) -> None:
    """Have the command line of the runner begin with the lines that record."""
    isolated_command = module.isolated_command

    def measured(name: str, *arguments: str) -> list[str]:
        command: list[str] = isolated_command(name, *arguments)
        if name == "claude.runner":
            sys.path.append(ROOT)
            from tests.support.measuring import prologue

            command[3] = f"import sys; sys.path.insert(0, {ROOT!r})\n{prologue()}{command[3]}"
        return command

    vars(module)["isolated_command"] = measured


sys.meta_path.insert(0, _Isolated())

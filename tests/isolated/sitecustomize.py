"""On PYTHONPATH while tests are measured: a handler then starts chat's runner so that it records what it runs.

The runner is isolated: nothing in its environment could have it measured.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

LAUNCH = "handler.launch"  # the module that starts the runner, by the program text in its `_MAIN`


class _Launch(MetaPathFinder):
    """Changes one module as it is loaded."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != LAUNCH:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        assert spec
        assert spec.loader
        load = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            from ..support.measuring import prologue

            load(module)
            vars(module)["_MAIN"] = f"import sys; sys.path.insert(0, sys.argv[1])\n{prologue()}{vars(module)['_MAIN']}"

        vars(spec.loader)["exec_module"] = exec_module
        return spec


sys.meta_path.insert(0, _Launch())

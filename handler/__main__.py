"""Run the `breakglass` command: `python -m breakglass`, or `python handler` in a checkout that is not installed."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

if not __package__:  # python was given the folder's path, so register the folder as the package
    here = Path(__file__).resolve().parent
    spec = spec_from_file_location("breakglass", here / "__init__.py", submodule_search_locations=[str(here)])
    assert spec is not None
    assert spec.loader is not None
    package = module_from_spec(spec)
    sys.modules["breakglass"] = package
    spec.loader.exec_module(package)
    if Path(sys.path[0]).resolve() == here:  # it may be a link
        del sys.path[0]  # so that `import config` does not find the handler's module

from breakglass.cli.main import main

sys.exit(main())

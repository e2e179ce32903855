"""The tests of the page's modules that need no browser. node's own runner runs them from tests/page_js/."""

import json
import os
import subprocess
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent / "page_js"


@pytest.mark.real("node")
@pytest.mark.parametrize("folder", [".", "flows"])
def test_the_modules_without_a_browser(folder: str) -> None:
    """Every test of tests/page_js/ passes. A failure shows what node said.

    `flows` has one page, which sends and looks by itself, so it has its own process.
    """
    files = sorted((TESTS / folder).glob("*.test.js"))
    assert files
    # one process for all files, because node's own search starts one for each, which takes twice as long
    imports = "".join(f"import {json.dumps(path.as_uri())};" for path in files)
    # a module says it is one by its imports; node warns that a package.json could say so
    quiet = "--disable-warning=MODULE_TYPELESS_PACKAGE_JSON"
    command = ["node", quiet, "--test-reporter=spec", "--input-type=module", "--eval", imports]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NODE_")}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"

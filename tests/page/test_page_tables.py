"""The page's table of verdict codes, held to what it repeats."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from breakglass.server.app import PAGE

pytestmark = pytest.mark.real("node")

API = Path(__file__).parent.parent.parent / "docs/api.md"
PRINT = 'import("./{}").then((module) => console.log(JSON.stringify(module)));'


def exports(module: str) -> dict[str, Any]:
    """Return what a module of the page exports, its functions left out."""
    command = ["node", "--disable-warning=MODULE_TYPELESS_PACKAGE_JSON", "-e", PRINT.format(module)]
    ran = subprocess.run(command, cwd=PAGE, capture_output=True, text=True, timeout=60, check=True)
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def test_the_page_knows_each_verdict() -> None:
    """The page has words for each verdict that docs/api.md lists for a look, and for no other."""
    section = API.read_text(encoding="utf-8").partition("**Verdict codes.**")[2].partition("\n### ")[0]
    [listed] = re.findall(r"^\| `done`: `forensics` \| `([a-z -]+)` \|$", section, re.MULTILINE)
    assert "In a `status`, a VM that runs has the code `qemu-running` or `stale-copy`" in " ".join(section.split())
    codes = {*listed.split(), "qemu-running"}
    assert set(exports("base/words.js")["VERDICTS"]) == codes
    samples = (PAGE.parent / "tests/page_js/samples.js").read_text(encoding="utf-8")
    [swept] = re.findall(r"VERDICT_CODES = \[(.*?)\];", samples, re.DOTALL)
    assert set(re.findall(r'"([a-z-]+)"', swept)) == codes

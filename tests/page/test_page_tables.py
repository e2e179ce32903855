"""The page's tables, held to what they repeat: the verbs, what a person can lift, the stages, the verdict codes."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from breakglass.agents.pve import words
from breakglass.counts import STAGES
from breakglass.verbs import ANYWAY, VERBS
from breakglass.web.app import PAGE

pytestmark = pytest.mark.real("node")

PROTOCOL = Path(__file__).parent.parent.parent / "docs/protocol.md"
PRINT = 'import("./{}").then((module) => console.log(JSON.stringify(module)));'


def exports(module: str) -> dict[str, Any]:
    """Return what a module of the page exports, its functions left out."""
    command = ["node", "--disable-warning=MODULE_TYPELESS_PACKAGE_JSON", "-e", PRINT.format(module)]
    ran = subprocess.run(command, cwd=PAGE, capture_output=True, text=True, timeout=60, check=True)
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


@pytest.fixture(scope="module")
def table() -> dict[str, Any]:
    return exports("verbs.js")


def test_the_page_has_the_same_verbs(table: dict[str, Any]) -> None:
    """The page names each verb as the handler does, and knows which of them change power."""
    labels = {name: verb["label"] for name, verb in table["VERBS"].items()}
    assert labels == {verb.name: verb.label for verb in VERBS.values()}
    mutating = {name for name, verb in table["VERBS"].items() if "does" in verb}
    assert mutating == set(words.MUTATING) == set(table["POWER"])
    assert len(table["POWER"]) == len(mutating)


def test_the_page_asks_before_it_changes_power(table: dict[str, Any]) -> None:
    """A verb that changes power has every answer that the question before it gives: what it does, costs and takes."""
    for name in words.MUTATING:
        verb = table["VERBS"][name]
        assert all(verb[answer] for answer in ("does", "costs", "takes", "doing"))
    assert {name for name, verb in table["VERBS"].items() if "costs" in verb} == set(words.MUTATING)


def test_the_page_offers_what_can_be_lifted(table: dict[str, Any]) -> None:
    """The page knows the refusals that a person can lift, and says the same of what that can cost."""
    assert table["ANYWAY"] == {code: override.cost for code, override in ANYWAY.items()}


def test_the_page_knows_each_stage(table: dict[str, Any]) -> None:
    """The bar shows the stages of a verb under the host agent's names, but for the check before it begins."""
    for name in words.MUTATING:
        shown = table["VERBS"][name]["stages"]
        assert set(shown) <= set(table["STAGES"])
        assert sorted([*shown, "preflight"]) == sorted(STAGES[name])
        assert (shown[0], shown[-1]) == ("forensics", "verify")


def test_the_page_knows_each_verdict() -> None:
    """The page has words for each verdict that docs/protocol.md, section 4, lists for a look, and for no other."""
    [section] = re.findall(r"^## 4\..*?(?=^## 5)", PROTOCOL.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    [listed] = re.findall(r"^\| `done`: `forensics` \| `([a-z -]+)` \|$", section, re.MULTILINE)
    assert "`qemu-running` and `stale-copy` are the only codes of a VM that runs" in section
    codes = {*listed.split(), "qemu-running"}
    assert set(exports("words.js")["VERDICTS"]) == codes
    samples = (PAGE.parent / "tests/page_js/samples.js").read_text(encoding="utf-8")
    [swept] = re.findall(r"VERDICT_CODES = \[(.*?)\];", samples, re.DOTALL)
    assert set(re.findall(r'"([a-z-]+)"', swept)) == codes

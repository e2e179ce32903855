"""The documents as a terminal shows them, and the results of `breakglass docs CODE`."""

import re
from pathlib import Path

import pytest

from breakglass.cli.call import REFUSALS
from breakglass.cli.docs import read_documents
from breakglass.cli.docs_text import lines_about
from breakglass.proxmox.outcome import HTTP_STATUS

ROOT = Path(__file__).parent.parent.parent
DOCUMENTS = read_documents()
RUNBOOK = {"runbook": DOCUMENTS["runbook"]}
NO_ANSWERS = {"job-unknown"}  # the answer is `"job": null`


CODE = r'"([a-z-]+)"'
CALLS = rf'\b(?:refusal|failure|Verdict|Unreached|answer_without_trailer|_answer)\(\s*(?:"unknown", )?{CODE}'
PAIRS = rf"\b(?:code, sentence, hint|cause, why) = {CODE}"


def codes_of_answers() -> set[str]:
    """Return the codes that a verdict can have, from the words of the page, the host agent and the connection."""
    paths = [path for name in ("agents/pve", "handler/proxmox") for path in (ROOT / name).rglob("*.py")]
    code = "".join(path.read_text("utf-8") for path in [*paths, ROOT / "handler/web/pve.py"])
    words = (ROOT / "static_site/base/words.js").read_text("utf-8").partition("const VERDICTS")[2].partition("\n};")[0]
    found = {
        *re.findall(CALLS, code),
        *re.findall(PAIRS, code),
        *re.findall(r'^\t"?([a-z-]+)"?: {', words, re.MULTILINE),
    }
    return found - NO_ANSWERS - HTTP_STATUS.keys()


def test_the_runbook_explains_each_code() -> None:
    """A refusal ends with `breakglass docs CODE`, which then prints a row or a section of the runbook."""
    codes = codes_of_answers()
    assert {"stranded", "storage-hung", "guest-hung", "timeout", "vm-held", "no-usable-vm", "answer-lost"} <= codes
    assert [code for code in sorted(codes) if not lines_about(code, RUNBOOK)] == []
    assert [code for code in REFUSALS if not lines_about(code, DOCUMENTS)] == []


@pytest.mark.slow
def test_each_code_of_doctor_leads_to_its_fault() -> None:
    """`breakglass docs CODE` finds each code that the table of docs/monitoring.md has."""
    table = DOCUMENTS["monitoring"].partition("| fault | doctor |")[2].partition("\n\n")[0]
    codes = {code for line in table.splitlines()[1:] for code in re.findall(r"`([a-z-]+)`", line.split("|")[2])}
    assert len(codes) > 60
    assert [code for code in codes if not lines_about(code, DOCUMENTS)] == []

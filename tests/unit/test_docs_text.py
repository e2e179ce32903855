"""The documents as a terminal shows them, and the results of `breakglass docs CODE`."""

import re
from pathlib import Path

import pytest

from breakglass.cli.call import REFUSALS
from breakglass.cli.docs import read_documents
from breakglass.cli.docs_text import lines_about, render, section_with
from breakglass.proxmox.outcome import HTTP_STATUS

from ..support.rows import each_row

ROOT = Path(__file__).parent.parent.parent
DOCUMENTS = read_documents()
RUNBOOK = {"runbook": DOCUMENTS["runbook"]}
NO_ANSWERS = {"job-unknown"}  # the answer is `"job": null`


@each_row("name", DOCUMENTS)
def test_a_document_fits_a_terminal(name: str) -> None:
    """No line is wider than 80 columns unless a single word is, no table or link is left, and no word is lost."""
    text = DOCUMENTS[name]
    prose = re.sub(r"^( *)```.*?^\1```", "", text, flags=re.DOTALL | re.MULTILINE)
    shown = render(prose)
    wide = [line for line in shown.splitlines() if len(line) > 80]
    assert [line for line in wide if not re.search(r"`[^`]{40,}`|\S{40,}", line)] == []
    assert re.findall(r"\]\([\w#/.]|^ *\|.*\|$", shown, re.MULTILINE) == []
    kept = set(re.findall(r"\w+", shown))
    words = re.sub(r"\]\([^)]*\)", "]", "\n".join(line for line in prose.splitlines() if "|" not in line))
    assert set(re.findall(r"\w+", words)) - kept == set()


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


def test_what_a_row_leads_to_is_printed_with_it() -> None:
    """It prints the code's row, the section of its link and the name of the page, and nothing about other codes."""
    found = render(lines_about("storage-hung", RUNBOOK))
    assert re.search(r"^storage-hung +the storage", found, re.MULTILINE)
    assert "    pvesm status --storage ID\n" in found
    assert found.endswith("The whole page: `breakglass docs runbook`\n")
    assert "guest-hung" not in found
    assert lines_about("no-such-code", DOCUMENTS) == ""


def test_a_section_ends_at_the_next_of_its_level() -> None:
    """The words of a heading find it, whatever their case, with what is below it. A comment in code is no heading."""
    text = "# A page\n\n## How to\n\n```sh\n# how to\n```\n\n### Below\n\n## Next\n"
    assert section_with("HOW", text) == text.partition("\n\n## Next")[0].partition("page\n\n")[2] + "\n"
    assert section_with("nowhere", text) == ""

"""Each command in a document is run by a test, which takes it from the document."""

import re

from breakglass.agents.pve.words import MUTATING

from ..support.documents import ROOT, documents, read_blocks, sections
from ..support.rows import each_row

TESTS = ROOT / "tests"
OF_THE_TESTS = "they run the tests, and this is one of them"
NO_PODMAN = "podman needs cgroups to itself; tests/deploy/test_container.py does by hand what its options say"
NO_CLUSTER = (
    "it needs a cluster; tests/deploy/test_kubernetes.py checks what they apply, and the paths of what they run there"
)
NOT_RUN = {
    ("docs/install.md", "8. Chat"): "it installs claude; tests/deploy/test_packaging.py finds it where pip puts it",
    ("docs/container.md", "Running it"): NO_PODMAN,
    ("docs/kubernetes.md", "Installing"): NO_CLUSTER,
    ("docs/kubernetes.md", "Changing the configuration, rotating a key"): NO_CLUSTER,
    ("docs/testing.md", "Testing"): OF_THE_TESTS,
    ("docs/testing.md", "Real parts"): OF_THE_TESTS,
    ("docs/testing.md", "Test strength"): OF_THE_TESTS,
    ("docs/admin.md", "Namespaces for chat"): "they change AppArmor, of which there is one",
    ("docs/runbook.md", "/etc/pve is away"): "it restarts Proxmox's cluster file system, which has no stand-in",
}


def test_each_command_in_a_document_is_run() -> None:
    """A command that no test runs is a claim. The few that can't be run here are in NOT_RUN, with the reason.

    A test writes `[one, two] = commands(…)` or a loop, so that it leaves none out.
    """
    written = {(document, heading) for document in documents() for heading in sections(document)}
    source = "".join(path.read_text(encoding="utf-8") for path in TESTS.rglob("test_*.py"))
    run = set(re.findall(r"(?:\] =|for \w+ in) commands\(\s*[\"'](.+?)[\"'], [\"'](.+?)[\"'],?\s*\)", source))
    assert sorted(written - run - set(NOT_RUN)) == [], "take these with commands(), and run them"
    assert sorted((run | set(NOT_RUN)) - written) == [], "these have no commands, or are no headings"
    assert set(NOT_RUN) & run == set(), "these are run, and need no excuse"


def test_no_block_of_the_runbook_changes_power() -> None:
    """A person who is half asleep pastes a block whole, so the verbs stand in tables and sentences only."""
    blocks = read_blocks("docs/runbook.md")
    assert len(blocks) > 3
    power = re.compile(rf"\b({'|'.join([*MUTATING, 'kill', 'shutdown', 'reboot'])})\b")
    assert [block.text for block in blocks if power.search(block.text)] == []


@each_row("document", documents())
def test_each_command_can_be_found(document: str) -> None:
    """Each block is fenced and has a language; a heading with commands is the only one of its name."""
    text = (ROOT / document).read_text(encoding="utf-8")
    assert [f"{document}:{block.line}" for block in read_blocks(document) if not block.language] == []
    outside = re.sub(r"^( *)```.*?^\1```", "", text, flags=re.DOTALL | re.MULTILINE)
    assert re.findall(r"\n\n(?: {4}|\t)[^ *\-].*", outside) == [], "indented blocks: fence them, with a language"
    headings = re.findall(r"^#+ (.+)$", outside, re.MULTILINE)
    assert [heading for heading in sections(document) if headings.count(heading) > 1] == []

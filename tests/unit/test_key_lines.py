"""The judgements of `breakglass-pve check` on authorized_keys files, each from a text alone."""

from collections.abc import Iterable

from breakglass.agents.pve.check.findings import ERROR, OK, WARNING, Finding
from breakglass.agents.pve.check.key_lines import (
    KeyLine,
    judge_elsewhere,
    judge_key_lines,
    judge_kinds,
    judge_vms,
    parse_key_lines,
    served_vms,
)
from breakglass.agents.pve.host.cluster import parse_vmlist

from ..support.record import check_cases
from ..support.rows import each_row, read_rows

POWER, READ_ONLY = "ssh-ed25519 AAAApower", "ssh-ed25519 AAAAread"
SERVE = "/usr/local/sbin/breakglass-pve serve --vms 102"
LINE = f'restrict,command="{SERVE}" {POWER}'
TEXTS = read_rows("hostile_texts.yaml", serve=SERVE, power=POWER)


def said(findings: Iterable[Finding]) -> list[tuple[str, str]]:
    return [(finding.level, finding.sentence) for finding in findings]


@each_row(("line", "sentence"), TEXTS["key lines"])
def test_a_key_line_that_opens_more(line: str, sentence: str) -> None:
    """Every line is a root login, so one that is not exactly the host agent's is an error, with what to do."""
    lines = parse_key_lines(line, "k")
    findings = list(judge_key_lines("k", lines))
    assert said(findings)[0] == (ERROR, sentence)
    assert all((finding.level, bool(finding.hint)) == (ERROR, True) for finding in findings)
    if "options that sshd refuses" in sentence:
        assert served_vms(lines[0]) is None


def kinds(lines: Iterable[KeyLine]) -> list[tuple[str, ...]]:
    """Return the place, the kind and the VMs of each key."""
    return [tuple(finding.sentence.split()[at] for at in (0, 2, -1)) for finding in judge_kinds(lines)]


def test_good_key_lines() -> None:
    """Both kinds for this VM, and another VM's line beside them."""
    text = f"""
        # power
        {LINE}
        restrict,command="{SERVE} --no-last-words --as claude --read-only",no-pty {READ_ONLY} command="in a comment"
        from="192.0.2.0/24",restrict,command="/opt/breakglass-pve serve --vms 103,110-119" ssh-rsa AAAAother
        this is no key
    """
    lines = parse_key_lines(text, "k")
    assert [line.key for line in lines] == [POWER, READ_ONLY, "ssh-rsa AAAAother"]
    assert [finding.level for finding in judge_key_lines("k", lines)] == [OK]
    assert kinds(lines) == [("k:3:", "power", "102"), ("k:4:", "read-only", "102"), ("k:5:", "power", "103,110-119")]
    assert {finding.level for finding in judge_kinds(lines)} == {OK}
    assert kinds(lines[:1]) == [("k:3:", "power", "102")]
    assert [next(judge_kinds(none)).level for none in ([], lines[1:2])] == [WARNING] * 2
    [*_, every] = judge_kinds(parse_key_lines(LINE.replace("102", "all"), "k"))
    assert (every.level, "--vms" in every.hint) == (WARNING, True)
    several = judge_key_lines("k", parse_key_lines(f"pty,no-pty,user-rc {POWER}", "k"))
    assert [sentence.rpartition(" ")[2] for _, sentence in said(several)] == ["command=", "restrict"] + ["restrict"] * 2


# --- lines that sshd accepts as keys, so check must too ---


@each_row("hidden", TEXTS["hidden keys"].values())
def test_no_key_hides(hidden: str) -> None:
    """Each of these lines opens a root shell in sshd, so each is seen and is an error."""
    text = f"{LINE}\n{hidden}\n"
    lines = parse_key_lines(text)
    assert [line.number for line in lines] == [1, 2]
    assert [finding.level for finding in judge_key_lines("k", lines[1:])].count(ERROR) >= 1


# --- the VMs that a line names ---

GUESTS = parse_vmlist(
    """{"version": 7, "ids": {
    "102": {"node": "pve1", "type": "qemu", "version": 3},
    "104": {"node": "pve2", "type": "qemu", "version": 4},
    "105": {"node": "pve1", "type": "lxc", "version": 5},
    "111": {"node": "pve1", "type": "qemu", "version": 6},
    "112": {"node": "pve2", "type": "lxc", "version": 7}}}"""
)
VMS = ("102", "103", "104", "105", "102-103", "103-106", "104-105", "102,110-119", "200-219", "111-131", "all")


def test_the_vms_that_a_line_names() -> None:
    """A VM that is named alone must exist. For a range, the finding names the missing ones, unless it is wide."""
    lines = {f"--vms {vms}": parse_key_lines(LINE.replace("102", vms)) for vms in VMS}
    found = {name: judge_vms(each, GUESTS, "pve1", {102: "devvm"}.get) for name, each in lines.items()}
    check_cases("tests/data/key_line_vms.txt", found.items())


@each_row(
    ("text", "expected"),
    [
        *((f"{words} {POWER} root@pve", [(ERROR, "k:1")]) for words in ("", "no-pty")),
        (f"\n{LINE}", [(WARNING, "k:2")]),
        (f"# {POWER}\nssh-ed25519 AAAAmine me", []),
    ],
)
def test_a_breakglass_key_among_roots_own(text: str, expected: list[tuple[str, str]]) -> None:
    """A copy in root's file opens a root shell there, whatever the account's own line says."""
    assert [(each.level, each.sentence.split()[0]) for each in judge_elsewhere("k", text, {POWER})] == expected

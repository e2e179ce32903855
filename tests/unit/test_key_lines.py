"""The judgements of `breakglass-pve check` on authorized_keys files, each from a text alone."""

from collections.abc import Iterable

from breakglass.agents.pve.check.findings import ERROR, OK, WARNING, Finding
from breakglass.agents.pve.check.key_lines import (
    judge_elsewhere,
    judge_key_lines,
    judge_kinds,
    judge_vms,
    parse_key_lines,
    served_vms,
)
from breakglass.agents.pve.host.cluster import parse_vmlist

from ..support.record import check_cases
from ..support.rows import each_row

POWER, READ_ONLY = "ssh-ed25519 AAAApower", "ssh-ed25519 AAAAread"
OTHER = "k:1 does not run the host agent in the required form: "
SERVE = "/usr/local/sbin/breakglass-pve serve --vms 102"
LINE = f'restrict,command="{SERVE}" {POWER}'


def said(findings: Iterable[Finding]) -> list[tuple[str, str]]:
    return [(finding.level, finding.sentence) for finding in findings]


@each_row(
    ("line", "sentence"),
    [
        (f"restrict {POWER}", "k:1 has no command="),
        (f'restrict,command="/bin/sh" {POWER}', f"{OTHER}/bin/sh"),
        (f'restrict,command="{SERVE}; /bin/sh" {POWER}', f"{OTHER}{SERVE}; /bin/sh"),
        (f'restrict,command="{SERVE} ; /bin/sh" {POWER}', f"{OTHER}{SERVE} ; /bin/sh"),
        (f'restrict,command="{SERVE}\n" {POWER}', "k has no key in it"),
        (f'restrict,command="{SERVE} --root /tmp" {POWER}', f"{OTHER}{SERVE} --root /tmp"),
        (f'restrict,command="{SERVE[16:]}" {POWER}', f"{OTHER}{SERVE[16:]}"),
        (f'restrict,command="{SERVE[:-3]}0" {POWER}', f"{OTHER}{SERVE[:-3]}0"),
        (f'restrict,command="{SERVE},,103" {POWER}', f"{OTHER}{SERVE},,103"),
        (f'restrict,command="{SERVE}-101" {POWER}', f"{OTHER}{SERVE}-101"),
        (f'restrict,command="{SERVE},all" {POWER}', f"{OTHER}{SERVE},all"),
        (f'restrict,command="{SERVE[:-9]}--vm 102" {POWER}', f"{OTHER}{SERVE[:-9]}--vm 102"),
        (f'restrict,command="{SERVE}\\\\" {POWER}', "k has no key in it"),
        (f'restrict,command="{SERVE}",command="/bin/sh" {POWER}', "k:1 has options that sshd refuses"),
        (f'restrict,no-pty;command="{SERVE}" {POWER}', "k:1 has options that sshd refuses"),
        (f'restrict,,pty,,command="{SERVE}", {POWER}', "k:1 allows pty in spite of restrict"),
        (f'restrict,command="{SERVE}"x,pty {POWER}', "k:1 has options that sshd refuses"),
        (f'restrict,from="\\\\",command="{SERVE}",from="" {POWER}', "k has no key in it"),
        (f'command="{SERVE}" {POWER}', "k:1 has no restrict"),
        (f'restrict,pty,command="{SERVE}" {POWER}', "k:1 allows pty in spite of restrict"),
        (f'command="{SERVE}",RESTRICT,User-RC {POWER}', "k:1 allows user-rc in spite of restrict"),
        (f'restrict,port-forwarding,command="{SERVE}" {POWER}', "k:1 allows port-forwarding in spite of restrict"),
        (f'restrict,agent-forwarding,command="{SERVE}" {POWER}', "k:1 allows agent-forwarding in spite of restrict"),
        (f'restrict,X11-forwarding,command="{SERVE}" {POWER}', "k:1 allows x11-forwarding in spite of restrict"),
        (f"# power\n{LINE}\n{LINE}", "k:3 has the key of line 2; sshd uses only the first"),
        ("# none\n", "k has no key in it"),
        *((raw, "k has no key in it") for raw in ("ssh-ed25519", f'restrict,command="open {POWER}', "ssh AAAA")),
        *(
            (f"{kind} AAAA x", "k:1 has no command=")
            for kind in ("ssh-rsa", "ecdsa-sha2-nistp256", "sk-ssh-ed25519@openssh.com")
        ),
    ],
)
def test_a_key_line_that_opens_more(line: str, sentence: str) -> None:
    """Every line is a root login, so one that is not exactly the host agent's is an error, with what to do."""
    lines = parse_key_lines(line, "k")
    findings = list(judge_key_lines("k", lines))
    assert said(findings)[0] == (ERROR, sentence)
    assert all((finding.level, bool(finding.hint)) == (ERROR, True) for finding in findings)
    if "options that sshd refuses" in sentence:
        assert served_vms(lines[0]) is None


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
    assert said(judge_key_lines("k", lines)) == [(OK, "k: every key has restrict and its own command=")]
    assert said(judge_kinds(lines)) == [
        (OK, "k:3: a power key for VM 102"),
        (OK, "k:4: a read-only key for VM 102"),
        (OK, "k:5: a power key for VM 103,110-119"),
    ]
    assert said(judge_kinds(lines[:1])) == [(OK, "k:3: a power key for VM 102")]
    for none in ([], lines[1:2]):
        assert said(judge_kinds(none))[0] == (WARNING, "there is no power key")
    [*_, every] = judge_kinds(parse_key_lines(LINE.replace("102", "all"), "k"))
    assert (every.level, every.hint) == (WARNING, "name the VMs, like --vms 102,110-119")
    several = judge_key_lines("k", parse_key_lines(f"pty,no-pty,user-rc {POWER}", "k"))
    assert [sentence.rpartition(" ")[2] for _, sentence in said(several)] == ["command=", "restrict"] + ["restrict"] * 2


# --- lines that sshd accepts as keys, so check must too ---


HIDDEN = {
    "a tab": f"{POWER}".replace(" ", "\t"),
    "a tab after the options": f'command="/bin/sh"\t{POWER}',
    "another name of RSA's": "rsa-sha2-512 AAAApower",
    "webauthn": "webauthn-sk-ecdsa-sha2-nistp256@openssh.com AAAApower",
    "a carriage return": f'command="/bin/sh #\r" {POWER}',
    "a form feed": f'command="/bin/sh #\x0c" {POWER}',
    "a separator of Unicode": f'command="/bin/sh #\u2028" {POWER}',
    "a NUL": f"{POWER}\0",
    "a backslash": f'command="/bin/sh \\x" {POWER}',
    "DOS's line end": f"{POWER}\r",
    "a quote in quotes": f'command="/bin/sh \\"" {POWER}',
}


@each_row("name", HIDDEN)
def test_no_key_hides(name: str) -> None:
    """Each of these lines opens a root shell in sshd, so each is seen and is an error."""
    text = f"{LINE}\n{HIDDEN[name]}\n"
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
        (f"{POWER} root@pve", [(ERROR, "k:1 has a breakglass key without a command=, which opens a root shell")]),
        (f"no-pty {POWER}", [(ERROR, "k:1 has a breakglass key without a command=, which opens a root shell")]),
        (f"\n{LINE}", [(WARNING, "k:2 has a breakglass key as well")]),
        (f"# {POWER}\nssh-ed25519 AAAAmine me", []),
    ],
)
def test_a_breakglass_key_among_roots_own(text: str, expected: list[tuple[str, str]]) -> None:
    """A copy in root's file opens a root shell there, whatever the account's own line says."""
    assert said(judge_elsewhere("k", text, {POWER})) == expected

"""The judgements of `breakglass-pve check` on authorized_keys files, each from a text alone."""

from collections.abc import Iterable

import pytest

from breakglass.agents.pve.check.findings import ERROR, OK, WARNING, Finding
from breakglass.agents.pve.check.key_lines import (
    KeyLine,
    judge_both_kinds,
    judge_elsewhere,
    judge_key_lines,
    parse_key_lines,
)

POWER, READ_ONLY = "ssh-ed25519 AAAApower", "ssh-ed25519 AAAAread"
SERVE = "/usr/local/sbin/breakglass-pve serve --vm 102"
LINE = f'restrict,command="{SERVE}" {POWER}'


def said(findings: Iterable[Finding]) -> list[tuple[str, str]]:
    return [(finding.level, finding.sentence) for finding in findings]


def test_the_parts_of_a_line() -> None:
    """Options in lower case with their values, then type and key; comments, noise and blank lines are skipped."""
    text = (
        f'# {POWER}\n\n  FROM="192.0.2.1",Restrict,command="say \\"a b\\"" {POWER} me@here\nno key at all\nrestrict\n'
    )
    [line] = parse_key_lines(text)
    assert line == KeyLine(3, (("from", "192.0.2.1"), ("restrict", ""), ("command", 'say "a b"')), POWER)
    assert line.names == {"from", "restrict", "command"}
    assert line.command == 'say "a b"'


@pytest.mark.parametrize("key", ["ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256", "sk-ssh-ed25519@openssh.com"])
def test_every_type_of_key_is_seen(key: str) -> None:
    [line] = parse_key_lines(f"{key} AAAA comment")
    assert (line.key, line.options, line.command) == (f"{key} AAAA", (), None)


@pytest.mark.parametrize("raw", ["ssh-ed25519", f'restrict,command="open {POWER}', "ssh AAAA", f"#{POWER}"])
def test_a_line_that_sshd_skips_is_no_key(raw: str) -> None:
    assert parse_key_lines(raw) == []


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (f"restrict {POWER}", "k:1 has no command="),
        (f'restrict,command="/bin/sh" {POWER}', "k:1 runs something else: /bin/sh"),
        (f'restrict,command="{SERVE}; /bin/sh" {POWER}', f"k:1 runs something else: {SERVE}; /bin/sh"),
        (f'restrict,command="{SERVE} ; /bin/sh" {POWER}', f"k:1 runs something else: {SERVE} ; /bin/sh"),
        (f'restrict,command="{SERVE}\n" {POWER}', "k has no key in it"),
        (f'restrict,command="{SERVE} --root /tmp" {POWER}', f"k:1 runs something else: {SERVE} --root /tmp"),
        (f'restrict,command="{SERVE[16:]}" {POWER}', f"k:1 runs something else: {SERVE[16:]}"),
        (f'restrict,command="{SERVE[:-3]}0" {POWER}', f"k:1 runs something else: {SERVE[:-3]}0"),
        (f'command="{SERVE}" {POWER}', "k:1 has no restrict"),
        (f'restrict,pty,command="{SERVE}" {POWER}', "k:1 allows pty in spite of restrict"),
        (f'command="{SERVE}",RESTRICT,User-RC {POWER}', "k:1 allows user-rc in spite of restrict"),
        (f'restrict,port-forwarding,command="{SERVE}" {POWER}', "k:1 allows port-forwarding in spite of restrict"),
        (f'restrict,agent-forwarding,command="{SERVE}" {POWER}', "k:1 allows agent-forwarding in spite of restrict"),
        (f'restrict,X11-forwarding,command="{SERVE}" {POWER}', "k:1 allows x11-forwarding in spite of restrict"),
        (f"# power\n{LINE}\n{LINE}", "k:3 has the key of line 2; sshd uses only the first"),
        ("# none\n", "k has no key in it"),
    ],
)
def test_a_key_line_that_opens_more(line: str, sentence: str) -> None:
    """Every line is a root login, so one that is not exactly the host agent's is an error, with what to do."""
    findings = list(judge_key_lines("k", parse_key_lines(line)))
    assert said(findings) == [(ERROR, sentence)]
    assert findings[0].hint


def test_every_fault_of_a_line_is_named() -> None:
    findings = judge_key_lines("k", parse_key_lines(f"pty,no-pty,user-rc {POWER}"))
    assert said(findings) == [
        (ERROR, "k:1 has no command="),
        (ERROR, "k:1 has no restrict"),
        (ERROR, "k:1 allows pty in spite of restrict"),
        (ERROR, "k:1 allows user-rc in spite of restrict"),
    ]


def test_good_key_lines() -> None:
    """Both kinds for this VM, and another VM's line beside them."""
    text = f"""
        # power
        {LINE}
        restrict,command="{SERVE} --as claude --read-only",no-pty {READ_ONLY} command="in a comment"
        from="192.0.2.0/24",restrict,command="/opt/breakglass-pve serve --vm 103" ssh-rsa AAAAother
        this is no key
    """
    lines = parse_key_lines(text)
    assert [line.key for line in lines] == [POWER, READ_ONLY, "ssh-rsa AAAAother"]
    assert said(judge_key_lines("k", lines)) == [(OK, "k: every key has restrict and a command= of its own")]
    assert said(judge_both_kinds(lines, 102)) == [(OK, "1 power key for VM 102"), (OK, "1 read-only key for VM 102")]
    assert said(judge_both_kinds(lines, 103)) == [
        (OK, "1 power key for VM 103"),
        (WARNING, "no read-only key for VM 103"),
    ]
    assert {level for level, _ in said(judge_both_kinds(lines, 10))} == {WARNING}
    assert said(judge_both_kinds([*lines, *lines], 102))[0] == (OK, "2 power keys for VM 102")


@pytest.mark.parametrize(
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

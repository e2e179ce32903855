"""The judgements of `breakglass-pve check` on root's own account, each from texts alone."""

from collections.abc import Iterable

from breakglass.agents.pve.check.findings import (
    ERROR,
    OK,
    WARNING,
    Account,
    Finding,
    judge_bashrc,
    judge_other_accounts,
)
from breakglass.agents.pve.check.root_login import (
    KEY_FILE,
    find_handler_addresses,
    judge_root_account,
    judge_root_files,
    judge_root_shadow,
    judge_root_sshd,
    parse_settings,
)

from ..support.rows import each_row

HANDLER = "192.0.2.50"
BLOCK = f"""\
PerSourcePenaltyExemptList {HANDLER}

Match User root Address {HANDLER}
    AuthorizedKeysFile .ssh/authorized_keys {KEY_FILE}
Match all
"""


def bad(findings: Iterable[Finding]) -> list[tuple[str, str]]:
    """Return level and sentence of each finding that is not ok."""
    return [(finding.level, finding.sentence) for finding in findings if finding.level != OK]


# --- the Match block ---


@each_row(
    ("drop_in", "others", "expected"),
    [
        (BLOCK, [], [HANDLER]),
        ("", [BLOCK], [HANDLER]),
        (f'match  USER root\taddress "10.0.0.0/8,::1"\n{KEY_FILE}', [], ["10.0.0.0", "::1"]),
        (f"Match Address 192.0.2.0/24,!192.0.2.1,192.0.3.* User admin,root\n{KEY_FILE}", [], ["192.0.2.0"]),
        (BLOCK.replace(KEY_FILE, ""), [], [HANDLER]),
        ("Match User root\nPermitTTY no", [], []),
        (BLOCK, [BLOCK, BLOCK.replace("50", "51")], [HANDLER, "192.0.2.51"]),
        ("", [], None),
        ("Match User breakglass\nAuthorizedKeysFile /etc/ssh/authorized_keys.d/%u\nMatch all", [], None),
        ("", [BLOCK.replace(KEY_FILE, "")], None),
        ("", ["Match User root Address 10.0.0.1\nPermitRootLogin yes\nMatch all\n# " + KEY_FILE], None),
        (BLOCK.replace("Match User", "# Match User"), [], None),
    ],
)  # fmt: skip
def test_the_block_of_root(drop_in: str, others: list[str], expected: list[str] | None) -> None:
    """Our block is found as sshd reads it. Another block for root, which many hosts have, is not mistaken for it."""
    assert find_handler_addresses(drop_in, others) == expected


# --- the account ---


@each_row(
    ("shell", "level"), [("/bin/bash", OK), ("/usr/bin/zsh", OK), ("/usr/sbin/nologin", ERROR), ("/bin/false", ERROR)]
)
def test_the_shell_of_root(shell: str, level: str) -> None:
    assert judge_root_account(Account("0", "/root", shell)).level == level
    assert judge_root_account(None).level == ERROR


@each_row(
    ("text", "level"),
    [
        ("", OK),
        ("# ~/.bashrc\n\n # umask 022\n", OK),
        ('[ -z "$PS1" ] && return\nalias ll=ls\n', OK),
        ('[ -z "${PS1-}" ] && return\n', OK),
        ("# interactive?\ncase $- in\n  *i*) ;;\n  *) return ;;\nesac\n", OK),
        ("alias ll=ls\n", WARNING),
        ('alias ll=ls\n[ -z "$PS1" ] && return\n', WARNING),
        (None, WARNING),
    ],
)
def test_what_bash_runs_first(text: str | None, level: str) -> None:
    """A command before the test for a terminal would run before every verb."""
    finding = judge_bashrc("/root/.bashrc", text)
    assert (finding.level, "/root/.bashrc" in finding.sentence, bool(finding.hint)) == (level, True, level != OK)


def test_other_accounts_with_uid_0() -> None:
    """Each is named. A line without seven fields is ignored."""
    root, other = "root:x:0:0:root:/root:/bin/bash\n", "admin:x:1000:0::/:/bin/sh\nhalf:x:0\n"
    assert bad(judge_other_accounts(root + other)) == []
    found = bad(judge_other_accounts(f"{root}{other}breakglass:x:0:0::/:/bin/sh\ntoor:x:0:0::/:/bin/sh\n"))
    assert found == [(WARNING, "breakglass has uid 0 as well"), (WARNING, "toor has uid 0 as well")]


@each_row(
    ("line", "pam", "level", "sentence"),
    [
        ("root:$y$j9T$abc:20000:0:99999:7:::", True, OK, "root is not locked"),
        ("root:*:20000::::::", False, OK, "root is not locked"),
        ("root:!:20000:0:99999:7:::", True, OK, "root is not locked"),
        ("root:!:20000:0:99999:7:::", False, ERROR, "root is locked, and sshd without PAM refuses its keys"),
        ("root:$y$j9T$abc:20000:0:365:7:::", True, WARNING, "root expires"),
        ("root:$y$j9T$abc:20000:0:99999:7::20100:", False, WARNING, "root expires"),
        ("rooter:*:20000:0:99999:7:::", True, ERROR, "root has no line in /etc/shadow"),
    ],
)
def test_the_password_of_root(line: str, pam: bool, level: str, sentence: str) -> None:
    """Root may have a password. It matters only whether sshd refuses the keys."""
    finding = judge_root_shadow(f"daemon:*:1:::::::\n{line}\n", pam)
    assert (finding.level, finding.sentence.startswith(sentence)) == (level, True)


# --- sshd ---

SSHD = "permitrootlogin yes\npubkeyauthentication yes\nforcecommand none\nclientaliveinterval 15\n"


@each_row(
    "line",
    [
        "",
        "permitrootlogin without-password",
        "permitrootlogin forced-commands-only",
        "authenticationmethods any",
        "authenticationmethods publickey,password publickey",
        "permittty yes\ndisableforwarding no",
        "allowusers root@192.0.2.*",
    ],
)
def test_settings_of_root_that_let_a_key_in(line: str) -> None:
    """One line reports it; the key line's `restrict` replaces the block that an account would have."""
    [finding] = judge_root_sshd(parse_settings(SSHD) | parse_settings(line), HANDLER)
    assert (finding.level, finding.sentence.startswith("sshd: PermitRootLogin ")) == (OK, True)


@each_row(
    ("line", "level", "sentence"),
    [
        ("permitrootlogin no", ERROR, f"PermitRootLogin no refuses every key of root from {HANDLER}"),
        ("pubkeyauthentication no", ERROR, "PubkeyAuthentication no refuses every key of root"),
        (
            "authenticationmethods publickey,password",
            ERROR,
            "sshd has authenticationmethods publickey,password for root, so a key alone is not enough",
        ),
        ("forcecommand /bin/true", ERROR, "sshd has a ForceCommand for root: /bin/true"),
        ("allowusers admin", ERROR, "AllowUsers does not name root"),
        ("denyusers root", ERROR, "DenyUsers names root"),
        ("clientaliveinterval 0", WARNING, "sshd does not notice a dead connection"),
        ("authorizedkeyscommand /usr/bin/keys", WARNING, "sshd also asks an AuthorizedKeysCommand for keys"),
    ],
)
def test_a_setting_of_root_that_keeps_the_keys_out(line: str, level: str, sentence: str) -> None:
    """One finding names the setting and says what to do."""
    findings = list(judge_root_sshd(parse_settings(SSHD) | parse_settings(line), HANDLER))
    assert bad(findings) == [(level, sentence)]
    assert next(finding for finding in findings if finding.level != OK).hint


OWN = ["/root/.ssh/authorized_keys", "/root/.ssh/authorized_keys2"]


@each_row(
    ("files", "own", "expected"),
    [
        ([*OWN, KEY_FILE], OWN, []),
        ([KEY_FILE, *OWN], OWN, []),
        ([KEY_FILE], [], []),
        ([*OWN, KEY_FILE, "/other"], OWN, []),
        (OWN, OWN, [(ERROR, f"sshd does not read {KEY_FILE} for root from {HANDLER}")]),
        ([OWN[0], KEY_FILE], OWN, [(ERROR, f"sshd does not read root's own {OWN[1]} for root from {HANDLER}")]),
        ([*OWN, KEY_FILE], [*OWN, KEY_FILE], [(WARNING, f"sshd reads {KEY_FILE} for root from every address")]),
    ],
)
def test_the_key_files_of_root(files: list[str], own: list[str], expected: list[tuple[str, str]]) -> None:
    """For logins from the handler's address, sshd reads our key file and root's own ones."""
    findings = list(judge_root_files(files, own, HANDLER))
    assert bad(findings) == expected
    assert [finding.level for finding in findings].count(OK) == (not expected)

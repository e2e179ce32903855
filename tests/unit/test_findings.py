"""The judgements of `breakglass-pve check` on its own account, sshd, logind and files, each from texts alone."""

from collections.abc import Iterable

from breakglass.agents.pve.check.findings import (
    ERROR,
    OK,
    WARNING,
    Account,
    Finding,
    find_account,
    judge_account,
    judge_file,
    judge_inodes,
    judge_logind,
    judge_python,
    judge_room,
    judge_shadow,
)
from breakglass.agents.pve.check.root_login import find_key_files, judge_exemption, judge_sshd, parse_settings

from ..support.rows import each_row

USER = "breakglass"


def bad(findings: Iterable[Finding]) -> list[tuple[str, str]]:
    """Return level and sentence of each finding that is not ok."""
    return [(finding.level, finding.sentence) for finding in findings if finding.level != OK]


def levels(findings: Iterable[Finding]) -> set[str]:
    return {finding.level for finding in findings}


# --- the account ---


@each_row(
    ("account", "expected"),
    [
        (None, [(ERROR, f'there is no account "{USER}"')]),
        (Account("1000", "/", "/bin/sh"), [(ERROR, f"{USER} has uid 1000; qm and QMP need root")]),
        (Account("0", "/", "/bin/bash"), [(ERROR, f'the shell of {USER} is "/bin/bash"')]),
        (Account("0", "/", ""), [(ERROR, f'the shell of {USER} is ""')]),
        *((Account("0", "/", shell), []) for shell in ("/bin/sh", "/bin/dash", "/usr/bin/dash")),
    ],
)
def test_the_account(account: Account | None, expected: list[tuple[str, str]]) -> None:
    """Its uid is 0 and its shell reads no start-up file. A reason against it is one finding, with what to do."""
    findings = list(judge_account(USER, account))
    assert bad(findings) == expected
    assert (OK in levels(findings)) is not bool(expected)
    assert bool(findings[0].hint) is bool(expected)


@each_row(("version", "level"), [((3, 10, 9), ERROR), ((3, 11), OK), ((4, 0, 0), OK), ((2, 7, 18), ERROR)])
def test_python_is_3_11_or_later(version: tuple[int, ...], level: str) -> None:
    assert judge_python(version).level == level


def test_the_first_line_of_passwd_applies() -> None:
    """A line without seven fields is ignored."""
    passwd = f"{USER}:x:0\nroot:x:0:0:root:/root:/bin/bash\n{USER}:x:0:0::/:/bin/sh\n{USER}:x:7:7::/:/bin/bash\n"
    assert find_account(passwd, USER) == Account("0", "/", "/bin/sh")
    assert find_account(passwd, "root") == Account("0", "/root", "/bin/bash")
    assert find_account(passwd, "nobody") is None


@each_row(
    ("line", "pam", "level", "sentence"),
    [
        (f"{USER}:!:20000:0:99999:7:::", True, WARNING, "sshd refuses it once UsePAM is no"),
        (f"{USER}:!:20000:0:99999:7:::", False, ERROR, "sshd without PAM refuses it"),
        (f"{USER}:!$y$j9T$abc:20000:0:99999:7:::", False, ERROR, "sshd without PAM refuses it"),
        (f"{USER}:$y$j9T$abc:20000:0:99999:7:::", True, ERROR, "has a password"),
        (f"{USER}::20000:0:99999:7:::", True, ERROR, "has a password"),
        (f"{USER}:*:20000:0:90:7:::", True, ERROR, "expires"),
        (f"{USER}:*:20000:0:99999:7::20100:", True, ERROR, "expires"),
        ("root:*:20000:0:99999:7:::", True, ERROR, "has no line in /etc/shadow"),
        (f"{USER}:*:20000", True, ERROR, "has no line in /etc/shadow"),
        ("", True, ERROR, "has no line in /etc/shadow"),
    ],
)
def test_a_password_that_fails_or_opens_the_account(line: str, pam: bool, level: str, sentence: str) -> None:
    """The password opens the account, it expires, or it makes sshd treat the account as locked."""
    [(found, words)] = bad(judge_shadow(USER, f"daemon:*:1:::::::\n{line}", pam))
    assert (found, sentence in words) == (level, True)


# --- sshd ---

SSHD = """\
forcecommand none
authorizedkeysfile /etc/ssh/authorized_keys.d/%u
authenticationmethods publickey
permitrootlogin forced-commands-only
disableforwarding yes
permittty no
permituserrc no
clientaliveinterval 15
"""


@each_row(
    "line",
    [
        "",
        "authorizedkeyscommand none",
        "allowusers root breakglass",
        "allowusers root *",
        "allowusers breakglass@192.0.2.0/24",
        "denyusers breakglasses guest@host",
        "pubkeyauthentication yes\npubkeyacceptedalgorithms ssh-ed25519,rsa-sha2-512",
        "chrootdirectory none\nmaxsessions 8",
        "persourcepenalties no\npersourcepenaltyexemptlist none",
        "persourcepenalties crash:90\npersourcepenaltyexemptlist 192.0.2.50",
    ],
)
def test_settings_that_are_as_they_should_be(line: str) -> None:
    """One line says that they are right, and there is no other finding."""
    [finding] = judge_sshd(parse_settings(SSHD) | parse_settings(line), USER)
    assert (finding.level, finding.sentence.startswith("sshd: a public key only")) == (OK, True)


@each_row(
    ("line", "level", "sentence"),
    [
        ("forcecommand /bin/true", ERROR, f"sshd has a ForceCommand for {USER}: /bin/true"),
        ("disableforwarding no", ERROR, f"sshd has disableforwarding no for {USER}, not yes"),
        ("permittty yes", ERROR, f"sshd has permittty yes for {USER}, not no"),
        ("permituserrc yes", ERROR, f"sshd has permituserrc yes for {USER}, not no"),
        ("authenticationmethods any", ERROR, f"sshd has authenticationmethods any for {USER}, not publickey"),
        ("permitrootlogin no", ERROR, f"PermitRootLogin no refuses {USER}, whose uid is 0"),
        ("permitrootlogin yes", WARNING, "PermitRootLogin yes gives a key without command= a root shell"),
        ("clientaliveinterval 0", WARNING, "sshd does not notice a dead connection"),
        ("authorizedkeyscommand /usr/bin/keys", WARNING, "sshd also asks an AuthorizedKeysCommand for keys"),
        ("allowusers root admin", ERROR, f"AllowUsers does not name {USER}"),
        ("allowusers breakglasses", ERROR, f"AllowUsers does not name {USER}"),
        ("allowgroups ssh", WARNING, "AllowGroups is set: ssh"),
        ("pubkeyauthentication no", ERROR, f"PubkeyAuthentication no refuses every key of {USER}"),
        (
            "pubkeyacceptedalgorithms rsa-sha2-256",
            WARNING,
            f"PubkeyAcceptedAlgorithms has no ssh-ed25519, so sshd takes no Ed25519 key of {USER}",
        ),
        ("chrootdirectory /srv", ERROR, f"sshd shuts {USER} into /srv, where the host agent is missing"),
        ("maxsessions 0", ERROR, "sshd has MaxSessions 0, and the handler opens up to 8 channels"),
        ("denyusers breakglass", ERROR, f"DenyUsers names {USER}"),
        ("denyusers guest breakglass@192.0.2.1", ERROR, f"DenyUsers names {USER}"),
        (
            "persourcepenalties crash:90\npersourcepenaltyexemptlist none",
            WARNING,
            "failed logins from the handler's address can lock the handler out",
        ),
    ],
)
def test_a_setting_that_opens_the_account_or_locks_it(line: str, level: str, sentence: str) -> None:
    """One finding names the setting and says what to do. What is missing is not as it should be."""
    findings = list(judge_sshd(parse_settings(SSHD) | parse_settings(line), USER))
    assert bad(findings) == [(level, sentence)]
    assert len([level for level, _ in bad(judge_sshd({}, USER)) if level == ERROR]) == 4
    assert next(finding for finding in findings if finding.level != OK).hint


@each_row(
    ("exempt", "is_spared"),
    [
        ("none", True),  # which another finding is about
        ("192.0.2.50", True),
        ("192.0.2.9,192.0.2.50", True),
        ("192.0.2.0/24", True),
        ("2001:db8::/32,192.0.2.*", True),
        ("192.0.2.60", False),
        ("2001:db8::/32,198.51.100.0/24,192.0.3.*", False),
    ],
)
def test_an_exemption_of_another_handler_is_found(exempt: str, is_spared: bool) -> None:
    """The list that sshd prints is compared with the address from which the handler has logged in."""
    found = bad(judge_exemption({"persourcepenaltyexemptlist": exempt}, "192.0.2.50"))
    assert [level for level, _ in found] == ([] if is_spared else [WARNING])


@each_row(
    ("value", "home", "expected"),
    [
        ("/etc/ssh/authorized_keys.d/%u", "/", ["/etc/ssh/authorized_keys.d/breakglass"]),
        (".ssh/authorized_keys .ssh/authorized_keys2", "/", ["/.ssh/authorized_keys", "/.ssh/authorized_keys2"]),
        ("%h/keys /k/%%h /u/%U", "/root", ["/root/keys", "/k/%h", "/u/0"]),
        ("keys", "/root/", ["/root/keys"]),
        ("none", "/", []),
        ("", "/", []),
    ],
)
def test_where_sshd_looks_for_keys(value: str, home: str, expected: list[str]) -> None:
    """Tokens are replaced, and relative names begin in the home directory, as sshd_config(5) says."""
    assert find_key_files({"authorizedkeysfile": value}, USER, home) == expected


# --- logind ---


@each_row(
    ("texts", "level"),
    [
        ([], OK),
        (["[Login]\n#KillUserProcesses=yes\n; KillUserProcesses=yes\n"], OK),
        (["[Login]\nKillUserProcesses=yes\n"], WARNING),
        (["KillUserProcesses=yes", "KillUserProcesses = no"], OK),
        (["KillUserProcesses=no", "KillUserProcesses=1"], WARNING),
        (["KillUserProcesses=True\nKillExcludeUsers=admin"], ERROR),
        (["KillUserProcesses=yes\nKillOnlyUsers=student\nKillExcludeUsers="], WARNING),
        (["KillUserProcesses=yes\nKillOnlyUsers=student root\nKillExcludeUsers="], ERROR),
    ],
)
def test_what_logind_would_kill(texts: list[str], level: str) -> None:
    """A later file overrides an earlier one. Root is excluded unless KillExcludeUsers names others."""
    assert judge_logind(texts).level == level


# --- files ---

GOOD_FILE = [("/a/b", 0, 0o100755), ("/a", 0, 0o40755), ("/", 0, 0o40755)]


@each_row(
    ("changed", "sentence"),
    [
        (("/a", 1000, 0o40755), "/a belongs to uid 1000"),
        (("/a", 0, 0o40775), "/a can be written by others than root: 0775"),
        (("/a", 0, 0o41777), "/a can be written by others than root: 1777"),
        (("/a", -1, 0), "/a does not exist"),
    ],
)
def test_a_file_that_others_could_change(changed: tuple[str, int, int], sentence: str) -> None:
    """Others could change the file itself or a directory above it."""
    for place in range(len(GOOD_FILE)):
        finding = judge_file("/a/b", [*GOOD_FILE[:place], changed, *GOOD_FILE[place + 1 :]])
        assert (finding.level, finding.sentence) == (ERROR, sentence)
        assert str(finding) == f"error: {sentence} / {finding.hint}"
    assert str(judge_file("/a/b", GOOD_FILE)) == "ok: /a/b belongs to root, and only root can change it"


@each_row(
    ("counted", "level", "words"),
    [
        ((100_000, 800_000, 1200), OK, "has 1200 files, and its file system has inodes for more"),
        ((79_999, 800_000, 700_000), WARNING, "has 700000 files, and its file system 79999 of 800000 inodes left"),
        ((0, 0, 12), OK, "has inodes for more"),  # as on btrfs and an unlimited tmpfs
        (None, WARNING, "could not be counted"),
    ],
)
def test_a_run_that_is_short_of_inodes_is_a_warning(
    counted: tuple[int, int, int] | None, level: str, words: str
) -> None:
    """Without an inode, no job begins and no VM of the host starts."""
    finding = judge_inodes("/run/breakglass", counted)
    assert (finding.level, words in finding.sentence) == (level, True)
    assert "df -i /run/breakglass" in finding.hint or level == OK


@each_row(
    ("free", "level", "words"),
    [
        ((16 * 2**20, 2**30), OK, "has 16 MiB free room"),
        ((16 * 2**20 - 1, 2**30), "warning", "has 16 MiB of 1 GiB left"),
        ((0, 3 * 2**40), "warning", "has 0 B of 3072 GiB left"),
        ((5 * 2**10, 2**20), "warning", "has 5 KiB of 1 MiB left"),
        ((0, 0), OK, "has no size limit"),
        (None, "warning", "could not be determined"),
    ],
)
def test_the_room_is_measured(free: tuple[int, int] | None, level: str, words: str) -> None:
    """A tmpfs may have no limit, and a disk that hangs has no answer."""
    finding = judge_room("/run/breakglass", 16 * 2**20, free)
    assert (finding.level, words in finding.sentence) == (level, True)
    assert "df /run/breakglass" in finding.hint or level == OK

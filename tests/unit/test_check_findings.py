"""The judgements of `breakglass-pve check` on accounts, sshd, logind and files, each from texts alone.

tests/data/check_findings.txt has what each case is judged. BREAKGLASS_RECORD=1 records it.
"""

from collections.abc import Iterable, Iterator
from itertools import chain

from breakglass.agents.pve.check.findings import (
    OK,
    Account,
    Finding,
    judge_account,
    judge_bashrc,
    judge_file,
    judge_inodes,
    judge_logind,
    judge_other_accounts,
    judge_room,
    judge_shadow,
)
from breakglass.agents.pve.check.root_login import (
    find_handler_addresses,
    judge_root_account,
    judge_root_files,
    judge_root_shadow,
    judge_root_sshd,
)
from breakglass.agents.pve.check.sshd_settings import (
    KEY_FILE,
    find_key_files,
    judge_exemption,
    judge_sshd,
    parse_settings,
)

from ..support.record import check_cases
from ..support.rows import each_row, read_rows

USER, HANDLER = "breakglass", "192.0.2.50"
BLOCK = f"""\
PerSourcePenaltyExemptList {HANDLER}

Match User root Address {HANDLER}
    AuthorizedKeysFile .ssh/authorized_keys {KEY_FILE}
Match all
"""

# --- the accounts ---

ACCOUNTS = (
    *(None, Account("1000", "/", "/bin/sh"), Account("0", "/", "/bin/bash"), Account("0", "/", "")),
    *(Account("0", "/", shell) for shell in ("/bin/sh", "/bin/dash", "/usr/bin/dash")),
)
CASES = read_rows("check_cases.yaml", block=BLOCK, file=KEY_FILE)
ROOTS = (None, *(Account("0", "/root", shell) for shell in ("/bin/bash", "/usr/sbin/nologin", "/bin/false")))
PASSWD = "root:x:0:0:root:/root:/bin/bash\nadmin:x:1000:0::/:/bin/sh\nhalf:x:0\n"


def judged_accounts() -> Iterator[tuple[object, Iterable[Finding]]]:
    yield from ((account, judge_account(USER, account)) for account in ACCOUNTS)
    for pam in (True, False):
        for line in CASES["shadow"]:
            yield f"PAM {pam}, {line}", judge_shadow(USER, f"daemon:*:1:::::::\n{line}", pam)
        for line in CASES["shadow of root"]:
            yield f"root's, PAM {pam}, {line}", [judge_root_shadow(f"daemon:*:1:::::::\n{line}\n", pam)]
    yield from ((f"root is {account}", [judge_root_account(account)]) for account in ROOTS)
    yield from ((text, [judge_bashrc("/root/.bashrc", text)]) for text in CASES["bashrc"])
    for more in ("", "breakglass:x:0:0::/:/bin/sh\ntoor:x:0:0::/:/bin/sh\n"):
        yield f"passwd {more}", judge_other_accounts(PASSWD + more)


# --- sshd ---


def judged_sshd() -> Iterator[tuple[object, Iterable[Finding]]]:
    yield "sshd says nothing", judge_sshd({}, USER)
    for line in CASES["sshd"]:
        yield f"sshd: {line}", judge_sshd(parse_settings(CASES["settings"]) | parse_settings(line), USER)
    for line in CASES["sshd for root"]:
        yield (
            f"sshd for root: {line}",
            judge_root_sshd(parse_settings(CASES["settings of root"]) | parse_settings(line), HANDLER),
        )
    for exempt in CASES["exempt"]:
        yield f"exempt: {exempt}", judge_exemption({"persourcepenaltyexemptlist": exempt}, HANDLER)
    for files, own in CASES["files of root"]:
        yield f"root's key files: {files}, own: {own}", judge_root_files(files, own, HANDLER)


@each_row(("value", "home", "expected"), CASES["places of keys"])
def test_where_sshd_looks_for_keys(value: str, home: str, expected: list[str]) -> None:
    """Tokens are replaced, and relative names begin in the home directory, as sshd_config(5) says."""
    assert find_key_files({"authorizedkeysfile": value}, USER, home) == expected


@each_row(
    ("drop_in", "others", "expected"),
    CASES["blocks"],
)  # fmt: skip
def test_the_block_of_root(drop_in: str, others: list[str], expected: list[str] | None) -> None:
    """Our block is found as sshd reads it. Another block for root, which many hosts have, is not mistaken for it."""
    assert find_handler_addresses(drop_in, others) == expected


# --- logind and files ---

GOOD_FILE = [("/a/b", 0, 0o100755), ("/a", 0, 0o40755), ("/", 0, 0o40755)]
BAD_PLACES = (("/a", 1000, 0o40755), ("/a", 0, 0o40775), ("/a", 0, 0o41777), ("/a", -1, 0))
INODES = ((100_000, 800_000, 1200), (79_999, 800_000, 700_000), (0, 0, 12), None)
MIB = 2**20
ROOM = ((16 * MIB, 2**30), (16 * MIB - 1, 2**30), (0, 3 * 2**40), (5 * 2**10, MIB), (0, 0), None)


def judged_files() -> Iterator[tuple[object, Iterable[Finding]]]:
    yield from ((f"logind: {texts}", [judge_logind(texts)]) for texts in CASES["logind"])
    yield "a file that only root can change", [judge_file("/a/b", GOOD_FILE)]
    for bad in BAD_PLACES:
        for place in range(len(GOOD_FILE)):  # the file itself or a directory above it
            changed = [*GOOD_FILE[:place], bad, *GOOD_FILE[place + 1 :]]
            yield f"a file with {bad} in place {place}", [judge_file("/a/b", changed)]
    yield from ((f"inodes: {counted}", [judge_inodes("/run/breakglass", counted)]) for counted in INODES)
    yield from ((f"room: {free}", [judge_room("/run/breakglass", 16 * MIB, free)]) for free in ROOM)


# The worst finding of each case, in the order of the record: (o)k, (w)arning, (e)rror. So no new record hides a fault.
WORST = (
    *("eeeeooo", "wwoeeeeeee", "ooowwe", "eeoeeeeeee", "ooewwe"),  # the account; shadow with PAM, and without it
    *("eoee", "ooooowww", "ow"),  # root, its .bashrc, other accounts
    *("e", "oooooooooow", "eeeeee", "ewww", "eewewe", "eee"),  # sshd
    *("ooooooo", "eeeeee", "ww", "ooooo", "ww", "ooooeew"),  # sshd for root
    *("oowowewe", "o", "eeeeeeeeeeee", "owow", "owwwow"),  # logind, files, inodes, room
)


def test_each_case_is_judged_as_recorded() -> None:
    """Each finding that is not ok says what to do."""
    found: list[tuple[str, list[Finding]]] = []
    for case, findings in chain(judged_accounts(), judged_sshd(), judged_files()):
        found.append((f"{case}".encode("unicode_escape").decode(), list(findings)))
    assert [finding for _, listed in found for finding in listed if finding.level != OK and not finding.hint] == []
    worst = [(case, min((str(each)[0] for each in listed), key="ewo".index, default="o")) for case, listed in found]
    assert worst == [(case, level) for (case, _), level in zip(found, "".join(WORST), strict=True)]
    check_cases("tests/data/check_findings.txt", found)

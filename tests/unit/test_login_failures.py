"""The findings of doctor about failed logins that a test can't cause for real."""

from functools import partial

from breakglass.config.model import Address, Host
from breakglass.doctor.host_agent import judge_clock
from breakglass.doctor.key_rights import Failure, judge_failure

from ..support.rows import each_row

HOST = Host("pve1", Address("breakglass", "pve1.example.org"), "KEY", host_keys=("ssh-ed25519 AAAA",))

OLD, BUSY, SLOW = Failure("no-common-algorithm", "…"), b"Exceeded MaxStartups", b"SSH-2.0-OpenSSH_9.2"
DIFFERS = partial(Failure, "host-key-differs", "…")


@each_row(
    ("failure", "code", "fix"),
    [
        (OLD, "no-common-algorithm", "upgrade OpenSSH on the host"),
        (Failure("turned-away", "…", greeting=BUSY), "penalised", "MaxStartups 100:30:200"),
        (Failure("timeout", "…", greeting=SLOW), "login-slow", "usedns"),
        (DIFFERS("Certificate expired for host pve1.example.org"), "host-certificate-expired", "ssh-keygen -s CA -h"),
        (DIFFERS("Host key is not trusted"), "host-key-differs", 'hosts.pve1.host_key = "ssh-ed25519 …"'),
    ],
)
def test_each_failure_has_its_fix(failure: Failure, code: str, fix: str) -> None:
    """The finding is an error with its own code, and says that no verb reaches the VMs."""
    finding = judge_failure(HOST, failure)
    assert (finding.level, finding.code) == ("error", code)
    assert ("no verb" in finding.sentence, fix in finding.fix) == (True, True)


@each_row(
    ("its", "code"),
    [(100.0, "clock-right"), (94.0, "clock-right"), (113.0, "clock-differs"), (80.0, "clock-differs"), (None, "")],
)
def test_a_slow_answer_is_no_wrong_clock(its: object, code: str) -> None:
    """The host may have read its clock at any time between the request, at 100, and its answer, at 102."""
    finding = judge_clock(HOST, its, 100.0, 102.0)
    assert (finding.code if finding else "") == code

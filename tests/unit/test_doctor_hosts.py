"""The findings of doctor about a VM that may run on several hosts, and about failed logins to one."""

from dataclasses import replace
from functools import partial

from breakglass.base.findings import error
from breakglass.config.model import Address, Host, Vm
from breakglass.doctor.host_agent import VmFindings, VmPlace, find_owner, judge_clock, judge_name, judge_vm, read_place
from breakglass.doctor.hosts import find_other_clusters
from breakglass.doctor.key_rights import Failure, judge_failure

from ..support.rows import each_row

HOSTS = tuple(Host(f"h{number}", Address("root", f"192.0.2.{number}"), "") for number in (1, 2, 3))
VM = Vm("devvm", 102, HOSTS)
NODES = {"h1": "pve1", "h2": "pve2", "h3": "pve3"}
BAD = error("VM devvm", "vm-check", "it is locked", "qm unlock")


def says(here: str, node: str, *, sure: bool = True, **more: object) -> VmFindings:
    """Return a host's answer. Its check has an error, which counts only if the host has the VM."""
    return VmFindings(read_place({"here": here, "node": node, "sure": sure, **more}), [BAD])


MOVED = {"h1": says("pve1", "pve2"), "h2": says("pve2", "pve2"), "h3": says("pve3", "pve2")}
UNSURE = says("pve1", "", sure=False)


@each_row(
    ("said", "owner", "codes"),
    [
        (MOVED, "h2", ["error vm-check", "ok may-run-here", "ok may-run-here"]),
        ({**MOVED, "h1": UNSURE}, "h2", ["error vm-check", "ok may-run-here"]),
        ({"h1": MOVED["h1"]}, "", ["error vm-not-seen", "ok may-run-here"]),  # pve2 could not be asked
        ({"h1": says("pve1", "pve9")}, "", ["error vm-elsewhere", "ok may-run-here"]),
        ({"h1": UNSURE, "h2": UNSURE}, "", ["error vm-check", "error vm-check"]),
        ({"h1": VmFindings(VmPlace(), [BAD])}, "", ["error vm-check"]),  # it did not say where
        ({}, "", ["error vm-not-seen"]),
        ({"h1": says("pve1", "pve2", process=True), "h2": MOVED["h2"]}, "h2", ["error vm-check", "error stale-copy"]),
        (
            {"h1": says("pve1", "pve2", process=True, migrating=True), "h2": MOVED["h2"]},
            "h2",
            ["error vm-check", "ok may-run-here"],
        ),
    ],
)
def test_the_host_that_has_the_vm_is_judged(said: dict[str, VmFindings], owner: str, codes: list[str]) -> None:
    """It is no fault if the VM is not on one of its hosts, and errors about the VM there are not reported."""
    assert find_owner(VM, said) == owner
    assert [f"{found.level} {found.code}" for found in judge_vm(VM, said, NODES)] == codes


@each_row(
    ("wanted", "told", "codes"),
    [
        ("", "customer-db", ["ok vm-name"]),
        ("devvm", "devvm", ["ok vm-name"]),
        ("devvm", "customer-db", ["error wrong-vm"]),
        ("devvm", "", ["error wrong-vm"]),
        ("devvm", None, []),
        ("", "", []),
    ],
)
def test_another_name_is_another_vm(wanted: str, told: object, codes: list[str]) -> None:
    """Without `name`, the finding has the name, so that a person can compare it."""
    found = list(judge_name(replace(VM, proxmox_name=wanted), told))
    assert [f"{each.level} {each.code}" for each in found] == codes
    assert all("customer-db" in each.sentence for each in found if told == "customer-db")


@each_row(
    ("first", "second", "is_found"),
    [
        ("demo", "demo", False),
        ("demo", "another", True),
        ("demo", "", True),
        ("", "", True),  # two nodes without a cluster
        ("", "demo", True),
        (None, "demo", False),  # an /etc/pve that does not answer
        ("demo", None, False),
    ],
)
def test_hosts_of_two_clusters_are_an_error(first: str | None, second: str | None, is_found: bool) -> None:
    """A host of another cluster gets no verb for the VM, so it must not look like a spare host."""
    found = find_other_clusters([replace(VM, hosts=HOSTS[:2])], {"h1": first, "h2": second})
    assert [each.code for each in found] == ["other-cluster"] * is_found


# --- logins that a test can't make fail for real ---

OLD, BUSY, SLOW = Failure("no-common-algorithm", "…"), b"Exceeded MaxStartups", b"SSH-2.0-OpenSSH_9.2"
DIFFERS = partial(Failure, "host-key-differs", "…")


@each_row(
    ("failure", "code", "fix"),
    [
        (OLD, "no-common-algorithm", "upgrade OpenSSH on the host"),
        (Failure("turned-away", "…", greeting=BUSY), "penalised", "MaxStartups 100:30:200"),
        (Failure("timeout", "…", greeting=SLOW), "login-slow", "usedns"),
        (DIFFERS("Certificate expired for host h1"), "host-certificate-expired", "ssh-keygen -s CA -h"),
        (DIFFERS("Host key is not trusted"), "host-key-differs", 'hosts.h1.host_key = "ssh-ed25519 …"'),
    ],
)
def test_each_failure_has_its_fix(failure: Failure, code: str, fix: str) -> None:
    """The finding is an error with its own code, and says that no verb reaches the VMs."""
    finding = judge_failure(replace(HOSTS[0], host_keys=("ssh-ed25519 AAAA",)), failure)
    assert (finding.level, finding.code) == ("error", code)
    assert ("no verb" in finding.sentence, fix in finding.fix) == (True, True)


@each_row(
    ("its", "code"),
    [(100.0, "clock-right"), (94.0, "clock-right"), (113.0, "clock-differs"), (80.0, "clock-differs"), (None, "")],
)
def test_a_slow_answer_is_no_wrong_clock(its: object, code: str) -> None:
    """The host may have read its clock at any time between the request, at 100, and its answer, at 102."""
    finding = judge_clock(HOSTS[0], its, 100.0, 102.0)
    assert (finding.code if finding else "") == code

"""When a host was last proven, and the parts of its message that the handler accepts."""

from dataclasses import replace

from breakglass.base.proven import describe_openly, newer_proven, read_proven
from breakglass.config.model import Address, Host, Vm
from breakglass.proxmox.handshake import read_handshake

from ..support.rows import each_row

TOLD = {"at": "2026-11-27T03:12:09Z", "by": "doc@home", "how": "doctor", "vm": 102}
PROVEN = {"at": "2026-11-27T03:12:09Z", "by": "doc@home", "how": "doctor"}


def test_a_host_agents_word_is_read() -> None:
    """The handler passes it on without the VM's number, and in public without the name."""
    assert read_proven(TOLD) == PROVEN
    assert read_handshake({"proven": TOLD}).proven == PROVEN
    assert describe_openly(PROVEN) == {"at": "2026-11-27T03:12:09Z", "how": "doctor"}
    assert (read_handshake({}).proven, describe_openly(None)) == (None, None)


@each_row("said", [True, False, None, 1, "true"])
def test_a_hosts_flag_is_set_by_true_alone(said: object) -> None:
    """A key counts as one for reading, and words that an older agent refuses are sent, only if the host says so."""
    found = read_handshake({"read_only": said, "no_last_words": said, "names": said})
    assert [found.read_only, found.no_last_words, found.names] == [said is True] * 3
    vm = Vm("devvm", 102, (Host("pve1", Address("a", "192.0.2.10"), ""),), last_words=False, proxmox_name="db")
    assert found.fit("reset", vm) == ("reset no-last-words name=db" if said is True else "reset")
    assert found.fit("reset", replace(vm, last_words=True, proxmox_name="")) == "reset"


@each_row(
    "told",
    [
        *(None, "", "2026-11-27T03:12:09Z", 1, [], [TOLD], {}),
        *({name: value for name, value in PROVEN.items() if name != left_out} for left_out in PROVEN),
        *(
            TOLD | {"at": at}
            for at in (None, 0, "yesterday", "2026-11-27", "2026-11-27T03:12:09Z\n", "٢026-11-27T03:12:09Z")
        ),
        *(TOLD | {"by": by} for by in (None, "", "a b", "<b>", "x" * 65)),
        *(TOLD | {"how": how} for how in (None, "", "drills", ["drill"])),
    ],
)
def test_what_is_malformed_counts_as_never(told: object) -> None:
    """No other text of a host reaches a page or a metric."""
    assert read_proven(told) is None
    assert newer_proven(PROVEN, told) == PROVEN


def test_the_newest_counts() -> None:
    """A request that attaches to an older job gets the proof of that time, which must not replace a newer one."""
    older, newer = PROVEN | {"at": "2026-11-26T23:59:59Z"}, PROVEN | {"at": "2026-12-01T00:00:00Z", "how": "drill"}
    assert newer_proven(None, None) is None
    assert newer_proven(None, TOLD) == PROVEN
    assert newer_proven(PROVEN, older) == PROVEN
    assert newer_proven(PROVEN, newer) == newer

"""The list of VMs that a key serves: the values of `--vms`, and their normal form."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from breakglass.agents.pve.vm_list import VmList, list_of, parse_vm_list

from ..support.rows import each_row

MOST = 10**9 - 1


@each_row(
    ("text", "ranges"),
    [
        ("102", ((102, 102),)),
        ("102,110-119", ((102, 102), (110, 119))),
        ("110-119,102", ((102, 102), (110, 119))),
        ("102,102", ((102, 102),)),
        ("102,103", ((102, 103),)),
        ("5-5", ((5, 5),)),
        ("100-110,105-120,121", ((100, 121),)),
        ("100-200,110-120", ((100, 200),)),
        ("1-3,5-7", ((1, 3), (5, 7))),
        ("999999999", ((MOST, MOST),)),
        ("all", ((1, MOST),)),
    ],
)
def test_a_list(text: str, ranges: tuple[tuple[int, int], ...]) -> None:
    """Ranges are sorted, and those that overlap or touch are joined."""
    assert parse_vm_list(text).ranges == ranges


@each_row(
    "text",
    [
        *("", "0", "-5", "5-", "5-3", "1,,2", ",1", "1,", " 1", "1 ", "1, 2", "1\n", "01", "1-02", "1-2-3", "+1"),
        *("all,1", "1,all", "ALL", "none", "*", "0-5", "1000000000", "1-1000000000", "1.5", "1;2", "١", "²"),
    ],
)
def test_no_list(text: str) -> None:
    """Anything else is refused as a whole, because a part would be a list that the operator did not write."""
    with pytest.raises(ValueError, match=r"is not a list of VMs|is not a range"):
        parse_vm_list(text)


def test_a_long_text_is_not_repeated_as_a_whole() -> None:
    with pytest.raises(ValueError, match=r'^"1{40}" is not a list of VMs, like 102,110-119 or all$'):
        parse_vm_list("1" * 5000)


def test_which_vms_are_in_a_list() -> None:
    served = parse_vm_list("102,110-119")
    assert [vmid for vmid in range(90, 130) if vmid in served] == [102, *range(110, 120)]
    assert all(vmid in parse_vm_list("all") for vmid in (1, 102, MOST))
    assert 0 not in parse_vm_list("all")


def test_the_only_vm() -> None:
    """A request without vm= is for the only VM. If there are several or all, there is none."""
    only = {text: parse_vm_list(text).only for text in ("102", "102,102", "102-102", "102,104", "102-103", "all")}
    assert only == {"102": 102, "102,102": 102, "102-102": 102, "102,104": None, "102-103": None, "all": None}


def test_every_vm() -> None:
    assert [parse_vm_list(text).is_every for text in ("all", "1-999999999", "1-999999998", "102")] == [
        True,
        True,
        False,
        False,
    ]


@each_row(
    ("text", "vmid", "more"),
    [
        ("102", 104, "102,104"),
        ("102", 103, "102-103"),
        ("102", 101, "101-102"),
        ("102,104", 103, "102-104"),
        ("102,110-119", 105, "102,105,110-119"),
        ("102,110-119", 120, "102,110-120"),
        ("102,110-119", 115, "102,110-119"),
        ("all", 103, "all"),
    ],
)
def test_one_more_vm(text: str, vmid: int, more: str) -> None:
    served = parse_vm_list(text)
    assert str(served.with_vm(vmid)) == more
    assert str(served) == text


def test_the_list_of_some_vms() -> None:
    assert str(list_of([119, 102, *range(110, 119), 102])) == "102,110-119"


VMIDS = st.one_of(st.integers(1, 12), st.integers(1, MOST))


@given(st.lists(VMIDS, min_size=1, max_size=12), VMIDS)
def test_a_list_is_read_as_it_was_written(vmids: list[int], vmid: int) -> None:
    """Written and read again, the list has the same VMs. With one more, it has only that one in addition."""
    served = list_of(vmids)
    assert parse_vm_list(str(served)) == served
    more = served.with_vm(vmid)
    assert _members(more) == {*vmids, vmid}
    assert parse_vm_list(str(more)) == more


def _members(served: VmList) -> set[int]:
    return {vmid for first, last in served.ranges for vmid in range(first, last + 1)}


def test_a_list_without_end_is_refused() -> None:
    """A host sends its list to the handler, which must not read one with millions of numbers."""
    with pytest.raises(ValueError, match="is not a list of VMs"):
        parse_vm_list(",".join(map(str, range(1, 3000))))

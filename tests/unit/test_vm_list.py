"""The list of VMs that a key serves: the values of `--vms`, and their normal form."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from breakglass.agents.pve.vm_list import VmList, list_of, parse_vm_list

from ..support.rows import each_row

MOST = 10**9 - 1


@each_row(
    ("text", "ranges", "only"),
    [
        ("102", ((102, 102),), 102),
        ("102,102", ((102, 102),), 102),
        ("5-5", ((5, 5),), 5),
        ("102,104", ((102, 102), (104, 104)), None),
        ("110-119,102", ((102, 102), (110, 119)), None),
        ("102,103", ((102, 103),), None),
        ("100-110,105-120,121", ((100, 121),), None),
        ("100-200,110-120", ((100, 200),), None),
        ("999999999", ((MOST, MOST),), MOST),
        ("all", ((1, MOST),), None),
    ],
)
def test_a_list(text: str, ranges: tuple[tuple[int, int], ...], only: int | None) -> None:
    """Ranges are sorted, and those that overlap or touch are joined. A request without vm= is for the only VM."""
    served = parse_vm_list(text)
    assert (served.ranges, served.only, served.is_every) == (ranges, only, text == "all")
    assert all(vmid in served for first_last in ranges for vmid in first_last)
    assert not any(vmid in served for vmid in (0, ranges[0][0] - 1, ranges[-1][1] + 1))


@each_row(
    "text",
    [
        *("", "0", "-5", "5-", "5-3", "1,,2", ",1", "1,", " 1", "1 ", "1, 2", "1\n", "01", "1-02", "1-2-3", "+1"),
        *("all,1", "1,all", "ALL", "none", "*", "0-5", "1000000000", "1-1000000000", "1.5", "1;2", "١", "²"),
        *("1" * 5000, ",".join(map(str, range(1, 3000)))),  # which a host could send to the handler
    ],
)
def test_no_list(text: str) -> None:
    """Anything else is refused as a whole, because a part would be a list that the operator did not write."""
    with pytest.raises(ValueError, match=r"is not a list of VMs|is not a range") as refused:
        parse_vm_list(text)
    assert len(str(refused.value)) < 120


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

"""The findings of doctor about a VM's hosts that are not in the same cluster."""

from breakglass.doctor.hosts import find_other_clusters

from ..support.rows import each_row
from .test_config import GOOD, HOST, OTHER_VM, read, vm

ON_PVE2 = HOST.replace("pve1", "pve2").replace("192.0.2.10", "192.0.2.12") + OTHER_VM.replace("pve1", "pve2")


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
    own = vm(read((GOOD + ON_PVE2).replace('hosts = ["pve1"]', 'hosts = ["pve1", "pve2"]')))
    found = list(find_other_clusters([own], {"pve1": first, "pve2": second}))
    assert [each.code for each in found] == ["other-cluster"] * is_found

"""What is said of a stale copy: a QEMU of a VM whose configuration another node has. Pure.

`qm` does not end it. Without HA it finds no configuration here; under HA `qm stop` only asks HA, which then stops the
VM on the other node (API2/Qemu.pm, vm_stop).
"""


def describe_copy(vmid: int, here: str, node: str, ha: str) -> tuple[str, ...]:
    """Return a verdict's sentence, its advice, which is empty, and its evidence with the two ways out for a person.

    `ha` is the state requested of HA: for a VM under HA, the configuration alone is not to be moved.
    """
    conf = f"qemu-server/{vmid}.conf"
    keep = f"mv /etc/pve/nodes/{node}/{conf} /etc/pve/nodes/{here}/{conf}"
    return (
        f"a QEMU of VM {vmid} still runs on {here}, and its configuration is on node {node}: stop this QEMU first",
        "",
        f"/etc/pve/.vmlist names {node}, and no migration is under way",
        f"by hand, to end this QEMU: kill $(cat /run/qemu-server/{vmid}.pid) on {here}, because qm can't",
        *(() if ha else (f"by hand, to keep this QEMU, only if the VM does not run on {node}: {keep}",)),
    )

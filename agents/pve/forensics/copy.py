"""The sentence and the evidence about a stale copy, a QEMU of a VM whose configuration is on another node. Pure.

`qm` does not end it. Without HA it finds no configuration here; under HA `qm stop` only asks HA, which then stops the
VM on the other node (API2/Qemu.pm, vm_stop).
"""


def describe_copy(vmid: int, here: str, node: str, ha: str) -> tuple[str, ...]:
    """Return a verdict's sentence, its advice, which is empty, and its evidence with the two ways out for a person.

    `ha` is the state requested of HA: the configuration of a VM under HA must not be moved by hand.
    """
    conf = f"qemu-server/{vmid}.conf"
    keep = f"mv /etc/pve/nodes/{node}/{conf} /etc/pve/nodes/{here}/{conf}"
    return (
        f"a QEMU of VM {vmid} still runs on {here}, but the VM's configuration is on node {node}; send stop to "
        "end this QEMU first",
        "",
        f"/etc/pve/.vmlist names {node}, and no migration is under way",
        f"by hand on {here}, to end this QEMU, because qm can't: kill $(cat /run/qemu-server/{vmid}.pid)",
        *(() if ha else (f"by hand, to keep this QEMU, only if the VM does not run on {node}: {keep}",)),
    )

"""What a host agent reports about itself when its session opens.

The handler reports `answering` only for a VM that a verb would reach, so it first checks which VMs the key serves. A
verb waits for this check only if a node is configured.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ..agents.pve.vm_list import VmList, parse_vm_list
from ..base.errors import Unreached
from ..base.findings import fix_of
from ..base.proven import Proven, read_proven
from ..base.text import shown
from ..config.model import Host, Vm

_NONE = VmList(())


@dataclass(frozen=True)
class Handshake:
    """The result of a `ping`; `heard` is false if no result arrived."""

    heard: bool = False
    version: str = ""
    bundle: str = ""  # the SHA-256 of its file
    node: str = ""
    vms: VmList = _NONE
    read_only: bool = False
    proven: Proven | None = None
    no_last_words: bool = False  # the host agent knows this word
    names: bool = False  # the host agent knows `name=`
    # the cluster's name; empty if the node is in no cluster, None if the host agent could not tell
    cluster: str | None = None
    places: object = None  # the VMs of the key by node, as the host agent sent them; None if it could not tell

    def fault(self, host: Host, vmid: int | None = None) -> str:
        """Return why no verb would reach a VM (None: any VM) through this session, or an empty text."""
        if not self.heard:
            return "agent-silent"
        if host.node and self.node != host.node:
            return "wrong-node"
        if self.read_only:
            return "read-only-key"
        return "not-allowed" if vmid is not None and vmid not in self.vms else ""

    def fit(self, line: str, vm: Vm) -> str:
        """Return a line with the words for a VM's `last_words` and `name`, if the host agent knows them."""
        asks_not = " no-last-words" if self.no_last_words and not vm.last_words else ""
        return f"{line}{asks_not}" + (f" name={vm.proxmox_name}" if self.names and vm.proxmox_name else "")

    def check_node(self, host: Host) -> None:
        """Raise Unreached unless this is the configured node. On another node, a number is a different VM.

        A node that has not reported its name counts as another node.
        """
        if host.node and self.node != host.node:
            node = f'the node "{shown(self.node)}"' if self.node else "a node that did not give its name"
            reason = f'{host.ssh} is {node}, and hosts.{host.name}.node is "{host.node}"'
            raise Unreached("wrong-node", reason, fix_of("wrong-node", host.name))


def read_handshake(result: Mapping[str, object]) -> Handshake:
    """Return the handshake in the result of a `ping`."""
    try:
        vms = parse_vm_list(str(result.get("vms")))
    except ValueError:
        vms = _NONE
    version, bundle, node = (str(result.get(name, ""))[:200] for name in ("version", "bundle", "node"))
    read_only, asks_not, names = (result.get(name) is True for name in ("read_only", "no_last_words", "names"))
    proven, cluster, places = read_proven(result.get("proven")), result.get("cluster"), result.get("places")
    cluster = cluster if isinstance(cluster, str) else None
    return Handshake(True, version, bundle, node, vms, read_only, proven, asks_not, names, cluster, places)

"""The command line of the VM's QEMU: what `qm showcmd` prints, and why `qm start` fails before QEMU starts.

Rules and texts: qemu-server 9.2.6, QemuServer.pm (vm_commandline, vm_start_nolock, config_to_command); pve-storage
9.1.7, Plugin.pm; pve-common 9.2.1, Network.pm. The host's bridges are the names in `<root>/sys/class/net`.
"""

import json
import os
import re

from .processes import Died
from .vm import Vm

_NOT_FOUND = 2  # outside a task, a failed command exits with the last errno (here ENOENT), or with 255 without one


def show(vm: Vm, arguments: list[str]) -> None:
    """Print what `qm showcmd` prints. The volumes of a running VM are not activated."""
    vm.config()
    if vm.pid is None:
        activate_volumes(vm)
    print(" ".join(make_command(vm)))


def activate_volumes(vm: Vm) -> None:
    """Raise Died if an ISO image is missing, as a start does."""
    for volume, path in _isos(vm):
        if not os.path.exists(vm.root + path):
            raise Died(f"volume '{volume}' does not exist", _NOT_FOUND)


def make_command(vm: Vm) -> list[str]:
    """Return the command that starts QEMU. Raises Died if this host lacks something from the configuration."""
    conf = vm.config()
    is_minimal = conf.get("template", "0") != "0"  # a template is started only for backups, so only its disks matter
    if not is_minimal and conf.get("hugepages") and conf.get("numa", "0") == "0":
        where = "/usr/share/perl5/PVE/QemuServer/Memory.pm line 388."
        raise Died(f"numa needs to be enabled to use hugepages at {where}")
    for _, path in _isos(vm) if _has_blockdevs(conf) else ():
        if not os.path.exists(vm.root + path):
            raise Died(f"stat for '{path}' failed - No such file or directory", _NOT_FOUND)
    for name, value in conf.items():
        bridge = re.search(r"^virtio=.*\bbridge=([^,]+)", value)
        if re.fullmatch("net[0-9]+", name) and not is_minimal and bridge:
            _require_bridge(vm, bridge[1])
    with open(f"{vm.root}/vm.json", encoding="utf-8") as file:
        command: list[str] = json.load(file)
    return command


def _has_blockdevs(conf: dict[str, str]) -> bool:
    """Return whether the machine's version is 10.0 or later. Before that, images are not checked here."""
    version = re.search(r"-(\d+)\.\d", conf.get("machine", ""))
    return version is None or int(version[1]) >= 10


def _require_bridge(vm: Vm, name: str) -> None:
    """Raise Died if the bridge is missing. For cards other than virtio, only QEMU's own script checks that."""
    if not os.path.exists(f"{vm.root}/sys/class/net/{name}"):
        raise Died(f"bridge '{name}' does not exist", _NOT_FOUND)


def _isos(vm: Vm) -> list[tuple[str, str]]:
    """Return the volume and the path of each ISO image on the storage `local`."""
    found = [re.match(r"(local:iso/([^,]+))", value) for value in vm.config().values()]
    return [(iso[1], f"/var/lib/vz/template/iso/{iso[2]}") for iso in found if iso]

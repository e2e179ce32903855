"""A stand-in for Proxmox's `qm`: its options, exit codes, worker, flock and signals. It is never more lenient.

Texts and rules: qemu-server 9.2.6 (CLI/qm.pm, API2/Qemu.pm). The VM is a real QEMU process if QEMU is installed,
otherwise `kvm.py`. `qm` follows the host's files: `lock:` and `hookscript:` of a configuration, the flock, HA's
resources, the quorum bit, and a scope that is not empty. Other failures come from a plugin (`plugin.py`).
"""

import os
import sys
from collections.abc import Mapping

from . import command_line
from .plugin import load_plugin
from .processes import Died, name_perl, name_process
from .times import burn
from .vm import Vm

_PRESSURES = [f"pressure{of}{share}" for of in ("cpu", "io", "memory") for share in ("full", "some")]
_NO_PMXCFS = (
    *(f"ipcc_send_rec[{number}] failed: Connection refused" for number in (1, 2, 3)),
    "Unable to load access control list: Connection refused",
)


def status(vm: Vm, arguments: list[str]) -> None:
    """Print what `qm status` prints."""
    vm.config()
    state, answers = vm.state()
    if "--verbose" not in arguments:
        print(f"status: {state}")
        return
    _print_fields(verbose(vm, state, answers))


def _print_fields(fields: Mapping[str, object], indent: str = "") -> None:
    for key, value in sorted(fields.items()):
        if isinstance(value, dict):
            print(f"{indent}{key}:")
            _print_fields(value, f"{indent}\t")
        else:
            print(f"{indent}{key}: {value}")


def verbose(vm: Vm, state: str, answers: bool) -> dict[str, object]:
    """Return the fields of `qm status --verbose`. If QEMU is silent, its fields are missing."""
    conf = vm.config()
    fields: dict[str, object] = {"name": conf.get("name", ""), "qmpstatus": state, "vmid": vm.vmid}
    fields |= {"cpus": conf.get("cores", "1"), "maxmem": int(conf.get("memory", "512")) << 20, "maxdisk": 1 << 20}
    fields |= dict.fromkeys(("disk", "mem", "memhost", "netin", "netout", "uptime"), 0)
    fields |= {"lock": lock} if (lock := conf.get("lock")) else {}
    fields |= {"pid": vm.pid} | dict.fromkeys(_PRESSURES, 0) if vm.pid else {}
    if answers:
        fields |= {"running-machine": "pc-i440fx-10.0+pve0", "running-qemu": "10.0.0"}
        fields |= {"blockstat": {"virtio0": {"failed_rd_operations": 0}}, "diskread": 0, "diskwrite": 0}
    return fields | {"status": "stopped" if state == "stopped" else "running"}


def config(vm: Vm, arguments: list[str]) -> None:
    """Print what `qm config` prints: the configuration of the next start, or with --current, of now."""
    now, later = vm.config(), {} if "--current" in arguments else vm.config("PENDING")
    gone = later.pop("delete", "").split(",")
    _print_fields({key: value for key, value in now.items() if key not in gone} | later)


def pending(vm: Vm, arguments: list[str]) -> None:
    """Print what `qm pending` prints."""
    now, later = vm.config(), vm.config("PENDING")
    gone = later.pop("delete", "").split(",")
    for key in sorted({*now, *later}):
        if key in now:
            print(f"{'del' if key in gone else 'cur'} {key}: {now[key]}")
        if key in later:
            print(f"new {key}: {later[key]}")


TASKS = ("start", "stop", "reset", "shutdown", "reboot")
LOOKS = {"status": status, "config": config, "pending": pending, "showcmd": command_line.show}


def reach_pmxcfs(root: str) -> None:
    """Raise Died if /etc/pve is not mounted or its server has died; block if its server hangs."""
    try:
        os.stat(f"{root}/etc/pve/local")
    except OSError:
        raise Died("\n".join(_NO_PMXCFS), 111) from None


def run(root: str, verb: str, vmid: int, arguments: list[str]) -> int:
    """Run one command and return its exit code; its error goes to stderr."""
    vm = Vm(root, vmid)
    try:
        reach_pmxcfs(root)
        if verb in TASKS or verb == "cleanup":
            from . import tasks  # imported here, because a capture starts many commands that don't need it

            return tasks.run(vm, verb, arguments) if verb in TASKS else tasks.clean_up(vm, arguments[:1] == ["1"])
        load_plugin(root).before(root, "qm", [verb, str(vmid), *arguments])
        LOOKS[verb](vm, arguments)
    except Died as error:
        print(error, file=sys.stderr, flush=True)
        return error.code
    return 0


def main() -> int:
    """Run `ROOT VERB VMID [OPTIONS]`."""
    root, verb, vmid, *arguments = sys.argv[1:]
    if verb == "cleanup":  # qmeventd runs this command directly
        name_process(["/usr/bin/perl", "/usr/sbin/qm", verb, vmid, *arguments], "qm")
    else:
        name_perl("qm", verb, vmid, *arguments)
    burn(root)
    return run(root, verb, int(vmid), arguments)

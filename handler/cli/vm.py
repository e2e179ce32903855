"""`breakglass vm`: adds, lists and removes VMs, each in its own file vms.d/NAME.toml."""

import argparse
import asyncio
import http.client
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..base.findings import ERROR, Finding, as_json
from ..client import HandlerError, NoAnswer, VerbCall, call, new_id
from ..config.load import load_config
from ..config.model import Config, Vm
from ..config.new_file import NewVm
from ..config.own_files import add_entry, find_entry, remove_entry
from ..config.sources import own_file
from .account import name_this_user
from .check import find_problems
from .environment import given_url
from .init_values import add_vm
from .keys.configuration import add_config_argument, changing, find_config
from .output import DONE, FAILED, CommandError, agrees, has_person, remark, say, show_table
from .reloading import add_reload_arguments, check_reload, reload_handler
from .report import find_signer

# --- The arguments ---


def add_vm_commands(parser: argparse.ArgumentParser) -> None:
    """Describe `vm`."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add = commands.add_parser("add", help="add a VM, and ask its hosts about it", example="vm add web1=103@pve1")
    add.description = (
        "Write a file for a new VM, vms.d/NAME.toml beside the configuration, and ask the VM's hosts whether they have "
        "the VM and whether the key serves it. It prints the line to run on a host whose key does not."
    )
    add.add_argument("vm", metavar="NAME=NUMBER[@HOST,HOST]", help="the VM and where it may run, like mail=103@pve1")
    remove = commands.add_parser("remove", help="remove a VM, unless a job of it runs", example="vm remove web1")
    remove.description = (
        "Remove a VM's file after asking the handler whether a job of the VM runs. It prints what to do on the hosts. "
        "For a VM in the configuration itself, it says what to remove by hand."
    )
    remove.add_argument("name", help="the VM's name")
    remove.add_argument("--force", action="store_true", help="don't ask the handler whether a job of the VM runs")
    remove.add_argument("--yes", action="store_true", help="don't ask for confirmation (required without a terminal)")
    listed = commands.add_parser("list", help="list the VMs, and whether the handler reaches them", example="vm list")
    for command, run in ((add, _add), (remove, _remove), (listed, _list)):
        command.add_argument("--json", action="store_true", help="print one line of JSON")
        add_config_argument(command)
        command.set_defaults(run=run)
    for command in (add, remove):
        add_reload_arguments(command)


# --- `breakglass vm add` ---


def _add(arguments: argparse.Namespace) -> int:
    """Add a VM, reload the handler if an option says so, and print what the VM's hosts say."""
    check_reload(arguments)
    file = find_config(arguments)
    name, vm = _read_vm(load_config(file, os.environ), arguments.vm)
    with changing():
        add_entry(file, "vms", name, {"hosts": list(vm.hosts), "vmid": vm.vmid})
    remark(f"{name} is in {own_file(file, 'vms', name)}")
    reload_handler(arguments)
    found = _ask_hosts(file, name)
    if arguments.json:
        say(json.dumps({"name": name, "file": str(own_file(file, "vms", name)), "findings": as_json(found)}))
    else:
        for finding in found:
            say(str(finding))
    return DONE


def _read_vm(config: Config, text: str) -> tuple[str, NewVm]:
    """Return the name and the values of a new VM. Raises CommandError for one that the configuration rules out."""
    name = text.partition("=")[0]
    found = {each.name: NewVm(each.vmid, tuple(host.name for host in each.hosts)) for each in config.vms.values()}
    found |= {off: NewVm(vmid or 0, tuple(config.hosts)) for off, vmid in config.vms_off.items()}
    found.pop(name, None)  # the edit refuses a name that exists, and says where
    try:
        add_vm(found, {host.name: str(host.ssh) for host in config.hosts.values()}, text)
    except ValueError as fault:
        raise CommandError(f"{fault}; nothing was changed") from None
    return name, found[name]


def _ask_hosts(file: Path, name: str) -> list[Finding]:
    """Return doctor's findings about a VM, and the errors of its hosts with what to run there once they answer.

    If root runs this, the process becomes the handler's user, as for doctor.
    """
    from ..doctor.host_agent import judge_served
    from ..doctor.hosts import look_at_hosts
    from ..doctor.visit import Visit
    from ..proxmox.handshake import Handshake

    config, problems = find_problems(file, None)
    vm = config.vms.get(name) if config else None
    if config is None or vm is None:
        return [each for each in problems if each.level == ERROR]
    name_this_user()
    visit = Visit(file, config, problems, None, "", name, {}, time.time(), os.environ)
    found: list[Finding] = []
    asyncio.run(look_at_hosts(visit, found))
    silent = {each.place for each in found if each.level == ERROR}
    for host in (each for each in vm.hosts if f"host {each.name}" in silent):
        for _, finding in judge_served(host, Handshake(), [vm]):
            remark(f"once {host.name} answers, {finding.fix}")
    return [each for each in found if each.place == f"VM {name}" or each.level == ERROR]


# --- `breakglass vm remove` ---

_NOT_SERVED = ("no-usable-vm", "wrong-vm")  # the verdicts if the handler, or its key on the host, does not serve a VM


def _remove(arguments: argparse.Namespace) -> int:
    """Remove a VM's file, unless a job of the VM runs, and print what to do on the hosts."""
    check_reload(arguments)
    file, name = find_config(arguments), arguments.name
    config = load_config(file, os.environ)
    with changing():
        find_entry(file, "vms", name)
    vm = config.vms.get(name)
    if vm and not arguments.force:
        _refuse_busy(config, vm)
    if not arguments.yes:
        _confirm(str(own_file(file, "vms", name)), name)
    with changing():
        remove_entry(file, "vms", name)
    remark(f"{own_file(file, 'vms', name)} is removed")
    reload_handler(arguments)
    others = {(host.name, each.vmid) for each in config.vms.values() if each != vm for host in each.hosts}
    freed = [host for host in vm.hosts if (host.name, vm.vmid) not in others] if vm else []
    hosts = {host.name: _describe_key(vm, host.ssh.host, host.ssh.user) for host in freed} if vm else {}
    if arguments.json:
        say(json.dumps({"name": name, "hosts": hosts}))
    for line in [] if arguments.json else hosts.values():
        say(line)
    return DONE


def _refuse_busy(config: Config, vm: Vm) -> None:
    """Raise CommandError unless the handler says that no job of the VM runs, or does not know the VM."""
    hint = f"to remove it without asking: breakglass vm remove {vm.name} --force; a job under way continues on its host"
    unknown = f"it is not known whether a job of {vm.name} runs, so nothing was changed"
    try:
        answer = call(find_signer(config), new_id(), VerbCall("status", vm=vm.name), lambda _: None)
    except (CommandError, HandlerError, NoAnswer) as fault:
        raise CommandError(f"{unknown}: {fault}", hint, FAILED) from None
    holder, verdict = answer.get("holder"), answer.get("verdict")
    if isinstance(holder, dict):
        what = "{verb} by {by} since {since}, stage {stage}".format_map({"stage": "", **holder})
        raise CommandError(f"a job of {vm.name} runs, so nothing was changed: {what}", f"wait for it; {hint}", FAILED)
    code, why = (verdict.get("code"), verdict.get("sentence")) if isinstance(verdict, dict) else ("", answer["outcome"])
    if answer["outcome"] != "done" and code not in _NOT_SERVED:
        raise CommandError(f"{unknown}: {why}", hint, FAILED)


def _confirm(file: str, name: str) -> None:
    """Raise CommandError unless the person at the terminal agrees."""
    if not has_person():
        raise CommandError(f"this removes {file}, but there is no terminal at which to ask you", "add --yes")
    if not agrees(f"Remove {name}, with all settings in {file}?"):
        raise CommandError("nothing was changed", "", FAILED)


def _describe_key(vm: Vm, address: str, user: str) -> str:
    """Return what to do on a host, so that the key no longer reaches a removed VM."""
    file = f"/etc/ssh/authorized_keys.d/{'breakglass' if user == 'root' else user}"
    return f"as root on {address}: take {vm.vmid} out of --vms in {file} (an open connection keeps the old list)"


# --- `breakglass vm list` ---


def _list(arguments: argparse.Namespace) -> int:
    """List the VMs, with their states in the running handler."""
    file = find_config(arguments)
    config = load_config(file, os.environ)
    states, why = _read_states(config)
    hosts = {vm.name: [host.name for host in vm.hosts] for vm in config.vms.values()}
    rows: list[dict[str, Any]] = []
    for name, vmid in {**{name: vm.vmid for name, vm in config.vms.items()}, **config.vms_off}.items():
        own = own_file(file, "vms", name)
        state = "disabled" if name in config.vms_off else "not known" if why else states.get((name, vmid), "not loaded")
        where = {"hosts": hosts.get(name, []), "state": state, "file": str(own if own.exists() else file)}
        rows.append({"name": name, "vmid": vmid, **where})
    if arguments.json:
        say(json.dumps({"vms": rows}))
    else:
        show_table([[row["name"], str(row["vmid"]), ",".join(row["hosts"]), row["state"], row["file"]] for row in rows])
    if why:
        remark("the states are not known, because the handler did not answer", why)
    return DONE


def _read_states(config: Config) -> tuple[Mapping[tuple[object, object], str], str]:
    """Return the state of each VM in the running handler by name and number, and why they are not known."""
    from ..doctor.http import exchange, failure
    from .doctor import default_url

    url = given_url(os.environ) or default_url(config, os.environ)
    try:
        vms = exchange(url, "GET", "/health").json.get("vms")
    except (OSError, http.client.HTTPException) as fault:
        return {}, f"{url}: {failure(fault)}"
    found = [each for each in vms if isinstance(each, dict)] if isinstance(vms, list) else []
    return {(each.get("name"), each.get("vmid")): str(each.get("proxmox")) for each in found}, ""

"""Records in tests/data/qm.yaml what Proxmox itself says: exit code, stdout and stderr of commands in many situations.

On a node of a test cluster, with a disposable VM 102 whose configuration it replaces and whose QEMU it kills:
`.venv/bin/python -m tests.support.record_qm ssh root@NODE bash`. The words are a command that runs a shell as root.
"""

import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # its stubs are one more package

from breakglass.demo.proxmox.world import CONF

DATA = Path(__file__).parent.parent / "data/qm.yaml"
RECORDED = "# Recorded"
VERSIONS = "dpkg-query -W -f '${Package} ${Version}, ' qemu-server libpve-common-perl libpve-storage-perl pve-manager"
RESTORE = f"""{{
systemctl start pve-cluster corosync
until [ -d /etc/pve/local/ ] && touch /etc/pve/probe; do sleep 1; done
rm -f /etc/pve/probe /var/lib/vz/snippets/hook.sh
mkdir -p /var/lib/vz/snippets
[ -e /var/lib/vz/images/102/vm-102-disk-0.raw ] || pvesm alloc local 102 vm-102-disk-0.raw 1M
kill -9 $(cat /run/qemu-server/102.pid)
sleep 4
printf %s '{CONF}' 'kvm: 0' >/etc/pve/qemu-server/102.conf
echo >>/etc/pve/qemu-server/102.conf
qm start 102
}} </dev/null >/dev/null 2>&1
"""
# What differs between two hosts, or two runs.
NAMES = {r"(?<=process )\d+": "PID", r"\b(nodes/|node ')\w+": r"\1NODE"}


def said(
    run: str, place: str, settle: Callable[[], None], command: list[str], environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Make a situation in a shell, await `settle`, and return the exit code, stdout and stderr of `run`."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment) as shell:
        assert shell.stdin is not None
        assert shell.stdout is not None
        shell.stdin.write(f"trap 'kill $(jobs -p) 2>&-' EXIT\n{{ :\n{place}\n}} </dev/null >/dev/null 2>&1\necho\n")
        shell.stdin.flush()
        shell.stdout.readline()
        settle()
        out, err = shell.communicate(f"{{ {run}\n}} </dev/null\n")
    for found, name in NAMES.items():
        out, err = re.sub(found, name, out), re.sub(found, name, err)
    return {"code": shell.returncode, "out": out, "err": err}


class Dumper(yaml.SafeDumper):  # type: ignore[misc]  # without stubs, its type is Any
    """Writes texts of several lines as they are."""


def _write_text(dumper: Dumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


Dumper.add_representer(str, _write_text)


def main(command: list[str]) -> None:
    """Record every row again, by a command that runs a shell as root on a node."""
    text = DATA.read_text()
    asked = subprocess.run(command, input=f"{VERSIONS}; kvm --version", capture_output=True, text=True, check=True)
    recorded = f"{RECORDED} on {time.strftime('%Y-%m-%d')} from {asked.stdout.splitlines()[0]}."
    head = text.partition(RECORDED)[0] + textwrap.fill(recorded, 118, subsequent_indent="# ") + "\n"
    rows = yaml.safe_load(text)
    for row in rows:
        subprocess.run(command, input=RESTORE, text=True, check=True)
        row |= said(row["run"], row.get("place", ""), lambda: time.sleep(4), command)
        print(yaml.dump([row], Dumper=Dumper, sort_keys=False, width=200), flush=True)
    DATA.write_text(head + yaml.dump(rows, Dumper=Dumper, sort_keys=False, width=200))


if __name__ == "__main__":
    main(sys.argv[1:])

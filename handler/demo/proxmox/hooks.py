"""A VM's hook script. A `hookscript:` in a configuration, whatever its value, runs the file `<root>/hookscript`.

The script runs in the worker, without a time limit (pve-guest-common, GuestHelpers.pm, exec_hookscript).
"""

import os

from .processes import Died, run_command
from .vm import Vm, say


def run_hook(vm: Vm, phase: str, must_succeed: bool = False) -> None:
    """Run the hook script. Its failure is a warning, or with `must_succeed` a failure of the task."""
    named = vm.config().get("hookscript", "").partition(":snippets/")[2]
    script = f"{vm.root}/hookscript"
    if not named or not os.access(script, os.X_OK):
        return
    try:
        code = run_command([script, str(vm.vmid), phase])
        error = f"exit code {code}" if code > 0 else f"got signal {-code}" if code else ""
    except Died as died:
        error = str(died)
    if error:
        command = f"/var/lib/vz/snippets/{named} {vm.vmid} {phase}"
        words = f"hookscript error for {vm.vmid} on {phase}: command '{command}' failed: {error}"
        if must_succeed:
            raise Died(f"{words}\n")  # a space at the end of the task's error, because the original has one line more
        say(f"{words}\n")

"""The state of a VM from what was seen of it: its pid file, its process and QMP."""

import subprocess
import sys
from pathlib import Path

from breakglass.agents.pve.host.paths import Host
from breakglass.agents.pve.host.vmstate import Facts, describe_sources, has_process, is_here, is_vm_process, vm_state

from ..support.rows import each_row

STATES = {
    Facts(): ("stopped", "no pid file"),
    Facts(unread=True): ("unknown", "nothing answered"),
    Facts(qmp="running"): ("running", "no pid file; QMP says running"),
    Facts(7, True, "running"): ("running", "pid 7; QMP says running"),
    Facts(7, True, "unknown"): ("unknown", "pid 7; QMP says a state that QEMU does not have"),
    Facts(7, True, "", "no answer"): ("wedged", "pid 7; QMP is silent: no answer"),
    Facts(7, True): ("unknown", "pid 7; QMP did not answer yet"),
    Facts(7, False): ("stopped", "the pid file names 7, which is not this VM's QEMU"),
    Facts(7, False, "running"): ("stopped", "the pid file names 7, which is not this VM's QEMU"),
    Facts(7, None, "running"): ("running", "pid 7 (/proc did not answer); QMP says running"),
    Facts(7, None, ""): ("unknown", "pid 7 (/proc did not answer); QMP is silent: "),
}


@each_row(("facts", "said"), STATES.items())
def test_each_row_of_facts_is_a_state(facts: Facts, said: tuple[str, str]) -> None:
    """A process exists in each known state but `stopped`, and it is not known whether one does in an unknown state."""
    assert (vm_state(facts), describe_sources(facts)) == said
    assert has_process(facts) is {"unknown": None, "stopped": False}.get(said[0], True)


def test_the_qemu_of_a_vm_is_known_by_its_command_line(tmp_path: Path) -> None:
    """Its name is that of a QEMU, and it names the VM's pid file. Another process with the number is not the VM."""
    host, other = Host(102, str(tmp_path)), Host(103, str(tmp_path))
    Path(host.pidfile).parent.mkdir(parents=True)
    (tmp_path / "proc").symlink_to("/proc")
    assert (is_here(host), is_vm_process(host, 2**22 + 1)) == (False, False)
    for name, mine in (("/usr/bin/kvm", True), ("qemu-system-x86_64", True), ("kvm-nx-lpage", False)):
        command = [name, "-c", "input()", "-pidfile", host.pidfile]
        with subprocess.Popen(
            command, executable=sys.executable, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            Path(host.pidfile).write_text(f"{process.pid}\n")
            assert is_vm_process(other, process.pid) is False
            assert (is_here(host), is_here(other)) == (mine, False)
            process.kill()
        assert is_here(host) is False

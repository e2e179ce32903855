"""What VMs and hosts cost: 40 VMs on one host, and 1,000 VMs on 50 hosts behind one handler."""

import json
import subprocess
import sys
import time
from pathlib import Path

import asyncssh

from breakglass.demo.proxmox.world import VMID, World

from ..support.browser import chromium
from ..support.ports import reserve_port
from ..support.pve_host import command_line
from ..support.service import Service
from ..support.sshd import Sshd, descendants
from .client import Figures, Keeping, kib, millis, resident_kib, timed

VMS, HOSTS, VMS_A_HOST = 40, 50, 20
MEMORY_TITLES = {
    "vms40_processes": "40 VMs on one host: processes beside sshd's (wanted: at most 3)",
    "vms40_pss_mib": "40 VMs on one host: their memory, MiB (wanted: at most 60)",
    "vms40_locked_mib": "40 VMs on one host: locked memory, MiB",
    "vms40_handler_mib": "40 VMs on one host: resident memory of the handler, MiB",
}
TITLES = {
    "vms1000_up_s": "1,000 VMs on 50 hosts: all answering after, s (wanted: at most 60)",
    "vms1000_handler_mib": "1,000 VMs on 50 hosts: resident memory of the handler, MiB (wanted: at most 250)",
    "vms1000_status": "1,000 VMs on 50 hosts: signed status, ms (wanted: as with one)",
    "vms1000_list_s": "1,000 VMs on 50 hosts: the page's list, from the key to the last state, s (wanted: at most 6)",
    "vms1000_list_requests": "1,000 VMs on 50 hosts: requests for the states of that list (wanted: one a host)",
    "vms1000_list_task_ms": "1,000 VMs on 50 hosts: longest task of the list and 20 s more, ms (wanted: at most 100)",
    "vms1000_list_cpu_ms": "1,000 VMs on 50 hosts: the same in processor time, which a busy machine leaves alone, ms",
    "vms1000_list_frame_ms": "1,000 VMs on 50 hosts: longest frame while that list scrolls, ms (wanted: at most 50)",
    "vms1000_turned_away": "1,000 VMs on 50 hosts: connections turned away (wanted: 0)",
}


def memory_figures(world: World, sshd: Sshd, directory: Path) -> Figures:
    """Return what 40 VMs of one host cost there, and in the handler. The key file's lists are changed for it."""
    lines = sshd.keys.read_text()
    sshd.keys.write_text(lines.replace(f"--vms {VMID} ", f"--vms {VMID}-{VMID + VMS - 1} "))
    more = "".join(f'[vms.v{n}]\nhosts = ["pve1"]\nvmid = {VMID + n}\n' for n in range(1, VMS))
    service = Service(directory, **sshd.access, extra=more)
    try:
        wait_answering(service)
        for n in range(1, VMS):
            service.pve("status", vm=f"v{n}")
        ours = [pid for pid in descendants(sshd.process.pid) if "breakglass-pve" in command_line(pid)]
        return {
            "vms40_processes": len(ours),
            "vms40_pss_mib": round(sum(kib(pid, "smaps_rollup", "Pss") for pid in ours) / 1024, 1),
            "vms40_locked_mib": round(sum(kib(pid, "status", "VmLck") for pid in ours) / 1024, 1),
            "vms40_handler_mib": round(resident_kib(service.process.pid) / 1024, 1),
        }
    finally:
        service.stop()
        sshd.keys.write_text(lines)


def fleet_figures(directory: Path) -> Figures:
    """Return what 1,000 VMs on 50 simulated hosts cost the handler, and how fast one is asked."""
    power, host_key = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    private, public = power.export_private_key().decode(), power.export_public_key().decode()
    pinned = host_key.export_public_key().decode().strip()
    ports = [str(reserve_port()) for _ in range(HOSTS)]
    last = VMID + VMS_A_HOST - 1
    argv = [sys.executable, "-m", "tests.bench.fleet", host_key.export_private_key().decode(), public]
    fleet = subprocess.Popen([*argv, f"{VMID}-{last}", *ports], stdout=subprocess.PIPE, text=True)
    try:
        assert fleet.stdout is not None
        assert fleet.stdout.readline() == "listening\n"
        more = "".join(_host_with_vms(number, port, private, pinned) for number, port in enumerate(ports))
        more = more.replace(f"[vms.v0-{VMID}]\n", "[vms.spare]\n", 1)
        began = time.monotonic()
        service = Service(directory, port=int(ports[0]), key=private, host_key=[pinned], extra=more)
        try:
            states = wait_answering(service)
            up = time.monotonic() - began
            keeping = Keeping(service)
            status = millis(timed(keeping.status, 100, warm=10))
            return list_figures(service) | {
                "vms1000_up_s": round(up, 1),
                "vms1000_handler_mib": round(resident_kib(service.process.pid) / 1024, 1),
                "vms1000_status": status,
                "vms1000_turned_away": states.count("turned-away"),
            }
        finally:
            service.stop()
    finally:
        fleet.kill()
        fleet.wait()


TASKS = """() => { window.tasks = [0]; new PerformanceObserver(list =>
    window.tasks.push(...list.getEntries().map(each => each.duration))).observe({type: "longtask"}); }"""
ALL_RUN = """(count) => document.querySelector("[data-group=run] h2")?.textContent.startsWith(`${count} run`)"""
SCROLL = """async (count) => {
    const frame = () => new Promise((done) => requestAnimationFrame(done));
    const isWhole = () => document.querySelectorAll("#rows [data-vm]").length === count;
    let [last, longest] = [await frame(), 0];
    while (!isWhole() || scrollY + innerHeight < document.documentElement.scrollHeight - 2) {
        scrollBy(0, 400);
        const now = await frame();
        [last, longest] = [now, Math.max(longest, now - last)];
    }
    return longest;
}"""


def list_figures(service: Service) -> Figures:
    """Return how fast the page knows all VMs, and whether it stays smooth, in a window of a phone's size."""
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 360, "height": 740})
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.post_data or ""))
        page.goto(f"http://127.0.0.1:{service.port}/")
        page.fill("#secret", service.secrets["operator"])
        page.evaluate(TASKS)
        browser.start_tracing(page=page, categories=["toplevel"])
        began = time.monotonic()
        page.keyboard.press("Enter")
        page.click("#show-vms")
        count = len(service.health()["vms"])
        page.wait_for_function(ALL_RUN, arg=count, timeout=60_000)
        known, requests = time.monotonic() - began, sum('"verb":"states"' in body for body in asked)
        frame = page.evaluate(SCROLL, count)
        page.wait_for_timeout(20_000)  # the second round, and the ages of each second
        return {
            "vms1000_list_s": round(known, 1),
            "vms1000_list_requests": requests,
            "vms1000_list_task_ms": round(max(page.evaluate("() => window.tasks"))),
            "vms1000_list_cpu_ms": round(longest_processor_ms(browser.stop_tracing())),
            "vms1000_list_frame_ms": round(frame),
        }


def longest_processor_ms(trace: bytes) -> float:
    """Return the most processor time that one task took on the page's main thread."""
    events = json.loads(trace)["traceEvents"]
    mains = [event for event in events if event.get("args", {}).get("name") == "CrRendererMain"]
    threads = {(main["pid"], main["tid"]) for main in mains}
    tasks = [event for event in events if "tdur" in event and event["name"].endswith("RunTask")]
    longest: float = max(task["tdur"] for task in tasks if (task["pid"], task["tid"]) in threads)
    return longest / 1000


def _host_with_vms(number: int, port: str, private: str, pinned: str) -> str:
    """Return the tables of one simulated host and its VMs."""
    text = f"[hosts.n{number}]\nssh = \"breakglass@127.0.0.1:{port}\"\nhost_key = \"{pinned}\"\nkey = '''{private}'''\n"
    for vmid in range(VMID, VMID + VMS_A_HOST):
        text += f'[vms.v{number}-{vmid}]\nhosts = ["n{number}"]\nvmid = {vmid}\n'
    return text


def wait_answering(service: Service, seconds: float = 120) -> list[str]:
    """Return every other state that was seen before all VMs were answering."""
    until, seen = time.monotonic() + seconds, []
    while others := [vm["proxmox"] for vm in service.health()["vms"] if vm["proxmox"] != "answering"]:
        assert time.monotonic() < until, others
        seen += others
        time.sleep(0.05)
    return seen

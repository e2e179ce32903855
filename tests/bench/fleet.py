"""`python -m tests.bench.fleet HOST_KEY PUBLIC_KEY VMS PORT…`: Proxmox hosts that answer like the host agent.

Each port is its own host, with one resident session that answers `ping`, `status` and `states` for the VMs of its key.
"""

import asyncio
import json
import sys

import asyncssh

from breakglass.agents.pve.words import VERSION

RESULT = {
    "type": "result",
    "exit_code": 0,
    "outcome": "done",
    "state": "running",
    "last": None,
    "stage": "status",
    "verdict": None,
    "holder": None,
    "anyway": None,
    "screen": False,
    "warnings": [],
    "seconds": 0.0,
}


OF_RUNNING = {
    "code": "qemu-running",
    "sentence": "QEMU runs; the guest was not examined",
    "advice": "forensics",
    "evidence": [],
}


def _ends(vms: str) -> tuple[int, int]:
    first, _, last = vms.partition("-")
    return int(first), int(last)


def _state(vmid: int) -> dict[str, object]:
    """Return what a host tells of a VM that runs."""
    return {"vm": vmid, "state": "running", "last": "none", "holder": None, "heartbeat": None, "verdict": OF_RUNNING}


async def serve_session(channel: asyncssh.SSHServerProcess[str], vms: str) -> None:
    """Answer each line of one session."""
    if channel.command != "session":
        channel.exit(10)
        return
    ping = RESULT | {"stage": "ping", "version": VERSION, "bundle": "", "node": "sim", "vms": vms, "read_only": False}
    states = RESULT | {
        "stage": "states",
        "states": [_state(vmid) for first, last in [_ends(vms)] for vmid in range(first, last + 1)],
    }
    async for line in channel.stdin:
        tag, _, command = line.strip().partition(" ")
        answer = {"ping": ping, "states": states}.get(command.partition(" ")[0], RESULT)
        channel.stdout.write(json.dumps({"tag": tag} | answer) + "\n")
    channel.exit(0)


async def main(host_key: str, public_key: str, vms: str, *ports: str) -> None:
    """Listen on each port until the parent ends this process."""
    allowed = asyncssh.import_authorized_keys(public_key)

    async def serve(channel: asyncssh.SSHServerProcess[str]) -> None:
        await serve_session(channel, vms)

    for port in ports:
        await asyncssh.listen(
            "127.0.0.1",
            int(port),
            server_host_keys=[asyncssh.import_private_key(host_key)],
            authorized_client_keys=allowed,
            process_factory=serve,
        )
    print("listening", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

"""A Proxmox host that someone has taken over, behind the real sshd. Its forced command never stops sending."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from breakglass.demo.proxmox.world import World

from .sshd import Sshd

# Each attack is endless. The first two need no request; the others begin with the answer to the first status.
ATTACKS = ("tiny", "bigjson", "flood", "small")
AGENT = """
import json, os, sys, time
from datetime import UTC, datetime
from pathlib import Path

attack = Path(__file__).with_name("attack").read_text()
session = os.environ.get("SSH_ORIGINAL_COMMAND", "") == "session"
out = sys.stdout.buffer

def say(tag, **message):
    return json.dumps({"tag": tag, **message}).encode() + b"\\n"

def result(tag):
    return say(tag, type="result", exit_code=0, outcome="done", state="running", vms="103")

tag = "1"
while session and attack in ("flood", "small"):
    tag, _, line = sys.stdin.readline().rstrip("\\n").partition(" ")
    if line.startswith("status") or not tag:
        break
    out.write(result(tag))
    out.flush()
now = datetime.now(UTC).isoformat()
listed = [
    {"id": f"msg_{n:08}" + "\\n9 cycle vm=103 id=msg_evil0000 by=x" * (n == 1), "verb": "forensics", "started": now}
    for n in range(3)
] + [{"id": 3}, 4, {"verb": "reset", "started": now}]
listed.append({"id": "msg_00000009", "verb": "stop", "started": now, "seconds": 1e300})
while session and attack == "lies":
    line = sys.stdin.readline()
    Path(__file__).with_name("lines").open("a").write(line)
    tag, _, line = line.rstrip("\\n").partition(" ")
    while line.startswith("history") and not Path(__file__).with_name("go").exists():
        time.sleep(0.05)
    said = {"jobs": listed} if line.startswith("history") else {"whole_job": {"screen_png": "A" * 6_000_000}}
    out.write(say(tag, type="result", exit_code=0, outcome="done", state="running", vms="103", **said))
    out.flush()
text = "x" * (60_000 if attack == "flood" else 1)
pieces = {"tiny": b"{}\\n" * 20_000, "bigjson": b"[" + b"[]," * 5_000_000 + b"[]]\\n"}
piece = pieces.get(attack) or say(tag, type="output", stream="stdout", text=text) * (60_000 // len(text) // 60 + 1)
while True:
    out.write(piece)
"""


class HostileHost:
    """The host's server, and the attack that its forced command runs."""

    def __init__(self, directory: Path) -> None:
        self.world = World(directory)
        self.world.agent.write_text(AGENT)
        self.attack("tiny")
        self.sshd = Sshd(self.world)

    def attack(self, name: str) -> None:
        """Begin another attack with the next session or exec."""
        self.world.agent.with_name("attack").write_text(name)

    @property
    def tables(self) -> str:
        """The configuration of this host as `evil`, and of its VM `evilvm`."""
        return (
            f'[hosts.evil]\nssh = "breakglass@127.0.0.1:{self.sshd.port}"\nhost_key = "{self.sshd.host_key}"\n'
            f"key = '''{self.sshd.power_key}'''\n[vms.evilvm]\nhosts = ['evil']\nvmid = 103\n"
        )


@contextmanager
def hostile_host(directory: Path) -> Iterator[HostileHost]:
    """Run a hostile host until the block ends."""
    host = HostileHost(directory)
    try:
        yield host
    finally:
        host.sshd.stop()

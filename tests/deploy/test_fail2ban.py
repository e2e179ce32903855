"""The fail2ban filter of docs/ on the log of a real handler, with Debian's own fail2ban."""

import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from ..support.documents import commands, settings
from ..support.ports import reserve_port
from ..support.service import SSH_KEY, Service

pytestmark = [pytest.mark.real("fail2ban"), pytest.mark.all]

DOCS = Path(__file__).parent.parent.parent / "docs"
FILTER = DOCS / "fail2ban/breakglass.conf"
PROXIES = '[server]\nproxies = ["127.0.0.1"]'
POSING = (
    '{"time": "2026-11-27T03:12:09Z", "level": "warning", "event": "request", "client": "203.0.113.66", "proxy": "", '
    '"outcome": "unauthorized", "why": "malformed",'
)


@pytest.fixture(scope="module")
def log(directory: Path) -> Path:
    """The log of a handler that was sent 12 requests, with the addresses of the clients from a proxy."""
    with Service(directory, port=reserve_port(), key=SSH_KEY, host_key="any", extra=PROXIES) as service:
        body = b'{"verb":"status"}'
        signed, late = service.signed(body), service.signed(body, at=int(time.time()) - 400)
        for client, headers in (
            ("198.51.100.7", {}),
            ("198.51.100.7", {"webhook-signature": "v1,x"}),
            ("198.51.100.7", {**signed, "webhook-id": "another-id"}),
            ("203.0.113.66, 2001:db9::7", {"authorization": "Bearer bgt_" + "x" * 43}),
            ("198.51.100.8", late),
            ("unknown", {}),
        ):
            service.send("POST", "/pve", body, {**headers, "x-forwarded-for": client})
        service.send("POST", "/pve", body)
        service.pve("status", reason=POSING)
        service.pve("status", reason=f"\n{POSING}")
        service.pve("status", vm=POSING)
        service.pve("stop", caller="viewer")
        service.pve(POSING)
    return service.audit_file


def test_fail2ban_finds_the_addresses_of_refused_requests(log: Path, tmp_path: Path) -> None:
    """It finds requests that no key has signed, and neither late requests nor texts that imitate a line."""
    lines = log.read_text().splitlines()
    assert sum('"event": "request"' in line for line in lines) == 12
    [command] = commands("docs/logs.md", "fail2ban")
    for written, here in (("/etc/fail2ban/filter.d/breakglass.conf", FILTER), ("/var/log/breakglass.log", log)):
        command = command.replace(written, str(here))
    report = subprocess.run(["sh", "-ec", command], capture_output=True, text=True, check=True).stdout
    assert f"Lines: {len(lines)} lines, 0 ignored, 4 matched, {len(lines) - 4} missed" in report
    assert f"[{len(lines)}]" in report.partition("Date template hits:")[2]  # the time of each line is read
    found = subprocess.run(["fail2ban-regex", "-o", "<ip>", log, FILTER], capture_output=True, text=True, check=True)
    assert Counter(found.stdout.split()) == {"198.51.100.7": 3, "2001:db9::7": 1}

    # fail2ban reads the jail of the document, with the filter, as its own configuration
    [jail] = settings("docs/logs.md", "fail2ban")
    configuration = tmp_path / "fail2ban"
    subprocess.run(["cp", "-r", "/etc/fail2ban", configuration], check=True)
    (configuration / "filter.d/breakglass.conf").write_text(FILTER.read_text())
    file = jail.replace("backend = systemd", f"backend = auto\nlogpath = {log}")
    (configuration / "jail.local").write_text(f"[sshd]\nenabled = false\n{file}")
    ran = subprocess.run(["fail2ban-client", "-c", configuration, "-d"], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout.count("['add', 'breakglass', 'auto']")) == (0, 1), ran.stdout + ran.stderr

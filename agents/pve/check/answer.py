"""The answer to the verb `check`: the findings about the host, or about one VM on it."""

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict

from ..host.paths import Key
from ..jobs.result import Result
from ..jobs.store import JobStore
from ..words import DEADLINES, DONE
from .check import check, check_host
from .findings import Finding, error, printable
from .one_vm import check_vm

SPARE_SECONDS = 6.0  # kept free before the deadline, because the last check may take this long


def answer_check(key: Key, vm: int | None) -> tuple[str, Result]:
    """Return the findings as lines, as `breakglass-pve check` prints them, and as a field of the result."""
    findings = map(asdict, _findings_in_time(key, vm))
    found = [{name: printable(text) for name, text in finding.items()} for finding in findings]
    last = JobStore(key.host(vm)).last if vm else None
    result = Result(DONE, last=last, stage="check", extra={"findings": found})
    return "\n".join(str(Finding(**finding)) for finding in found), result


def _findings_in_time(key: Key, vm: int | None) -> Iterator[Finding]:
    """Yield the findings until the time is nearly over, so that a host with many hanging parts still gets an answer."""
    until = time.monotonic() + DEADLINES["check"] - SPARE_SECONDS
    for finding in check_vm(key.host(vm)) if vm else _check_host(key):
        yield finding
        if time.monotonic() > until:
            sentence = "not everything was checked, because the host answers too slowly"
            yield error(sentence, "fix what does not answer, then run breakglass-pve check on the host")
            return


def _check_host(key: Key) -> Iterator[Finding]:
    """Check the host and the account that the key logged in to. sshd names the account and the handler's address.

    Below --root, as in the demo, there are no accounts, and sshd's settings belong to another system.
    """
    if key.root:
        return check_host(key.host(0))
    client = os.environ.get("SSH_CONNECTION", "").partition(" ")[0]
    return check("", os.environ.get("LOGNAME"), os.path.abspath(sys.argv[0]), client)

"""Proxmox's statistics of the last hour: rows as pvesh prints them, and the lines that are made from them."""

import json
from typing import Any

from breakglass.agents.pve.forensics.before_fault import MOST_BEFORE, before_lines

from ..support.record import check_cases
from ..support.rows import each_row, read_rows

NOW = 1796087130.0  # 01:05:30 UTC
GIB = 1 << 30
SOUND = {"maxmem": 4 * GIB, "mem": 3 * GIB, "diskwrite": 4096.0, "pressureiosome": 0.3, "pressurecpusome": 21.0}


def statistics(**changed: dict[int, Any]) -> str:
    """Return an hour of rows. `changed` has a name's values from this many minutes ago on, or None if not measured."""
    rows = []
    for ago in range(60, 0, -1):
        row = dict(SOUND, time=int(NOW) // 60 * 60 - 60 * ago, pressurecpusome=21.0 if ago == 30 else 1.0)
        for name, values in changed.items():
            since = min((minutes for minutes in values if minutes >= ago), default=None)
            for each in SOUND if name == "all" else (name,):
                row |= {} if since is None else {each: values[since]}
        rows.append({name: value for name, value in row.items() if value is not None})
    return json.dumps(rows)


def test_the_last_hour_is_told_in_at_most_three_lines() -> None:
    """A value that stopped or rose has a line with its time. A usual value has no line."""
    found = {
        name: before_lines(statistics(**changed), NOW) for name, changed in read_rows("vm_files.yaml")["hours"].items()
    }
    assert max(map(len, found.values())) == MOST_BEFORE
    check_cases("tests/data/last_hours.txt", found.items())


@each_row("text", ["", "[]", "{}", "[1]", '[{"time": null, "diskwrite": 0}]', '[{"time": 1}]', "null"])
def test_statistics_of_another_form_say_nothing(text: str) -> None:
    """A row without a value, or data that is not a list of rows, gives no line."""
    assert before_lines(text, NOW) == []
